"""One prepared folder and one small DeepNet trained on it, for the verbs that write or use models."""

from pathlib import Path

import pytest

from tests.opus100.road import prepared_folder, train_words, verb


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with DATA in `data` and a RUN of 60 updates in `run`."""
    folder = tmp_path_factory.mktemp("served")
    prepared_folder(folder)
    words = train_words(folder / "data", folder / "run", 60, "--residual", "deepnorm", "--share-all-embeddings")
    words[words.index("--arch") + 1] = "transformer_mt"
    assert verb(*words) == 0
    return folder

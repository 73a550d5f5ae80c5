"""One prepared folder and one trained model for all tests of train and evaluate; tests copy what they change."""

from pathlib import Path

import pytest

from tests.opus100.road import prepared_folder, train_words, verb


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA of the parallel corpus."""
    return prepared_folder(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of a tiny stock transformer after 60 updates on ``prepared``."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert verb(*train_words(prepared, run, 60)) == 0
    return run

"""One prepared folder and one trained model for all tests of train and evaluate; tests copy what they change."""

from pathlib import Path

import pytest

from tests.opus100.road import train_words, verb, write_parallel_corpus


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA of the parallel corpus."""
    folder = tmp_path_factory.mktemp("road")
    write_parallel_corpus(folder / "corpus")
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 200, "--workers", 1]
    assert verb("prepare", *words) == 0
    return folder / "data"


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of a tiny stock transformer after 60 updates on ``prepared``."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert verb(*train_words(prepared, run, 60)) == 0
    return run

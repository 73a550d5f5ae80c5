"""What many tests share."""

from pathlib import Path

import pytest

from tests.helpers import write_tiny_translation_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fairseq data directory of tiny sentences, one for each file of tests."""
    return write_tiny_translation_data(tmp_path_factory.mktemp("data"))

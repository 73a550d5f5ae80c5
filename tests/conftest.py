"""What many tests share."""

import signal
from pathlib import Path

import pytest

from tests.helpers import write_tiny_translation_data

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of what a shell puts into the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fairseq data directory of tiny sentences, one for each file of tests."""
    return write_tiny_translation_data(tmp_path_factory.mktemp("data"))

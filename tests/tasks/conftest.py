"""Texts and pairs that the tests of one file share."""

import shutil

import pytest

from .pretraining import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own(data, tmp_path):
    """A copy that the test may spoil."""
    return shutil.copytree(data, tmp_path / "own")

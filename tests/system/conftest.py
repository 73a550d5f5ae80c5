"""One world of good files for all tests of hostile input."""

from typing import Iterator

import pytest

from tests.hostile_support import World, make_world, snapshot


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once; commands are seen to leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        made = make_world(tmp_path_factory.mktemp("hostile") / "world", patch)
    yield made
    assert snapshot(made.root) == made.files

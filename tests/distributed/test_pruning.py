"""Expert pruning on two workers, resumed between: they let the same experts go as one worker that sees all batches."""

import pytest

from tests.distributed.ranks import train_on_ranks
from tests.helpers import checkpoint, run_fairseq, succeeded, train_words
from tests.models.test_pruning import EAGER, LAYERS, MODEL

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Balance losses of one worker are per batch, of two over both batches: without them the trainings are the same.
OPTIONS = [*EAGER, "--moe-balance-weight", "0", "--disable-validation"]


def decisions(process):
    """What the log says about experts that stay."""
    return [line.split(" | ")[-1] for line in process.stdout.splitlines() if " stay: " in line]


def test_two_workers_decide_as_one(data, tmp_path):
    words = train_words(data, tmp_path / "one", 7, *OPTIONS, "--update-freq", "2", model=MODEL)
    expected = decisions(succeeded(run_fairseq("train", *words)))
    assert len(expected) == 6
    found = []
    for updates in (3, 7):  # stopped inside a window: one worker saves what both have counted
        first, _ = train_on_ranks(data, tmp_path / "two", updates, *OPTIONS, "--ddp-backend", "legacy_ddp", model=MODEL)
        found += decisions(first)
    assert found == expected
    alive = [checkpoint(tmp_path / run)["model"][f"{layer}.alive"] for run in ("one", "two") for layer in LAYERS]
    assert [expert.nonzero().item() for expert in alive[:2]] == [expert.nonzero().item() for expert in alive[2:]]

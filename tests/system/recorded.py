"""What `recorded_train.py` recorded, and lives of a training that it ends."""

import json
import signal
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch

from tests.distributed.ranks import run_together
from tests.helpers import USER_DIR, checkpoint, succeeded

SCRIPT = Path(__file__).with_name("recorded_train.py")


def recorded_words(record: Path, death: str, words: Sequence[Any]) -> List[str]:
    """A process of its own."""
    return [sys.executable, str(SCRIPT), str(record), death, *map(str, words), "--user-dir", USER_DIR]


def live(record: Path, death: str, words: Sequence[Any]) -> str:
    """Run until it dies as planned, or to the end for ``never``; what it printed."""
    (process,) = run_together([recorded_words(record, death, words)])
    if death == "never":
        succeeded(process)
    else:
        assert process.returncode == -signal.SIGKILL, f"not killed at {death}:\n{process.stderr[-3000:]}"
    return process.stdout + process.stderr


def read_record(path: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_as_if_never_stopped(record: Path, straight: Path, run: Path, straight_run: Path, name: str) -> None:
    """Every update of every life had the batches and the loss of the training that lived once; so have the weights."""
    wanted = {line["update"]: line for line in read_record(straight)}
    found = read_record(record)
    assert found and all(line == wanted[line["update"]] for line in found)
    assert {line["update"] for line in found} == set(wanted)
    ours, theirs = checkpoint(run, name), checkpoint(straight_run, name)
    assert ours["model"].keys() == theirs["model"].keys()
    assert all(torch.equal(value, ours["model"][key]) for key, value in theirs["model"].items())

"""Every task of the package on 2 and on 4 gloo ranks that torchrun starts, from elsewhere, with an installed wheel."""

import json
import re
import shlex
import sys

import pytest

from tests.helpers import succeeded
from tests.system.installed import run
from tests.tasks.pretraining import write_data
from tests.tasks.tiny_trainings import TASKS, words_of

pytestmark = [pytest.mark.system, pytest.mark.distributed]

RANKED = "--distributed-rank $RANK --distributed-no-spawn --distributed-init-method env:// --distributed-backend gloo"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("task", TASKS)
def test_ranks_of_every_task(task, data, installation, tmp_path):
    """Two ranks with two batches each are four with one: the same losses, and the same numbers of each direction."""
    user_dir = run([installation / "python", "-m", "fairseq_plugins", "path"], tmp_path).stdout.strip()
    assert user_dir.startswith(str(installation.parent))
    words = [installation / "fairseq-train", *words_of(task, data), "--user-dir", user_dir, "--max-update", 3]
    logs = {ranks: trained(ranks, 4 // ranks, [*words, "--save-dir", tmp_path / f"run_{ranks}"], tmp_path)
            for ranks in (2, 4)}  # fmt: skip
    losses, valid = ({ranks: part[number] for ranks, part in logs.items()} for number in (0, 1))
    assert losses[4] == pytest.approx(losses[2], abs=2e-3) and len(losses[2]) == 3
    assert valid[4] == pytest.approx(valid[2], abs=5e-3)
    if task == "translation_multi_validated":
        directions = (data / "lang_pairs.txt").read_text().strip().split(",")
        assert valid[2].keys() >= {f"valid_{name}_{kind}" for name in directions for kind in ("nll_loss", "bleu")}


def trained(ranks, batches, words, folder):
    """Training losses by update, and the numbers of the last validation."""
    words = [*words, "--distributed-world-size", ranks, "--update-freq", batches]
    line = f"exec {shlex.join(map(str, words))} {RANKED}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "--no-python"]
    process = succeeded(run([*torchrun, "bash", "-c", line], folder))
    said = process.stdout + process.stderr
    inner = [json.loads(found) for found in re.findall(r"train_inner \| (\{.*\})", said)]
    valid = json.loads(re.findall(r"valid \| (\{.*\})", said)[-1])
    kept = {name: float(value) for name, value in valid.items() if name.endswith(("loss", "bleu"))}
    return {int(found["num_updates"]): float(found["loss"]) for found in inner}, kept

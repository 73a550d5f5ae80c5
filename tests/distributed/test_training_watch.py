"""Two gloo ranks: gradient bands are those of one rank, and both end together when the training diverges."""

import json
import re

import pytest

from tests.distributed.ranks import ranks_words, run_together, train_on_ranks
from tests.helpers import TINY_TRANSFORMER, checkpoint, run_fairseq, succeeded, train_words

MODEL = ["--arch", "transformer_mt", "--residual", "deepnorm", *TINY_TRANSFORMER[2:], "--gradient-bands", "1"]
OPTIONS = ["--optimizer", "sgd", "--lr", "0.5", "--max-tokens", "160"]

pytestmark = pytest.mark.distributed


def norms(process):
    """Gradient norms of the last update in the log."""
    line = json.loads(re.findall(r"train_inner \| (\{.*\})", process.stdout)[-1])
    return {key: float(value) for key, value in line.items() if "grad" in key or key == "gnorm"}


@pytest.mark.slow
def test_ranks_log_as_one_and_stop_together(data, tmp_path):
    words = train_words(data, tmp_path / "1", 3, *OPTIONS, "--update-freq", 2, model=MODEL)
    one = norms(succeeded(run_fairseq("train", *words)))
    ranks = train_on_ranks(data, tmp_path / "2", 3, *OPTIONS, model=MODEL)
    assert norms(ranks[0]) == pytest.approx(one, rel=1e-2, abs=1e-3) and len(one) == 3
    assert [process.stdout.count("self-check of the ") for process in ranks] == [2, 0]

    before = (tmp_path / "2/checkpoint_last.pt").read_bytes()
    words = ["--optimizer", "sgd", "--lr", 1e4, "--max-tokens", 160, "--save-interval-updates", 4]
    ranks = run_together(ranks_words(data, tmp_path / "2", 40, *words, model=MODEL))
    sentences = [process.stderr.splitlines()[-1] for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith("training diverged and was stopped at update 4: ")
    assert f"last good checkpoint: {tmp_path}/2/checkpoint_last.pt (update 3)" in sentences[0]
    assert (tmp_path / "2/checkpoint_last.pt").read_bytes() == before
    assert checkpoint(tmp_path / "2")["optimizer_history"][-1]["num_updates"] == 3

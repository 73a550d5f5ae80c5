"""Stock fairseq-train with spread experts: train on 2 ranks, evaluate on 1, go on with 2, 4 and 1."""

import re
import subprocess
import sys

import pytest
import torch

from tests.distributed.ranks import ranks_words, run_together, train_on_ranks
from tests.helpers import (
    TINY_TRANSFORMER,
    checkpoint,
    environment,
    run_fairseq,
    succeeded,
    train_words,
    training_losses,
)

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MODEL = [
    *("--arch", "transformer_mt", *TINY_TRANSFORMER[2:]),
    *"--moe-experts 4 --moe-freq 1 --moe-capacity-factor 0".split(),
    # No balance loss: it is taken over the batches that ranks have at the same time, so it differs between numbers of
    # ranks, and routers make large differences of small ones. tests/distributed/test_expert_parallel.py has it exactly.
    *"--criterion label_smoothed_cross_entropy_with_moe --moe-balance-weight 0 --clip-norm 0.5".split(),
]
SMALL = ["--max-tokens", 60]  # an epoch has 6 updates of 4 batches and one of the rest
AVERAGED = ["--store-ema", "--ema-decay", "0.9"]
SPREAD = ["--ddp-backend", "legacy_ddp", "--moe-expert-parallel-size"]
FC1 = "encoder.layers.0.feed_forward.experts.sublayers.0.fc1_weight"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Six uninterrupted updates on 2 ranks, 2 batches each per update, saved after the third: folder and losses."""
    run = tmp_path_factory.mktemp("trained")
    options = [*SMALL, *SPREAD, 2, "--update-freq", 2, "--save-interval-updates", 3, *AVERAGED]
    first, _ = train_on_ranks(data, run, 6, *options, model=MODEL)
    losses = training_losses(first)
    assert sorted(losses) == [1, 2, 3, 4, 5, 6] and losses[6] < losses[1] - 0.3
    (run / "log").write_text(first.stdout + first.stderr)
    return run, losses


def merge_experts(*words):
    words = [sys.executable, "-m", "fairseq_plugins", "merge-experts", *map(str, words)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """One file from those of both ranks, after the third update."""
    path = tmp_path_factory.mktemp("whole") / "checkpoint_last.pt"
    succeeded(merge_experts(trained[0] / "checkpoint_1_3.pt", "--output", path))
    return path


def test_every_rank_saves_its_experts_and_the_shared_rest(trained):
    run, _ = trained
    assert not (run / "checkpoint_last.pt").exists()
    zero, one = (checkpoint(run, f"checkpoint_last-rank-{rank}.pt") for rank in (0, 1))
    assert zero["model"].keys() == one["model"].keys()
    for name, tensor in zero["model"].items():
        assert torch.equal(tensor, one["model"][name]) != (".experts.sublayers." in name), name
    assert len(zero["model"][FC1]) == 2
    names = zero["extra_state"]["expert_shard"]["optimizer_parameters"]
    moment = zero["last_optimizer_state"]["state"][names.index(FC1)]["exp_avg"]
    assert moment.shape == zero["model"][FC1].shape


def test_two_ranks_learn_as_one(data, trained, tmp_path):
    """One rank, 4 batches per update."""
    process = run_fairseq("train", *train_words(data, tmp_path, 6, *SMALL, "--update-freq", "4", model=MODEL))
    assert training_losses(succeeded(process)) == pytest.approx(trained[1], abs=5e-3)


def test_two_ranks_go_on_as_if_never_interrupted(data, trained, tmp_path):
    run, losses = trained
    options = [*SMALL, *SPREAD, 2, "--update-freq", 2, *AVERAGED, "--restore-file", run / "checkpoint_1_3.pt"]
    first, _ = train_on_ranks(data, tmp_path, 6, *options, model=MODEL)
    assert training_losses(first) == {update: losses[update] for update in (4, 5, 6)}
    for rank in (0, 1):
        file = f"checkpoint_last-rank-{rank}.pt"
        resumed, straight = (checkpoint(folder, file) for folder in (tmp_path, run))
        for name, tensor in straight["model"].items():
            assert torch.equal(resumed["model"][name], tensor), name
            assert torch.equal(resumed["extra_state"]["ema"][name], straight["extra_state"]["ema"][name]), name


def test_four_ranks_go_on_from_two(data, trained, tmp_path):
    """The experts are divided anew, with their moments; 4 ranks see the batches that 2 would have seen.

    Layers are recomputed in the backward pass, so rows travel there too.
    """
    run, losses = trained
    divided = tmp_path / "divided" / "checkpoint_1_3.pt"
    divided.parent.mkdir()
    succeeded(merge_experts(run / "checkpoint_1_3.pt", "--ranks", 4, "--output", divided))
    assert len(checkpoint(divided.parent, "checkpoint_1_3-rank-3.pt")["model"][FC1]) == 1
    options = [*SMALL, *SPREAD, 4, "--restore-file", divided, "--checkpoint-activations"]
    first, *_ = train_on_ranks(data, tmp_path / "run", 6, *options, ranks=4, model=MODEL)
    found = training_losses(first)
    assert sorted(found) == [4, 5, 6]
    assert found == pytest.approx({update: losses[update] for update in (4, 5, 6)}, abs=5e-3)


def test_one_rank_goes_on_from_two(data, trained, whole, tmp_path):
    options = [*SMALL, "--update-freq", "4", "--restore-file", whole]
    process = run_fairseq("train", *train_words(data, tmp_path, 6, *options, model=MODEL))
    found = training_losses(succeeded(process))
    assert found == pytest.approx({update: trained[1][update] for update in (4, 5, 6)}, abs=5e-3)


def test_the_joined_file_validates_as_the_ranks_did(data, trained, tmp_path):
    run, _ = trained
    path = tmp_path / "best.pt"
    succeeded(merge_experts(*(run / f"checkpoint_last-rank-{rank}.pt" for rank in (1, 0)), "--output", path))
    words = [data, "--path", path, "--task", "translation", "--max-tokens", "60"]
    process = succeeded(run_fairseq("validate", *words))
    found = re.search(r"valid on 'valid' subset \| loss (\d+\.\d+)", process.stdout + process.stderr)
    expected = checkpoint(run, "checkpoint_last-rank-0.pt")["extra_state"]["val_loss"]
    assert float(found[1]) == pytest.approx(expected, abs=2e-3)


def test_joined_files_are_averaged_and_the_average_translates(data, trained, whole, tmp_path):
    last, average = tmp_path / "last.pt", tmp_path / "average.pt"
    succeeded(merge_experts(trained[0] / "checkpoint_last.pt", "--weights-only", "--output", last))
    assert "last_optimizer_state" not in checkpoint(tmp_path, "last.pt")
    words = [sys.executable, "-m", "fairseq_plugins", "average", str(whole), str(last), "--output", str(average)]
    succeeded(subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300))
    one, other = checkpoint(whole.parent, whole.name)["model"][FC1], checkpoint(tmp_path, "last.pt")["model"][FC1]
    torch.testing.assert_close(checkpoint(tmp_path, "average.pt")["model"][FC1], (one + other) / 2)
    process = run_fairseq("generate", data, "--path", average, "-s", "de", "-t", "en", "--max-len-b", "10")
    assert len(re.findall(r"^H-\d+\t", succeeded(process).stdout, re.MULTILINE)) == 11


def test_the_default_back_end_is_refused(data, tmp_path):
    for process in run_together(ranks_words(data, tmp_path, 1, "--moe-expert-parallel-size", 2, model=MODEL)):
        assert process.returncode == 1 and "Traceback" not in process.stderr
        assert "--moe-expert-parallel-size 2 needs --ddp-backend legacy_ddp" in process.stderr.splitlines()[-1]


def test_another_number_of_ranks_is_refused_with_the_command_that_helps(data, trained):
    """Stock fairseq would find no checkpoint_last.pt and start from nothing."""
    run, _ = trained
    process = run_fairseq("train", *train_words(data, run, 8, model=MODEL))
    assert process.returncode == 1 and "Traceback" not in process.stderr
    said = process.stderr.splitlines()[-1]
    assert said.startswith("this run needs a checkpoint with all experts")
    assert f"{run}/checkpoint_last-rank-0.pt is not" in said
    assert said.endswith(f"merge-experts {run}/checkpoint_last.pt --output NEW.pt")


def test_one_ranks_file_is_no_model(data, trained):
    words = [data, "--path", trained[0] / "checkpoint_last-rank-0.pt", "-s", "de", "-t", "en"]
    process = run_fairseq("generate", *words)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "--moe-expert-parallel-size 2 must be 1 or the number of processes, 1" in process.stderr
    assert "merge-experts" in process.stderr

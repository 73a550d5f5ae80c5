"""Two gloo ranks on the CPU train, resume, and equal one rank on the same global batch, under both DDP back-ends."""

import pytest
import torch

from tests.distributed.ranks import train_on_ranks
from tests.helpers import (
    TINY_TRANSFORMER,
    checkpoint,
    run_fairseq,
    succeeded,
    train_words,
    training_losses,
)

# Plain gradient descent: Adam divides by the gradient's size, which turns rounding noise in gradients that are zero by
# construction (key biases) into steps of full length. Small batches: an epoch has about ten of them.
OPTIONS = ["--optimizer", "sgd", "--lr", "0.5", "--max-tokens", "160"]

MODEL = ["--arch", "transformer_mt", "--residual", "deepnorm", *TINY_TRANSFORMER[2:]]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def one_rank(data, tmp_path_factory):
    """Losses and parameters of six uninterrupted updates on one rank, two batches per update."""
    run = tmp_path_factory.mktemp("one_rank")
    process = succeeded(run_fairseq("train", *train_words(data, run, 6, *OPTIONS, "--update-freq", "2", model=MODEL)))
    losses = training_losses(process)
    assert losses[6] < losses[1] - 0.1  # what the ranks must agree on is not the start
    return losses, checkpoint(run)["model"]


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_ranks_train_resume_and_equal_one_rank(backend, data, one_rank, tmp_path):
    losses, parameters = one_rank
    first, _ = train_on_ranks(data, tmp_path, 3, *OPTIONS, "--ddp-backend", backend, model=MODEL)
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == 3
    # rank 0 reads the file, and sends it to rank 1
    second, _ = train_on_ranks(data, tmp_path, 6, *OPTIONS, "--ddp-backend", backend, model=MODEL)
    assert {**training_losses(first), **training_losses(second)} == pytest.approx(
        losses, abs=2e-3
    )  # 3 digits in the log
    assert sorted(training_losses(second)) == [4, 5, 6]
    resumed = checkpoint(tmp_path)["model"]
    assert resumed.keys() == parameters.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(
            resumed[name], parameter, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text
        )

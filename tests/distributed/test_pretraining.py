"""Two gloo ranks pre-train as one does on the same batches: mT6, the pseudo-masked language model, ELECTRA, MiniLM."""

import pytest
import torch

from tests.distributed.ranks import run_together
from tests.helpers import checkpoint, fairseq_words, succeeded, training_losses
from tests.tasks.pretraining import write_data
from tests.tasks.tiny_trainings import PRETRAINING, words_of

SHORT = ["--max-update", 5, "--disable-validation"]
RANKS = "--distributed-world-size 2 --distributed-backend gloo --distributed-no-spawn".split()

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=PRETRAINING)
def one_rank(data, tmp_path_factory, request):
    run = tmp_path_factory.mktemp("one_rank")
    words = [*words_of(request.param, data), *SHORT, "--save-dir", run, "--update-freq", 2]
    (process,) = run_together([fairseq_words("train", *words)])
    return request.param, training_losses(succeeded(process)), checkpoint(run)["model"]


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_ranks_equal_one(backend, data, one_rank, tmp_path):
    task, losses, parameters = one_rank
    shared = [*RANKS, "--ddp-backend", backend, "--distributed-init-method", f"file://{tmp_path / 'meet'}"]
    words = [*words_of(task, data), *SHORT, "--save-dir", tmp_path / "run", *shared]
    first, _ = map(
        succeeded, run_together([fairseq_words("train", *words, "--distributed-rank", rank) for rank in range(2)])
    )
    assert training_losses(first) == pytest.approx(losses, abs=2e-3) and len(losses) == 5
    assert losses[5] < losses[1] - 0.1
    for name, parameter in checkpoint(tmp_path / "run")["model"].items():
        torch.testing.assert_close(parameter, parameters[name], atol=1e-5, rtol=1e-4)

"""Two gloo ranks pre-train as one does on the same batches: mT6, the pseudo-masked language model, ELECTRA, MiniLM."""

import pytest
import torch

from tests.distributed.ranks import run_together
from tests.helpers import TINY_TRANSFORMER, checkpoint, fairseq_words, succeeded, training_losses
from tests.tasks.pretraining import PretrainingTask, write_data

# Plain gradient descent, as in test_ddp_on_cpu.py
RECIPE = (
    "--cpu --seed 1 --num-workers 0 --tokens-per-sample 48 --max-tokens 200 --optimizer sgd --lr 0.5 --log-format json "
    "--log-interval 1 --max-update 5 --disable-validation"
).split()
ENCODER = ("--arch transformer_mlm_base --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 "
           "--encoder-attention-heads 2").split()  # fmt: skip
TASKS = {
    # two passes through a model before its gradients
    "mt6_pretraining": [*RECIPE, "--arch", "transformer_mt", *TINY_TRANSFORMER[2:]],
    # ranks have unequal numbers of masked tokens; at 0.5 the loss of this model grows within five updates
    "pseudo_masked_lm": [*RECIPE, "--arch", "unilmv2_tiny", "--encoder-layers", "2", "--dropout", "0",
                         "--attention-dropout", "0", "--lr", "0.03"],
    # replacements are drawn on each rank, and those of a batch are the same on any
    "electra": [*RECIPE, "--arch", "electra_tiny", "--encoder-layers", "2", "--dropout", "0",
                "--attention-dropout", "0", "--hardness", "loss", "--lr", "0.0005", "--texts", "mono,pairs"],
    # parts of the student get no gradient, and each rank reads the teacher
    "relation_distillation": [*RECIPE, *ENCODER, "--encoder-layers", "1", "--dropout", "0", "--attention-dropout", "0",
                              "--lr", "0.3", "--relation-heads", "4", "--teacher", "TEACHER"],
}  # fmt: skip
CRITERIONS = {"electra": "electra_hardness"}  # others have the task's name
RANKS = "--distributed-world-size 2 --distributed-backend gloo --distributed-no-spawn".split()

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def words_of(task, data):
    words = ["--task", task, "--criterion", CRITERIONS.get(task, task), *TASKS[task]]
    return [teacher_of(data) if word == "TEACHER" else word for word in words]


def teacher_of(data):
    """A masked language model that has learned nothing, made once."""
    run = data.parent / "teacher"
    if not run.exists():
        task = PretrainingTask("pseudo_masked_lm", [*ENCODER, "--encoder-layers", "2", "--objectives", "ae"])
        succeeded(task.train(data, run, 1))
    return run / "checkpoint_last.pt"


@pytest.fixture(scope="module", params=TASKS)
def one_rank(data, tmp_path_factory, request):
    run = tmp_path_factory.mktemp("one_rank")
    words = [*words_of(request.param, data), "--save-dir", run, "--update-freq", 2]
    (process,) = run_together([fairseq_words("train", data, *words)])
    return request.param, training_losses(succeeded(process)), checkpoint(run)["model"]


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_ranks_equal_one(backend, data, one_rank, tmp_path):
    task, losses, parameters = one_rank
    shared = [*RANKS, "--ddp-backend", backend, "--distributed-init-method", f"file://{tmp_path / 'meet'}"]
    words = [data, *words_of(task, data), "--save-dir", tmp_path / "run", *shared]
    first, _ = map(
        succeeded, run_together([fairseq_words("train", *words, "--distributed-rank", rank) for rank in range(2)])
    )
    assert training_losses(first) == pytest.approx(losses, abs=2e-3) and len(losses) == 5
    assert losses[5] < losses[1] - 0.1
    for name, parameter in checkpoint(tmp_path / "run")["model"].items():
        torch.testing.assert_close(parameter, parameters[name], atol=1e-5, rtol=1e-4)

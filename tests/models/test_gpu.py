"""Reduced precision on a GPU, through the real command. Skipped where there is none."""

import subprocess

import pytest
import torch

from tests.helpers import (
    REPOSITORY,
    checkpoint,
    environment,
    fairseq_words,
    succeeded,
    train_words,
    training_losses,
    write_tiny_translation_data,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SHAPE = "--{0}-layers 3 --{0}-embed-dim 64 --{0}-ffn-embed-dim 128 --{0}-attention-heads 4"
MODEL = ["--arch", "transformer_mt", *SHAPE.format("encoder").split(), *SHAPE.format("decoder").split()]


@pytest.mark.parametrize("residual", ["post", "deepnorm", "subln"])
@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--amp"], ["--bf16"]], ids=["fp32", "fp16", "amp", "bf16"])
def test_training_step_in_every_precision(tmp_path, precision, residual):
    data = write_tiny_translation_data(tmp_path / "data")
    words = train_words(data, tmp_path / "run", 30, "--lr", "0.003", *precision, model=[*MODEL, "--residual", residual])
    done = subprocess.run(
        fairseq_words("train", *words), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300
    )
    losses = list(training_losses(succeeded(done)).values())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.isfinite(weight).all() for weight in checkpoint(tmp_path / "run")["model"].values())

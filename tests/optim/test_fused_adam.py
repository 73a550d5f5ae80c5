import math

import pytest
import torch
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import OmegaConf
from torch.testing import assert_close

import fairseq_plugins
from fairseq_plugins.compat import Refusal
from tests.helpers import checkpoint, run_fairseq, succeeded, train_words, training_losses

fairseq_plugins.register()


def options(**changes):
    values = {"lr": [0.01], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8, "weight_decay": 0.1}
    return OmegaConf.create({**values, "use_old_adam": True, "tpu": False, "fp16_adam_stats": False, **changes})


def parameters(optimizer, steps=20, **changes):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(7, 3, generator=generator))
    built = OPTIMIZER_REGISTRY[optimizer](options(**changes), [parameter])
    for _ in range(steps):
        parameter.grad = torch.randn(7, 3, generator=generator)
        built.step()
    return parameter.detach()


def test_the_update_is_that_of_adam():
    assert_close(parameters("fused_adam"), parameters("adam"))


def test_first_step_by_hand():
    """Adam's first step is lr * sign(gradient), whatever the gradient's size; decay comes off first."""
    parameter = torch.nn.Parameter(torch.tensor([2.0, -2.0]))
    built = OPTIMIZER_REGISTRY["fused_adam"](options(), [parameter])
    parameter.grad = torch.tensor([5.0, -0.001])
    built.step()
    assert parameter.tolist() == pytest.approx([2 * (1 - 0.001) - 0.01, -2 * (1 - 0.001) + 0.01], rel=1e-5)
    assert math.isclose(built.get_lr(), 0.01)


def test_values_out_of_range_are_refused():
    with pytest.raises(Refusal, match="--optimizer fused_adam .*[Bb]eta"):
        parameters("fused_adam", adam_betas="(0.9, 1.5)")


def test_training_stops_and_goes_on_as_if_it_had_not(tmp_path, data):
    """Through fairseq-train: 6 updates in one go equal 3 and 3."""
    flags = ["--optimizer", "fused_adam", "--adam-betas", "(0.9, 0.98)", "--save-interval-updates", "3"]
    succeeded(run_fairseq("train", *train_words(data, tmp_path / "whole", 6, *flags)))
    for updates in (3, 6):
        log = succeeded(run_fairseq("train", *train_words(data, tmp_path / "parts", updates, *flags)))
    assert sorted(training_losses(log)) == [4, 5, 6]
    whole, parts = (checkpoint(tmp_path / run)["model"] for run in ("whole", "parts"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_weights_in_half_precision_are_refused():
    with pytest.raises(Refusal, match="--memory-efficient-bf16 give --optimizer adam"):
        built = OPTIMIZER_REGISTRY["fused_adam"](options(), [torch.nn.Parameter(torch.zeros(2))])
        assert built.supports_memory_efficient_fp16

"""The norm without mean and bias."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fairseq_plugins.modules.rms_norm import RMSNorm


def norm(dim=6):
    torch.manual_seed(0)
    module = RMSNorm(dim).double()
    nn.init.normal_(module.weight)
    return module


def test_against_the_formula_and_torch():
    module, x = norm(), torch.randn(2, 3, 6).double()
    assert_close(module(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight)
    assert_close(module(x), nn.RMSNorm.forward(module, x))
    assert set(module.state_dict()) == {"weight"} and module.eps == 1e-6


def test_it_is_a_layer_norm_where_the_mean_is_zero():
    x = torch.randn(4, 6)
    x -= x.mean(-1, keepdim=True)
    assert_close(RMSNorm(6)(x), nn.LayerNorm(6, eps=1e-6)(x))
    assert not torch.allclose(RMSNorm(6)(x + 1), nn.LayerNorm(6, eps=1e-6)(x + 1))


def test_gradients():
    module, x = norm(), torch.randn(2, 3, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight: torch.func.functional_call(module, {"weight": weight}, x),
                                    (x, module.weight))  # fmt: skip
    module(x * 0).sum().backward()
    assert x.grad.isfinite().all() and module.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_squares_in_single(dtype):
    """300 squared is no number of float16."""
    x = torch.full((2, 6), 300.0, dtype=dtype)
    assert_close(RMSNorm(6).to(dtype)(x), torch.ones(2, 6, dtype=dtype))
    with torch.autocast("cpu", dtype=dtype):
        assert_close(RMSNorm(6)(x), torch.ones(2, 6, dtype=dtype))

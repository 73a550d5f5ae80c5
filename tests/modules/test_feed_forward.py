"""The gated feed-forward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fairseq_plugins.modules.feed_forward import FeedForward


def test_a_gate_of_ones_is_the_plain_feed_forward():
    torch.manual_seed(0)
    gated = FeedForward(6, 10, activation=F.gelu, gated=True, inner_norm=nn.LayerNorm(10))
    plain = FeedForward(6, 10, activation=F.gelu, inner_norm=nn.LayerNorm(10))
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if "gate" not in name})
    nn.init.zeros_(gated.fc_gate.weight)
    nn.init.ones_(gated.fc_gate.bias)
    x = torch.randn(2, 3, 6)
    assert_close(gated(x)[0], plain(x)[0], rtol=0, atol=0)


def test_the_gate_written_out():
    torch.manual_seed(0)
    gated = FeedForward(6, 10, activation=F.gelu, gated=True)
    x = torch.randn(2, 3, 6)
    weights = {name: getattr(gated, name).weight for name in ("fc1", "fc2", "fc_gate")}
    assert_close(gated(x)[0], (F.gelu(x @ weights["fc1"].T) * (x @ weights["fc_gate"].T)) @ weights["fc2"].T)


def test_dropout_comes_after_the_product():
    gated = FeedForward(4, 50, activation=F.gelu, gated=True, dropout=0.5)
    nn.init.ones_(gated.fc_gate.bias)
    dropped = []
    gated.fc2.register_forward_pre_hook(lambda _, x: dropped.append(x[0]))
    gated(torch.randn(3, 4))
    assert 0.3 < dropped[0].eq(0).float().mean() < 0.7


@pytest.mark.parametrize("gain", [1.0, 0.4])
def test_the_gate_starts_as_fc1(gain):
    gated = FeedForward(300, 700, activation=F.gelu, gain=gain, gated=True)
    for linear in (gated.fc1, gated.fc_gate, gated.fc2):
        assert linear.weight.std().item() == pytest.approx(gain * (2 / 1000) ** 0.5, rel=0.01)
        assert not linear.bias.any()


def test_without_a_gate_there_is_no_trace_of_it():
    assert set(FeedForward(4, 8, activation=F.relu).state_dict()) == {
        f"{linear}.{kind}" for linear in ("fc1", "fc2") for kind in ("weight", "bias")
    }

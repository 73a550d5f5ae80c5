import pytest
import torch
from torch.nn import functional as F

from fairseq_plugins.modules.moe.experts import Experts
from fairseq_plugins.modules.residual import residual_schemes


def build(residual="post", experts=4, **options):
    torch.manual_seed(5)
    scheme = residual_schemes(residual, 6, 0).encoder
    return Experts(300, 700, experts, activation=F.relu, scheme=scheme, **options)


@pytest.mark.parametrize("residual, gain", [("post", 1.0), ("deepnorm", 48**-0.25), ("subln", 1.5763)])
def test_every_expert_starts_as_a_dense_feed_forward(residual, gain):
    sublayer = build(residual).sublayers[0]
    for weights in (sublayer.fc1_weight, sublayer.fc2_weight):
        for weight in weights:
            assert weight.std().item() == pytest.approx(gain * (2 / 1000) ** 0.5, rel=0.02)
    assert not sublayer.fc1_bias.any() and not sublayer.fc2_bias.any()
    assert (sublayer.inner_norm is not None) == (residual == "subln")


def test_experts_are_drawn_from_their_global_number():
    whole = build(sublayers=2, own_residual=True)
    assert not torch.equal(whole.sublayers[0].fc1_weight[0], whole.sublayers[0].fc1_weight[1])
    part = build(sublayers=2, own_residual=True, local=range(2, 4))
    for name, parameter in part.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name)[2:4]), name


def test_one_number_is_drawn_however_many_experts_there_are():
    states = []
    for options in ({}, {"local": range(1)}, {"sublayers": 3}):
        build(**options)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)

"""Buckets of T5's relative positions by hand and by its formula; both ways to a bias agree."""

import math

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.modules.attention_masks import FORBIDDEN, causal_mask, masked_bias
from fairseq_plugins.modules.relative_positions import RelativePositionBias


def bias(*, bidirectional=True, buckets=32, max_distance=128, heads=3):
    torch.manual_seed(0)
    return RelativePositionBias(
        buckets, heads, max_distance=max_distance, bidirectional=bidirectional, dim=16
    ).double()


def found(module, distances):
    return dict(zip(distances, module.buckets(torch.tensor(distances)).tolist(), strict=True))


def test_buckets_both_ways_by_hand():
    expected = {0: 0, -1: 1, 1: 17, -7: 7, -8: 8, 16: 26, -32: 12, 64: 30, -127: 15, 500: 31, -500: 15, 7: 23, 8: 24}
    assert found(bias(), list(expected)) == expected


def test_buckets_one_way_by_hand():
    """Keys after the query share bucket 0 with the query itself: the mask hides them."""
    expected = {0: 0, 5: 0, -1: 1, -15: 15, -16: 16, -18: 16, -19: 17, -127: 31, -128: 31, -1000: 31}
    assert found(bias(bidirectional=False), list(expected)) == expected


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (32, 20), (8, 100), (64, 512), (4, 3)])
def test_buckets_by_the_formula(bidirectional, buckets, max_distance):
    module = bias(bidirectional=bidirectional, buckets=buckets, max_distance=max_distance)
    for distance, bucket in found(module, list(range(-600, 601))).items():
        count, first = buckets, 0
        if bidirectional:
            count, first, n = buckets // 2, buckets // 2 * (distance > 0), abs(distance)
        else:
            n = max(-distance, 0)
        exact = count // 2
        if n < exact:
            expected = n
        else:
            grown = math.log(n / exact) / math.log(max_distance / exact) * (count - exact)
            expected = min(exact + math.floor(grown + 1e-9), count - 1)  # a logarithm may miss a whole number
        assert bucket == first + expected, distance


@pytest.mark.parametrize("bidirectional", [True, False])
def test_tokens_in_line_have_the_bias_of_their_numbers(bidirectional):
    module = bias(bidirectional=bidirectional)
    line = module.of_line(200, 200)
    assert line.shape == (1, 3, 200, 200)
    assert torch.equal(line, module(torch.arange(200)[None]))
    assert torch.equal(line, module(torch.arange(40, 240)[None])), "only differences count"
    for query, key in ((0, 0), (3, 1), (1, 3), (5, 199), (199, 0)):
        bucket = module.buckets(torch.tensor(key - query))
        assert torch.equal(line[0, :, query, key], module.weight[bucket])
    assert torch.equal(module.of_line(5, 200), line[:, :, -5:]), "the last queries, as in decoding"
    assert torch.equal(module.of_line(1, 200), line[:, :, -1:])
    gradients = []
    for made in (line, module(torch.arange(200)[None])):
        module.zero_grad()
        (made * made.detach().cos()).sum().backward()
        gradients.append(module.weight.grad.clone())
    assert_close(gradients[0], gradients[1])


def test_tokens_that_share_a_position_share_their_bias():
    module = bias()
    shared = module(torch.tensor([[0, 1, 2, 1], [0, 1, 2, 3]]))
    assert shared.shape == (2, 3, 4, 4)
    assert torch.equal(shared[0, :, 1, 3], module.weight[0]), "distance 0 of two tokens"
    assert torch.equal(shared[0, :, 3], shared[0, :, 1]) and torch.equal(shared[0, :, :, 3], shared[0, :, :, 1])
    assert torch.equal(shared[1], module.of_line(4, 4)[0])


def test_start_and_state():
    table = RelativePositionBias(32, 400, max_distance=128, bidirectional=True, dim=64)
    assert table.weight.std().item() == pytest.approx(1 / 8, rel=0.03)
    assert list(table.state_dict()) == ["weight"]


def test_a_mask_joins_the_bias():
    values = torch.tensor([[0.5, -0.5], [1.5, 2.5]])[None, None]
    joined = masked_bias(values, causal_mask(2, 2, values.device))
    assert joined.tolist() == [[[[0.5, FORBIDDEN], [1.5, 2.5]]]]
    assert masked_bias(values, None) is values
    assert torch.tensor(FORBIDDEN).half().isfinite() and torch.tensor(FORBIDDEN).exp() == 0


@pytest.mark.parametrize("buckets, max_distance, says", [(0, 128, "0 buckets"), (6, 128, "6"), (32, 16, "at most 16")])
def test_what_no_buckets_are_made_of(buckets, max_distance, says):
    with pytest.raises(ValueError, match=says):
        bias(buckets=buckets, max_distance=max_distance)

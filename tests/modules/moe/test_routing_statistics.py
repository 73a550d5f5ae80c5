"""Measures of routing by hand values and by the formulas written out with plain means."""

import math

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.modules.moe.routing_statistics import (
    ClassMoments,
    changed_tokens,
    inter_run_consistency,
    load,
    representation_collapse,
)


def moments_of(x_ND, label_N, classes, batches=1):
    moments = ClassMoments(x_ND.size(1), classes)
    for x, label in zip(x_ND.chunk(batches), label_N.chunk(batches), strict=True):
        moments.add(x, label)
    return moments


def test_load_counts_living_choices():
    expert_NK = torch.tensor([[0, 2], [2, 1], [2, 0]])
    living_NK = torch.tensor([[True, True], [True, False], [False, True]])
    assert load(expert_NK, living_NK, 4).tolist() == [2, 0, 2, 0]


def test_changed_tokens_compares_first_choices():
    now = torch.tensor([[0, 1], [2, 1], [2, 0], [1, 3]])
    before = torch.tensor([[0], [1], [2], [3]])
    assert changed_tokens(now, before) == 2
    assert changed_tokens(now, now.flip(1)) == 4
    with pytest.raises(ValueError, match="4 tokens cannot be compared with 3"):
        changed_tokens(now, before[:3])


def test_consistency_by_hand():
    """Run 2 has run 1's order twice as large: correlation 1; run 3 is its reverse: -1."""
    load_mE = torch.tensor([[1, 2, 3], [2, 4, 6], [3, 2, 1]])
    assert inter_run_consistency(load_mE) == pytest.approx((3 + 2 - 2 - 2) / 9)
    assert inter_run_consistency(load_mE[:1]) == pytest.approx(1)
    assert inter_run_consistency(torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0]])) == pytest.approx(1 / 2)  # unrelated
    assert math.isnan(inter_run_consistency(torch.tensor([[1, 2], [5, 5]])))


def test_consistency_is_the_mean_of_pearsons_matrix():
    load_mE = torch.randint(0, 1000, (5, 8), generator=torch.Generator().manual_seed(0))
    assert inter_run_consistency(load_mE) == pytest.approx(torch.corrcoef(load_mE.double()).mean().item())


def test_collapse_by_hand():
    """Classes at -1 and 1 on the first axis, spread +-3 and +-1 on it, +-5 on the second, where the means agree.

    Within: (9 + 9 + 1 + 1) / 4 = 5 on the first axis. Between: 1. The second axis has no between: pinv leaves it.
    """
    x_ND = torch.tensor([[-4.0, 5], [2, -5], [0, 5], [2, -5]])
    label_N = torch.tensor([0, 0, 2, 2])
    within, between = moments_of(x_ND, label_N, 3).scatter()
    assert_close(within, torch.tensor([[5.0, -10], [-10, 25]], dtype=torch.float64))
    assert_close(between, torch.tensor([[1.0, 0], [0, 0]], dtype=torch.float64))
    assert representation_collapse(moments_of(x_ND, label_N, 3)) == pytest.approx(5)


def test_classes_of_unequal_size_are_apart_from_the_mean_of_all_vectors():
    """Three vectors at 0 and one at 4: mean 1, between ((0 - 1)^2 + (4 - 1)^2) / 2 = 5, within 0."""
    within, between = moments_of(torch.tensor([[0.0], [0], [0], [4]]), torch.tensor([1, 1, 1, 0]), 2).scatter()
    assert within.item() == pytest.approx(0) and between.item() == pytest.approx(5)


def written_out(x_ND, label_N):
    """The definition, class by class and vector by vector."""
    x_ND = x_ND.double()
    present = label_N.unique().tolist()
    mean_D = x_ND.mean(dim=0)
    within = torch.zeros(x_ND.size(1), x_ND.size(1), dtype=torch.float64)
    between = within.clone()
    for label in present:
        members = x_ND[label_N == label]
        for x_D in members:
            within += torch.outer(x_D - members.mean(dim=0), x_D - members.mean(dim=0)) / len(x_ND)
        apart_D = members.mean(dim=0) - mean_D
        between += torch.outer(apart_D, apart_D) / len(present)
    return torch.trace(within @ torch.linalg.pinv(between)).item()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("batches", [1, 7])
def test_collapse_is_the_written_out_definition(offset, batches):
    """More dimensions than classes, an empty class, float32 input far from 0."""
    generator = torch.Generator().manual_seed(1)
    label_N = torch.randint(0, 4, (203,), generator=generator)
    label_N[label_N == 2] = 4
    x_ND = torch.randn(203, 12, generator=generator) + 0.1 * label_N[:, None] * torch.arange(12) + offset
    found = representation_collapse(moments_of(x_ND, label_N, 6, batches))
    assert found == pytest.approx(written_out(x_ND, label_N), rel=1e-8)


def test_collapse_ignores_scale_and_falls_when_classes_shrink_to_points():
    generator = torch.Generator().manual_seed(2)
    label_N = torch.arange(90) % 3
    centre_ND = torch.randn(3, 8, generator=generator)[label_N]
    noise_ND = torch.randn(90, 8, generator=generator)
    loose, tight = (moments_of(centre_ND + spread * noise_ND, label_N, 3) for spread in (1.0, 0.1))
    assert representation_collapse(loose) > 10 * representation_collapse(tight) > 0
    scaled = moments_of(50 * (centre_ND + noise_ND), label_N, 3)
    assert representation_collapse(scaled) == pytest.approx(representation_collapse(loose), rel=1e-5)


@pytest.mark.parametrize("label", [[], [1, 1]])
def test_one_expert_has_no_collapse_measure(label):
    assert math.isnan(representation_collapse(moments_of(torch.randn(len(label), 3), torch.tensor(label).long(), 2)))

import math

import pytest
import torch

from fairseq_plugins.modules.moe.clusters import cluster_variance, surviving_experts
from fairseq_plugins.modules.moe.router_losses import balance_loss, load_entropy

PROBABILITIES = torch.tensor([0.4, 0.2, 0.3, 0.1])


def test_variance_by_hand():
    whole = (0.15**2 + 0.05**2 + 0.05**2 + 0.15**2) / 3
    inside = (2 * 0.1**2 + 2 * 0.1**2) / 2
    gap = (0.4 + 0.3) / 2 - (0.2 + 0.1) / 2
    assert cluster_variance(PROBABILITIES, 2, 0).item() == pytest.approx(whole)
    assert cluster_variance(PROBABILITIES, 2, 1).item() == pytest.approx(inside)
    assert cluster_variance(PROBABILITIES, 2, 2).item() == pytest.approx(inside / math.exp(gap))


def test_experts_that_do_not_fill_the_clusters_are_one_cluster():
    three = PROBABILITIES[:3]
    assert cluster_variance(three, 2, 1).item() == pytest.approx(three.var().item())
    assert cluster_variance(three[:1], 2, 1) == 0
    assert cluster_variance(PROBABILITIES, 4, 1).item() == pytest.approx(PROBABILITIES.var().item())  # one in each


@pytest.mark.parametrize("rate, kept", [(0.0, 8), (0.1, 7), (0.5, 4), (0.99, 1)])
def test_survivors(rate, kept):
    alive = surviving_experts(64, 8, rate, seed=1).view(8, 8)
    assert alive.sum(dim=1).tolist() == [kept] * 8
    assert (alive == alive[0]).all()
    assert torch.equal(alive.view(-1), surviving_experts(64, 8, rate, seed=1))


def test_draws_differ():
    draws = {tuple(surviving_experts(64, 8, 0.5, seed=seed).tolist()) for seed in range(20)}
    assert len(draws) > 10


def test_balance_loss_by_hand():
    share, mean = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.6, 0.3, 0.1])
    assert balance_loss(share, mean, 3).item() == pytest.approx(3 * (0.3 + 0.075 + 0.025))
    uniform = torch.full((3,), 1 / 3)
    assert balance_loss(uniform, uniform, 3).item() == pytest.approx(1)
    below = balance_loss(torch.tensor([1 / 3, 2 / 3]), torch.tensor([0.66, 0.34]), 2)
    assert below.item() == pytest.approx(0.893, abs=1e-3)  # uniform is not the minimum


def test_load_entropy_by_hand():
    assert load_entropy(torch.tensor([2.0, 2.0, 0.0])).item() == pytest.approx(math.log(2))
    assert load_entropy(torch.tensor([5, 0, 0])) == 0
    assert load_entropy(torch.zeros(3)) == 0

"""Expert clusters (MoEC, arXiv 2207.09094): contiguous blocks of experts that act alike, and drop out together."""

import torch
from torch import Tensor

# E experts, A living experts, G clusters
VARIANCE_TYPES = (0, 1, 2)


def cluster_variance(mean_A: Tensor, clusters: int, kind: int) -> Tensor:
    """How unevenly mean routing probability is spread, a scalar: the term that MoEC adds to the balance loss.

    As the released code does it: type 0, or living experts that do not fill the clusters evenly: the unbiased variance
    over all of them. Type 1: the mean over clusters of the variance inside. Type 2: type 1 / exp(D), where D is the
    mean of the A/G largest probabilities minus the mean of the next A/G.

    Args:
        mean_A: probability of each living expert, mean over tokens; keeps its gradient.
        clusters: number of contiguous clusters G.
        kind: 0, 1 or 2.
    """
    alive = len(mean_A)
    if alive < 2:
        return mean_A.sum() * 0.0
    size = alive // clusters
    if kind == 0 or alive % clusters or size < 2:
        return mean_A.var()
    inside = mean_A.view(clusters, size).var(dim=1).mean()
    if kind == 1 or clusters < 2:
        return inside
    ranked = mean_A.sort(descending=True).values
    return inside / (ranked[:size].mean() - ranked[size : 2 * size].mean()).exp()


def survivors_of_cluster(size: int, rate: float) -> int:
    """How many of the `size` experts of a cluster stay when `rate` of them, in [0, 1), drop out: at least one."""
    return max(1, int((1 - rate) * size + 1e-9))


def surviving_experts(experts: int, clusters: int, rate: float, seed: int) -> Tensor:
    """Which experts a cluster-level dropout leaves, (E,) bool: the same places in every cluster, at least one.

    Args:
        experts: E, a multiple of `clusters`.
        clusters: G.
        rate: share of every cluster that is dropped, in [0, 1).
        seed: equal seeds draw equal places on every machine.
    """
    size = experts // clusters
    kept = survivors_of_cluster(size, rate)
    places = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:kept]
    alive = torch.zeros(clusters, size, dtype=torch.bool)
    alive[:, places] = True
    return alive.view(-1)

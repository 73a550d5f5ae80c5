"""What a router's decisions say about it: load, and the three measures of X-MoE (arXiv 2204.09179).

They are representation collapse, routing fluctuation between two checkpoints, and consistency between runs.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

# N tokens, K chosen experts, D dimension of what the router reads, E experts, m runs


def load(expert_NK: Tensor, living_NK: Tensor, experts: int) -> Tensor:
    """How often each expert was chosen, (E,) long.

    Args:
        expert_NK: chosen experts, long.
        living_NK: bool, False for a choice that is none.
        experts: E.
    """
    return torch.bincount(expert_NK[living_NK], minlength=experts)


def changed_tokens(expert_NK: Tensor, previous_NK: Tensor) -> int:
    """Tokens whose first choice differs between two checkpoints; their share is X-MoE's routing fluctuation.

    Args:
        expert_NK: chosen experts, best first.
        previous_NK: what another checkpoint chose for the same tokens in the same order; its K may differ.
    Raises:
        ValueError: not as many tokens.
    """
    if len(expert_NK) != len(previous_NK):
        raise ValueError(f"{len(expert_NK)} tokens cannot be compared with {len(previous_NK)}")
    return int((expert_NK[:, 0] != previous_NK[:, 0]).sum())


def inter_run_consistency(load_mE: Tensor) -> float:
    """Mean of Pearson's correlation over all ordered pairs of runs, each with itself among them (X-MoE).

    Args:
        load_mE: tokens per expert in m trainings that differ in their seed, on the same inputs.
    Returns:
        1 / m for runs without relation up to 1 for equal ones; nan where a run uses all experts evenly, which has no
        correlation with anything.
    """
    deviation_mE = load_mE.double() - load_mE.double().mean(dim=1, keepdim=True)
    unit_mE = deviation_mE / deviation_mE.norm(dim=1, keepdim=True)
    return float((unit_mE @ unit_mE.T).mean())


class ClassMoments:
    """Sums over labelled vectors, batch after batch in float64, that scatter matrices are made of.

    Args:
        dim: D.
        classes: number of labels.
        device: where the sums are kept.
    """

    def __init__(self, dim: int, classes: int, device: Optional[torch.device] = None):
        self.count = torch.zeros(classes, dtype=torch.float64, device=device)
        self.sum = torch.zeros(classes, dim, dtype=torch.float64, device=device)
        self.square = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self.origin: Optional[Tensor] = None

    def add(self, x_ND: Tensor, label_N: Tensor) -> None:
        """Count a batch: vectors and the class of each, long."""
        if not len(x_ND):
            return
        x_ND = x_ND.double()
        if self.origin is None:  # scatter does not depend on it, but a difference of large sums would lose digits
            self.origin = x_ND.mean(dim=0)
        x_ND = x_ND - self.origin
        self.count += torch.bincount(label_N, minlength=len(self.count))
        self.sum.index_add_(0, label_N, x_ND)
        self.square += x_ND.T @ x_ND

    def scatter(self) -> Tuple[Tensor, Tensor]:
        """Covariance within classes and between their means, (D, D) each (Zhu et al. 2021, arXiv 2105.02375).

        Within: mean over all vectors. Between: mean over the classes that have vectors, around the mean of all vectors.
        """
        total = self.count.sum()
        there = self.count > 0
        mean_CD = self.sum[there] / self.count[there, None]
        within = (self.square - mean_CD.T @ (self.count[there, None] * mean_CD)) / total
        apart_CD = mean_CD - self.sum.sum(dim=0) / total
        return within, apart_CD.T @ apart_CD / len(apart_CD)


def representation_collapse(moments: ClassMoments) -> float:
    """RC = Tr(within pinv(between)) of what a router reads, grouped by the expert it chose (X-MoE).

    Larger means less collapse: tokens of one expert stay different. The paper does not say what a class is; ours is the
    expert of the first choice.

    Returns:
        at least 0; nan where fewer than two experts have tokens.
    """
    if int((moments.count > 0).sum()) < 2:
        return float("nan")
    within, between = moments.scatter()
    return float((within * torch.linalg.pinv(between, hermitian=True)).sum())

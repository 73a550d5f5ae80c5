"""Losses and statistics of one routed layer, packed into one vector: recomputation and replication carry tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

# N tokens, E experts
SCALARS = ("balance", "cluster", "dropped", "load_max", "load_entropy", "gate", "temperature")


class RouterReport(NamedTuple):
    """What one MoE layer tells criterions and pruning about one pass. Statistics carry no gradient."""

    balance: Tensor  # loss, 1 when tokens and probabilities are uniform
    cluster: Tensor  # loss, MoEC's variance term; 0 without clusters
    dropped: Tensor  # share of choices that no expert computed, for want of capacity
    load_max: Tensor  # choices of the busiest expert over the mean, of all workers in training
    load_entropy: Tensor  # of the choices over experts, in nats, of all workers in training
    gate: Tensor  # mean gate value of the first choice
    temperature: Tensor  # of a cosine router, else 1
    load_E: Tensor  # this worker's choices per expert, before capacity
    gate_sum_E: Tensor  # this worker's gate values summed by expert

    def pack(self) -> Tensor:
        """One vector of 7 + 2E numbers in the precision of the losses, float32 or float64."""
        scalars = torch.stack([getattr(self, name).to(self.balance.dtype) for name in SCALARS])
        return torch.cat([scalars, self.load_E.to(scalars.dtype), self.gate_sum_E.to(scalars.dtype)])

    @classmethod
    def unpack(cls, vector: Tensor) -> "RouterReport":
        """The report that `pack` made a vector of."""
        load_E, gate_sum_E = vector[len(SCALARS) :].chunk(2)
        scalars = dict(zip(SCALARS, vector[: len(SCALARS)].unbind(), strict=True))
        return cls(**scalars, load_E=load_E, gate_sum_E=gate_sum_E)


def balance_loss(share_E: Tensor, mean_E: Tensor, alive: int) -> Tensor:
    """E * sum_e f_e P_e (Switch, arXiv 2101.03961, equation 4; X-MoE, Section 3.3), a scalar.

    Args:
        share_E: f, share of tokens whose first choice is e, without gradient.
        mean_E: P, mean probability of e, with gradient.
        alive: number of living experts, which takes the place of E.
    """
    return alive * (share_E * mean_E).sum()


def load_entropy(load_E: Tensor) -> Tensor:
    """Entropy of the load in nats: log E when all experts get the same, 0 when one gets everything."""
    share_E = load_E / load_E.sum().clamp(min=1)
    return torch.special.entr(share_E).sum()

"""Variances of estimates by importance sampling: from samples, and exactly over a vocabulary that can be enumerated.

Something is drawn from p_S and its value v is weighed by p_G / p_S: the mean is that of v under p_G, whatever p_S is
(arXiv 2106.13715). All computations are in float64.
"""

from typing import NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_plugins.opus100.bootstrap import SEED, Interval, interval

# V symbols, P numbers of one sample, B things to resample: batches or places
RESAMPLED = 2000


class Moments:
    """Mean and variance of vectors of any length that come one by one and are not kept."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.sum_P = torch.zeros((), dtype=torch.float64)

    def add(self, x_P: Tensor) -> None:
        """One more sample, (P,) or a scalar."""
        x_P = x_P.detach().double()
        self.count += 1
        self.sum_P = self.sum_P + x_P
        self.squares += float(x_P.square().sum())

    @property
    def mean_P(self) -> Tensor:
        return self.sum_P / self.count

    @property
    def variance(self) -> float:
        """Trace of the covariance, E|x|^2 - |E x|^2, without bias from at least two samples."""
        return (self.squares - self.count * float(self.mean_P.square().sum())) / (self.count - 1)


class Exact(NamedTuple):
    """What an estimate does on average, over all that can be drawn."""

    mean: float
    variance: float


def weights(p_target_V: Tensor, p_drawn_V: Tensor) -> Tensor:
    """Importance weights (V,): p_target / p_drawn, and 0 for what neither has."""
    return torch.where(p_target_V > 0, p_target_V / p_drawn_V, torch.zeros_like(p_target_V))


def exact(p_drawn_V: Tensor, value_V: Tensor) -> Exact:
    """Of a value, weights included, of what is drawn from `p_drawn_V`; what is never drawn counts nothing."""
    drawn = p_drawn_V > 0
    p, value = p_drawn_V[drawn], value_V[drawn]
    mean = (p * value).sum()
    return Exact(float(mean), float((p * (value - mean).square()).sum()))


def exact_gradient(p_target_V: Tensor, p_drawn_V: Tensor, square_V: Tensor, square_of_mean: float) -> float:
    """Variance (trace of the covariance) of a weighted gradient.

    Args:
        p_target_V, p_drawn_V: p_G, p_S.
        square_V: |g|^2 of each symbol.
        square_of_mean: |E g|^2 under p_target.
    """
    return float((p_target_V * weights(p_target_V, p_drawn_V) * square_V).sum()) - square_of_mean


def best(p_target_V: Tensor, value_V: Tensor) -> Tensor:
    """The p_S whose weighted values vary least: p_target |value|, normalised; of a loss that is p_S*, its variance 0.

    For gradients `value_V` is their length: what is left then is the variance of their directions.
    """
    p_V = p_target_V * value_V.abs()
    return p_V / p_V.sum()


def divergence(p_V: Tensor, q_V: Tensor) -> float:
    """KL(p || q), in nats."""
    some = p_V > 0
    return float((p_V[some] * (p_V[some] / q_V[some]).log()).sum())


def effective_share(weight_N: Tensor) -> float:
    """Effective sample size of importance weights, as a share of their number; 1 for equal ones."""
    return float(weight_N.sum().square() / weight_N.square().sum() / len(weight_N))


def ratio(above_B: Sequence[float], below_B: Sequence[float]) -> Interval:
    """Sum over sum, and where 95 % of it lie if batches (or places) are drawn again."""
    pairs_B2 = np.stack([np.asarray(above_B), np.asarray(below_B)], axis=1)
    draws = np.random.default_rng(SEED).integers(len(pairs_B2), size=(RESAMPLED, len(pairs_B2)))
    sums = np.concatenate([pairs_B2.sum(axis=0)[None], pairs_B2[draws].sum(axis=1)])
    return interval(sums[:, 0] / sums[:, 1])

"""The residual scheme: the whole difference between post-norm, pre-norm, DeepNorm and Sub-LN, as one frozen value."""

import math
from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

# B batch, T length, D model dim
RESIDUALS = ("post", "pre", "deepnorm", "subln")


@dataclass(frozen=True)
class ResidualScheme:
    """Where the norm sits, how the skip is weighted, how strongly the branches start."""

    norm_first: bool
    alpha: float = 1.0  # weight of the skip connection
    gain: float = 1.0  # Xavier gain of v, out, fc1 and fc2; q and k always start at 1
    cross_gain: float = 1.0  # the same for the v and out of cross-attention
    inner_norm: bool = False  # extra norm before the last projection of self-attention and feed-forward

    def branch_input(self, x_BTD: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
        """What a sublayer reads of the residual stream."""
        return norm(x_BTD) if self.norm_first else x_BTD

    def connect(
        self,
        x_BTD: Tensor,
        branch: Callable[[Tensor], Tuple[Tensor, Optional[Tensor]]],
        norm: Callable[[Tensor], Tensor],
        dropout: nn.Module,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Put one sublayer on the residual stream; returns the stream and whatever the branch reports beside it."""
        y_BTD, extra = branch(self.branch_input(x_BTD, norm))
        x_BTD = torch.add(dropout(y_BTD), x_BTD, alpha=self.alpha)
        return (x_BTD if self.norm_first else norm(x_BTD)), extra


class StackSchemes(NamedTuple):
    """The scheme of each stack; None where the model has no such stack."""

    encoder: Optional[ResidualScheme]
    decoder: Optional[ResidualScheme]


def residual_schemes(residual: str, encoder_layers: int, decoder_layers: int) -> StackSchemes:
    """Constants of a model with N encoder and M decoder layers; 0 layers means that stack does not exist.

    deepnorm: DeepNet (arXiv 2203.00555), Figure 2b. subln: Magneto (arXiv 2210.06423), Section 3.2; its cross-attention
    keeps one norm and a gain of 1.

    Raises:
        ValueError: an unknown residual, or no layers at all.
    """
    if residual not in RESIDUALS:
        raise ValueError(f"--residual {residual} must be one of {', '.join(RESIDUALS)}")
    n, m = encoder_layers, decoder_layers
    if n < 0 or m < 0 or n + m == 0:
        raise ValueError(f"--encoder-layers {n} and --decoder-layers {m} must not be negative, and not both 0")
    encoder, decoder = {"post": _post, "pre": _pre, "deepnorm": _deepnorm, "subln": _subln}[residual](n, m)
    return StackSchemes(encoder if n else None, decoder if m else None)


def _post(n: int, m: int) -> Tuple[ResidualScheme, ResidualScheme]:
    return (ResidualScheme(norm_first=False),) * 2


def _pre(n: int, m: int) -> Tuple[ResidualScheme, ResidualScheme]:
    return (ResidualScheme(norm_first=True),) * 2


def _deepnorm(n: int, m: int) -> Tuple[ResidualScheme, ResidualScheme]:
    if n and m:
        encoder = 0.81 * (n**4 * m) ** (1 / 16), 0.87 * (n**4 * m) ** (-1 / 16)
        decoder = (3 * m) ** 0.25, (12 * m) ** -0.25
    else:
        layers = n + m
        encoder = decoder = (2 * layers) ** 0.25, (8 * layers) ** -0.25
    schemes = [ResidualScheme(False, alpha=alpha, gain=beta, cross_gain=beta) for alpha, beta in (encoder, decoder)]
    return schemes[0], schemes[1]


def _subln(n: int, m: int) -> Tuple[ResidualScheme, ResidualScheme]:
    if n and m:
        encoder, decoder = math.sqrt(math.log(3 * m) * math.log(2 * n) / 3), math.sqrt(math.log(3 * m))
    else:
        encoder = decoder = math.sqrt(math.log(2 * (n + m)))
    schemes = [ResidualScheme(True, gain=gamma, inner_norm=True) for gamma in (encoder, decoder)]
    return schemes[0], schemes[1]

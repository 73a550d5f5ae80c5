"""Position embeddings, numbered as in fairseq: padding has its own row, the first real token padding_idx + 1."""

import math
from typing import Optional

import torch
from torch import Tensor, nn

# B batch, T length, D model dim


def position_ids(tokens_BT: Tensor, padding_idx: int) -> Tensor:
    """Row of each token in the position table, (B, T) long: padding_idx at padding, then padding_idx + 1, + 2, ..."""
    real = tokens_BT.ne(padding_idx).int()
    return (real.cumsum(1).type_as(real) * real).long() + padding_idx


class SinusoidalPositions(nn.Module):
    """Sine in the first half of the width, cosine in the second (Vaswani et al. 2017, Section 3.5).

    Args:
        max_positions: longest sequence, in tokens.
        dim: model dimension D, at least 4.
        padding_idx: row of the padding symbol; its embedding is zero.
    """

    table: Tensor

    def __init__(self, max_positions: int, dim: int, padding_idx: int):
        super().__init__()
        self.max_positions = max_positions
        half = dim // 2
        rate = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
        angle = torch.arange(max_positions + padding_idx + 1, dtype=torch.float)[:, None] * rate[None, :]
        table = torch.zeros(angle.size(0), dim)
        table[:, :half], table[:, half : 2 * half] = angle.sin(), angle.cos()
        table[padding_idx] = 0
        self.register_buffer("table", table, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `ids` (any shape, long) of the table."""
        return self.table[ids]


class LearnedPositions(nn.Embedding):
    """A learned row per position; stored as `embed_positions.weight` like fairseq's.

    Args:
        max_positions: longest sequence, in tokens.
        dim: model dimension D.
        padding_idx: row of the padding symbol; its embedding stays zero.
    """

    def __init__(self, max_positions: int, dim: int, padding_idx: int):
        super().__init__(max_positions + padding_idx + 1, dim, padding_idx)
        self.max_positions = max_positions
        nn.init.normal_(self.weight, std=dim**-0.5)
        with torch.no_grad():
            self.weight[padding_idx] = 0


def build_positions(kind: str, max_positions: int, dim: int, padding_idx: int) -> Optional[nn.Module]:
    """Positions by name: `sinusoidal`, `learned` or `none`."""
    if kind == "none":
        return None
    return {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}[kind](max_positions, dim, padding_idx)

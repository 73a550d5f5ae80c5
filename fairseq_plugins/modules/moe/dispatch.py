"""Dispatch: tokens into rows sorted by expert, and weighted rows back. No (tokens x experts x slots) tensor."""

import math
from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..large_pages import new_empty

# N tokens, D model dim, E experts, K chosen experts, R rows


class Layout(NamedTuple):
    """How the rows of a matrix belong to experts."""

    ends_E: Tensor  # int32, cumulative ends of the experts' rows
    slots: Optional[int] = None  # every expert owns this many rows, unused ones are fillers; None: no gaps

    def expert_of(self, row_R: Tensor) -> Tensor:
        """The expert of every row, long; rows after the last one's count as its own."""
        if self.slots is not None:
            return row_R // self.slots
        return torch.searchsorted(self.ends_E, row_R.int(), right=True).clamp(max=len(self.ends_E) - 1)


class Dispatch(NamedTuple):
    """Where every choice of every token is computed."""

    token_R: Tensor  # long, the token that a row reads; fillers read token 0
    row_NK: Tensor  # long, the row of a choice; R where it was dropped
    layout: Layout


def dispatch(
    expert_NK: Tensor,
    living_NK: Tensor,
    experts: int,
    *,
    capacity_factor: float = 0.0,
    max_padding: float = 0.0,
) -> Tuple[Dispatch, Tensor]:
    """Give every living choice a row, first choices before second ones, earlier tokens before later ones.

    Works without reading anything back from the device: on a GPU there are always as many rows as choices (or slots).

    Args:
        expert_NK: chosen experts, long.
        living_NK: bool, False for padding and for choices that are no choice.
        experts: E.
        capacity_factor: rows per expert over the mean number of living choices per expert, rounded up; 0 = no limit.
        max_padding: lay the rows out in equal blocks, as batched products need them, if that makes at most this many
            times the rows. On a GPU a block has the room of the capacity, on the CPU that of the largest load.

    Returns:
        the rows, and how many choices each expert was given before capacity, (E,) long.
    """
    tokens, choices = expert_NK.shape
    expert_C = torch.where(living_NK, expert_NK, experts).t().reshape(-1)  # first choices of all tokens, then second
    sorted_C, order_C = expert_C.sort(stable=True)
    wanted_E = torch.zeros(experts + 1, dtype=torch.long, device=expert_NK.device)
    wanted_E = wanted_E.scatter_add_(0, expert_C, torch.ones_like(expert_C))[:experts]
    starts = torch.cat([wanted_E.new_zeros(1), wanted_E.cumsum(0)])  # of each expert's choices, and of the dead ones
    place_C = torch.arange(len(expert_C), device=expert_C.device) - starts[sorted_C]
    kept_C = sorted_C < experts
    given_E = wanted_E
    if capacity_factor:
        # in float64, as `_slots` counts: rounded otherwise, an expert could be given one row more than its block has
        limit = (wanted_E.sum().double() * capacity_factor / experts).ceil().long()
        kept_C = kept_C & (place_C < limit)
        given_E = wanted_E.clamp(max=limit)
    size = _slots(given_E, capacity_factor, len(expert_C), max_padding)
    if size is not None:
        rows, layout = experts * size, Layout(given_E.cumsum(0).int(), size)
        first = torch.arange(experts + 1, device=expert_C.device) * size
    else:
        ends_E = given_E.cumsum(0)
        # On the CPU reading a number back is free, and rows that nobody needs are not.
        rows = int(ends_E[-1]) if ends_E.device.type == "cpu" else len(expert_C)
        layout = Layout(ends_E.int())
        first = torch.cat([ends_E.new_zeros(1), ends_E])
    row_C = torch.where(kept_C, first[sorted_C] + place_C, rows)
    token_C = order_C % tokens if choices > 1 else order_C
    token_R = torch.zeros(rows + 1, dtype=torch.long, device=expert_C.device).scatter_(0, row_C, token_C)[:rows]
    row_KN = torch.empty_like(row_C).scatter_(0, order_C, row_C).view(choices, tokens)
    return Dispatch(token_R, row_KN.t(), layout), wanted_E


def _slots(given_E: Tensor, capacity_factor: float, choices: int, max_padding: float) -> Optional[int]:
    """Rows of each expert's block, or None where blocks would be mostly padding."""
    if given_E.device.type == "cpu":
        size = max(1, int(given_E.max())) if max_padding else 0
        return size if 0 < size * len(given_E) <= max_padding * int(given_E.sum()) else None
    if not 0 < capacity_factor <= max_padding:
        return None
    return math.ceil(float(choices) * capacity_factor / len(given_E))  # the most that the limit can be


def gather_tokens(x_ND: Tensor, where: Dispatch) -> Tensor:
    """Rows (R, D) of tokens (N, D), sorted by expert."""
    return _Gather.apply(x_ND, where.token_R, where.row_NK)


def combine(rows_RD: Tensor, weight_NK: Tensor, where: Dispatch) -> Tensor:
    """Weighted sum of every token's rows, (N, D); zero for a token whose choices were all dropped."""
    return _Combine.apply(rows_RD, weight_NK, where.token_R, where.row_NK)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return torch.index_select(x, 0, index, out=new_empty(x, len(index), *x.shape[1:]))


def _pick(rows_RD: Tensor, row_N: Tensor, weight_N: Optional[Tensor] = None) -> Tensor:
    """`weight * row` for each index; zero for index R."""
    if not len(rows_RD):
        return rows_RD.new_zeros(len(row_N), rows_RD.size(1))
    present_N = row_N < len(rows_RD)
    picked = _rows(rows_RD, torch.where(present_N, row_N, 0))
    factor = present_N if weight_N is None else torch.where(present_N, weight_N, 0)
    return picked.mul_(factor.to(picked.dtype)[:, None])


class _Gather(Function):
    """A gather whose gradient is a gather too: faster than adding into rows, and in one fixed order."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
        ctx.save_for_backward(row_NK)
        return _rows(x_ND, token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> Tuple[Optional[Tensor], ...]:
        (row_NK,) = ctx.saved_tensors
        grad_ND = _pick(grad_RD, row_NK[:, 0])
        for choice in range(1, row_NK.size(1)):
            grad_ND += _pick(grad_RD, row_NK[:, choice])
        return grad_ND, None, None


class _Combine(Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weight_NK: Tensor, token_R: Tensor, row_NK: Tensor) -> Tensor:
        ctx.save_for_backward(rows_RD, weight_NK, token_R, row_NK)
        y_ND = _pick(rows_RD, row_NK[:, 0], weight_NK[:, 0])
        for choice in range(1, row_NK.size(1)):
            y_ND += _pick(rows_RD, row_NK[:, choice], weight_NK[:, choice])
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows_RD, weight_NK, token_R, row_NK = ctx.saved_tensors
        weight_R = weight_NK.new_zeros(len(rows_RD) + 1).scatter_(0, row_NK.reshape(-1), weight_NK.reshape(-1))
        weight_R = weight_R[: len(rows_RD)]  # fillers keep 0
        grad_rows_RD = _rows(grad_ND, token_R)
        # widened first: a loss-scaled product may not fit into half precision
        dot_R = (grad_rows_RD.to(weight_NK.dtype) * rows_RD).sum(dim=1)
        padded = torch.cat([dot_R, dot_R.new_zeros(1)])  # a dropped choice has no gradient
        return grad_rows_RD.mul_(weight_R.to(grad_rows_RD.dtype)[:, None]), padded[row_NK], None, None

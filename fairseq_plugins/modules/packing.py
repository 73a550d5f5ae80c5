"""Rows without padding: projections and feed-forwards see real tokens only, attention sees the padded batch."""

from typing import Any, NamedTuple, Optional, Tuple

from torch import Tensor
from torch.autograd import Function

# B batch, T length, N real tokens, D any width
WORTHWHILE = 0.04  # share of padding from which packing saves more than it copies (scripts/benchmarks/train_step.py)


class Packing(NamedTuple):
    """Which places of a batch hold real tokens."""

    rows_N: Tensor  # long, place in the flattened batch
    batch: int
    length: int


def real_tokens(padding_BT: Tensor) -> Packing:
    """How to pack a batch, whatever it saves; `padding_BT` is bool, True at padding."""
    return Packing(padding_BT.logical_not().reshape(-1).nonzero().view(-1), *padding_BT.shape)


def packing(padding_BT: Tensor) -> Optional[Packing]:
    """How to pack a batch; None where it has so little padding that copying would cost more.

    On a GPU this waits for the device, once per stack and pass, as stock fairseq's encoder does.

    Args:
        padding_BT: bool, True at padding.
    """
    packed = real_tokens(padding_BT)
    return None if len(packed.rows_N) > (1 - WORTHWHILE) * padding_BT.numel() else packed


def pack(x_BTD: Tensor, packed: Optional[Packing]) -> Tensor:
    """Real tokens (N, D) of `x_BTD`; with None, `x_BTD` itself."""
    return x_BTD if packed is None else _Pack.apply(x_BTD, packed)


def unpack(x_ND: Tensor, packed: Optional[Packing]) -> Tensor:
    """The batch (B, T, D) of packed tokens, 0 at padding; with None, `x_ND` itself."""
    return x_ND if packed is None else _Unpack.apply(x_ND, packed)


def _take(x_BTD: Tensor, packed: Packing) -> Tensor:
    return x_BTD.reshape(-1, x_BTD.size(-1)).index_select(0, packed.rows_N)


def _place(x_ND: Tensor, packed: Packing) -> Tensor:
    flat = x_ND.new_zeros(packed.batch * packed.length, x_ND.size(-1))
    return flat.index_copy_(0, packed.rows_N, x_ND).view(packed.batch, packed.length, -1)


class _Pack(Function):
    """Rows are all different, so the gradient is a copy; torch, which cannot know, would add row by row."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, packed: Packing) -> Tensor:
        ctx.packed = packed
        return _take(x_BTD, packed)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> Tuple[Tensor, None]:
        return _place(grad_ND, ctx.packed), None


class _Unpack(Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, packed: Packing) -> Tensor:
        ctx.packed = packed
        return _place(x_ND, packed)

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> Tuple[Tensor, None]:
        return _take(grad_BTD, ctx.packed), None



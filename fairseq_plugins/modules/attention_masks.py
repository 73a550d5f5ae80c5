"""Attention masks, built on the device that uses them. True means: this query may look at this key."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

# B batch, H heads, T queries, S keys; masks broadcast over heads
FORBIDDEN = -3e4  # as a bias: far below any score, so its weight is exactly 0, and a number in half precision too
NOWHERE = 1 << 20  # the step of what nobody sees


class Piece(NamedTuple):
    """Neighbouring queries that look at the first keys of all: a mask that is cheap where much of it is empty.

    A tuple of pieces, which together hold every query in order, stands for one mask.
    """

    queries: int
    keys: int
    mask: Optional[Tensor] = None  # of these queries and keys, bool or a bias
    in_line: bool = False  # queries and keys are the same tokens, which stand in line: one bias for the whole batch


def padding_mask(padding_BS: Tensor) -> Tensor:
    """Keys that are not padding: (B, 1, 1, S) from `padding_BS`, which is True at padding."""
    return ~padding_BS[:, None, None, :]


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Each query sees the keys up to itself: (1, 1, T, S); the last query is aligned with the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def same_group(groups_BT: Tensor) -> Tensor:
    """Each query sees its own group: (B, 1, T, T) from group numbers (B, T)."""
    return (groups_BT[:, :, None] == groups_BT[:, None, :])[:, None]


def seen_by_step(query_steps_BT: Tensor, key_steps_BS: Tensor) -> Tensor:
    """Who sees whom under a factorisation of steps: (B, 1, T, S) (UniLMv2, arXiv 2002.12804, Section 3.2).

    A text has step 0, what step i = 1, 2, ... reveals has i, and the pseudo-masks that predict it have -i. A query of
    step q >= 0 sees keys of steps 0 .. q; one of -i sees keys of steps 0 .. i - 1 and of -i. Nobody sees `NOWHERE`.
    """
    query_BT1, key_B1S = query_steps_BT[:, :, None], key_steps_BS[:, None, :]
    latest_BT1 = torch.where(query_BT1 < 0, -1 - query_BT1, query_BT1.clamp(max=NOWHERE - 1))
    return (((key_B1S >= 0) & (key_B1S <= latest_BT1)) | ((query_BT1 < 0) & (key_B1S == query_BT1)))[:, None]


def causal_is_enough(padding_BT: Tensor) -> bool:
    """Whether causality alone keeps real tokens from looking at padding: it stands only after them.

    On a GPU this waits for the device.
    """
    return not bool((padding_BT[:, :-1] & ~padding_BT[:, 1:]).any())


def both(first: Optional[Tensor], second: Optional[Tensor]) -> Optional[Tensor]:
    """What both masks allow; None allows everything."""
    if first is None or second is None:
        return first if second is None else second
    return first & second


def masked_bias(bias_BHTS: Tensor, mask: Optional[Tensor]) -> Tensor:
    """A bias on scores that also says what `mask` says; a query that may see nothing gets numbers nobody reads."""
    return bias_BHTS if mask is None else torch.where(mask, bias_BHTS, FORBIDDEN)

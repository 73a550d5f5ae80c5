"""Attention masks, built on the device that uses them. True means: this query may look at this key."""

from typing import Optional

import torch
from torch import Tensor

# B batch, H heads, T queries, S keys; masks broadcast over heads
FORBIDDEN = -3e4  # as a bias: far below any score, so its weight is exactly 0, and a number in half precision too


def padding_mask(padding_BS: Tensor) -> Tensor:
    """Keys that are not padding: (B, 1, 1, S) from `padding_BS`, which is True at padding."""
    return ~padding_BS[:, None, None, :]


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Each query sees the keys up to itself: (1, 1, T, S); the last query is aligned with the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def same_group(groups_BT: Tensor) -> Tensor:
    """Each query sees its own group: (B, 1, T, T) from group numbers (B, T)."""
    return (groups_BT[:, :, None] == groups_BT[:, None, :])[:, None]


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

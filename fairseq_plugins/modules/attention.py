"""Multi-head attention on torch's scaled dot-product attention; the mask is given with each call."""

import math
from typing import NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_masks import FORBIDDEN, Piece
from .linear import xavier_linear
from .packing import Packing, pack, unpack

# B batch (rows), N real tokens, T queries, S keys, D model dim, H heads, K head dim
# in joint attention: R rows (hypotheses), N sentences, M keys of the memory
# _BTD is also said of all heads side by side, (B, T, H K), which is (B, T, D) mostly


class Projections(NamedTuple):
    """What the attention of a layer compares and reads, before any split into heads and any scaling: (B, T, H K)."""

    q: Tensor
    k: Tensor
    v: Tensor


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, Section 3.2); self or cross is the caller's choice of keys and values.

    Args:
        dim: model dimension D.
        heads: number of heads H; must divide `dim` where `head_dim` is not given.
        head_dim: width K of each head (default dim / heads); mT5's heads are together narrower than its model.
        memory_dim: width of what keys and values are projected from (default `dim`).
        dropout: on the attention weights, in training.
        gain: Xavier gain of v_proj and out_proj; q_proj and k_proj always start at 1 (DeepNet, Section 4.3).
        inner_norm: norm over the concatenated heads before out_proj (Magneto, Section 3.1), or None.
        temperature: scores are divided by its square root (PLATE, arXiv 2106.03441, as its code has it); None: by that
            of the head width K, and so does a temperature of K, bit for bit.

    Raises:
        ValueError: `dim` is not a multiple of `heads`, and no `head_dim` is given; or a temperature that is not a
            positive number.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: Optional[int] = None,
        memory_dim: Optional[int] = None,
        dropout: float = 0.0,
        gain: float = 1.0,
        inner_norm: Optional[nn.Module] = None,
        temperature: Optional[float] = None,
    ):
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"the attention width {dim} must be a multiple of the number of heads {heads}")
        if temperature is not None and not 0 < temperature < math.inf:
            raise ValueError(f"the attention temperature {temperature} must be above 0 and finite")
        self.heads = heads
        self.dropout = dropout
        memory_dim = dim if memory_dim is None else memory_dim
        inner_dim = dim if head_dim is None else heads * head_dim
        self.scale: Optional[float] = None  # a kernel's own, the ordinary one
        if temperature is not None and temperature != inner_dim // heads:
            self.scale = temperature**-0.5
        self.k_proj = xavier_linear(memory_dim, inner_dim)
        self.v_proj = xavier_linear(memory_dim, inner_dim, gain=gain)
        self.q_proj = xavier_linear(dim, inner_dim)
        self.out_proj = xavier_linear(inner_dim, dim, gain=gain)
        self.inner_norm = inner_norm

    def keys_values(self, memory_BSD: Tensor, packed: Optional[Packing] = None) -> Tuple[Tensor, Tensor]:
        """Keys and values of `memory_BSD`, which is (N, D) where it is packed; each (B, H, S, K)."""
        keys, values = self.k_proj(memory_BSD), self.v_proj(memory_BSD)
        return self._split(unpack(keys, packed)), self._split(unpack(values, packed))

    def projections(self, x_BTD: Tensor, packed: Optional[Packing] = None) -> Projections:
        """Queries, keys and values of self-attention in `x_BTD`, which is (N, D) where it is packed."""
        return Projections(*(unpack(project(x_BTD), packed) for project in (self.q_proj, self.k_proj, self.v_proj)))

    def forward(
        self,
        x_BTD: Tensor,
        k_BHSK: Tensor,
        v_BHSK: Tensor,
        mask: Union[Tensor, Tuple[Piece, ...], None] = None,
        *,
        causal: bool = False,
        packed: Optional[Packing] = None,
    ) -> Tensor:
        """Attend from `x_BTD`; returns what has its shape.

        Args:
            x_BTD: queries before projection. In beam search keys and values may have one row per sentence, x one per
                hypothesis (T = 1, hypotheses of a sentence side by side): they then share those keys without a copy.
            k_BHSK, v_BHSK: from `keys_values`.
            mask: broadcastable to (B, H, T, S); bool (True = may look) or a float bias; or such masks piece by piece.
            causal: query t sees keys up to t, without a mask (T = S): on a GPU the fastest kernels take none.
            packed: `x_BTD` holds real tokens alone, (N, D).
        """
        q_BTD = unpack(self.q_proj(x_BTD), packed)
        q_BHTK = self._split(q_BTD.reshape(k_BHSK.size(0), -1, q_BTD.size(-1)))
        if isinstance(mask, tuple):
            queries = q_BHTK.split([piece.queries for piece in mask], dim=2)
            found = [
                self._attend(own_BHTK, k_BHSK[:, :, : piece.keys], v_BHSK[:, :, : piece.keys], piece.mask)
                for own_BHTK, piece in zip(queries, mask, strict=True)
            ]
            y_BHTK = torch.cat(found, dim=2)
        else:
            y_BHTK = self._attend(q_BHTK, k_BHSK, v_BHSK, mask, causal)
        y_BTD = pack(y_BHTK.transpose(1, 2).reshape(q_BTD.shape), packed)
        if self.inner_norm is not None:
            y_BTD = self.inner_norm(y_BTD)
        return self.out_proj(y_BTD)

    def forward_jointly(
        self,
        x_RTD: Tensor,
        k_RHSK: Tensor,
        v_RHSK: Tensor,
        mask: Tensor,
        memory: Tuple[Tensor, Tensor],
        memory_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Attend to a memory and to a row's own keys with one softmax, as if both were one sequence; (R, T, D).

        Args:
            x_RTD: queries before projection; as many neighbouring rows to each row of the memory, beams of a sentence.
            k_RHSK, v_RHSK: each row's own, from `keys_values`.
            mask: of them, broadcastable to (R, H, T, S); bool (True = may look) or a float bias.
            memory: keys and values (N, H, M, K), which no row copies.
            memory_mask: of them, broadcastable to (N, H, T, M); None: no padding.
        """
        q_RTD = self.q_proj(x_RTD)
        (rows, queries, _), sentences = x_RTD.shape, memory[0].size(0)
        scale = k_RHSK.size(-1) ** -0.5 if self.scale is None else self.scale
        q_NHQK = self._split(q_RTD.reshape(sentences, -1, q_RTD.size(-1))) * scale  # Q: all rows' T
        q_RHTK = q_NHQK.unflatten(2, (-1, queries)).transpose(1, 2).flatten(0, 1)
        theirs_NHBTM = (q_NHQK @ memory[0].mT).unflatten(2, (-1, queries))  # B: rows of a sentence
        theirs_NHBTM = _masked(theirs_NHBTM, None if memory_mask is None else memory_mask[:, :, None])
        own_RHTS = _masked(q_RHTK @ k_RHSK.mT, mask)
        scores = torch.cat((theirs_NHBTM.transpose(1, 2).flatten(0, 1), own_RHTS), dim=-1)
        weights = F.softmax(scores, dim=-1, dtype=_at_least_single(scores.dtype)).to(v_RHSK.dtype)
        weights = F.dropout(weights, self.dropout, self.training)
        of_memory, of_own = weights.split((theirs_NHBTM.size(-1), k_RHSK.size(2)), dim=-1)
        of_memory_NHQM = of_memory.unflatten(0, (sentences, -1)).transpose(1, 2).flatten(2, 3)
        y_RTHK = (of_memory_NHQM @ memory[1]).transpose(1, 2).reshape(rows, queries, self.heads, -1)
        y_RTD = (y_RTHK + (of_own @ v_RHSK).transpose(1, 2)).flatten(2)
        if self.inner_norm is not None:
            y_RTD = self.inner_norm(y_RTD)
        return self.out_proj(y_RTD)

    def _attend(
        self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask: Optional[Tensor], causal: bool = False
    ) -> Tensor:
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q_BHTK.dtype)  # which autocast may have made a shorter one
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=self.scale
        )

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _masked(scores: Tensor, mask: Optional[Tensor]) -> Tensor:
    if mask is None:
        return scores
    return scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, FORBIDDEN)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

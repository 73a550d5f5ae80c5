"""What a decoder keeps between steps: keys and values of all layers, grown in chunks, reordered in one place."""

from typing import List, Optional, Tuple

import torch
from torch import Tensor

# R rows (hypotheses), N sentences, L layers, H heads, C capacity in tokens, T tokens so far, S source length,
# K head dim

GROWTH = 16  # tokens added to the capacity at a time


def in_place(order_R: Tensor, rows: int) -> bool:
    """Whether `order_R` leaves every one of `rows` rows where it is, as a search without a beam mostly does."""
    return order_R.numel() == rows and torch.equal(order_R, torch.arange(rows, device=order_R.device))


class Recording:
    """Stands for a cache in one pass over a text and keeps its keys and values, the memory of a cache to come.

    Args:
        layers: number of layers with attention L.
    """

    length = 0  # nothing stands before the text

    def __init__(self, layers: int):
        self.memory: List[Optional[Tuple[Tensor, Tensor]]] = [None] * layers

    def append(self, layer: int, k_NHSK: Tensor, v_NHSK: Tensor) -> Tuple[Tensor, Tensor]:
        """Keep the keys and values of `layer`, and return them."""
        self.memory[layer] = k_NHSK, v_NHSK
        return k_NHSK, v_NHSK


class DecodingCache:
    """Keys and values of one batch under beam search.

    Self-attention lives in one (R, C, L, 2, H, K) tensor: what a row has used is one piece of memory, so that following
    the beams is one `index_select` of such pieces into a second buffer of the same shape. Cross-attention keys and
    values are kept once per sentence, (N, H, S, K), whatever the beam.

    Args:
        layers: number of decoder layers L.
    """

    def __init__(self, layers: int):
        self.layers = layers
        self.length = 0  # tokens already decoded; the current step is not counted until `advance`
        self.memory: List[Optional[Tuple[Tensor, Tensor]]] = [None] * layers
        self.memory_mask: Optional[Tensor] = None  # (N, 1, 1, S)
        self._own: Optional[Tensor] = None
        self._spare: Optional[Tensor] = None

    def append(self, layer: int, k_RHTK: Tensor, v_RHTK: Tensor) -> Tuple[Tensor, Tensor]:
        """Store this step's keys and values of `layer`; returns those of all steps so far, as views."""
        end = self.length + k_RHTK.size(2)
        own = self._room(k_RHTK, end)
        own[:, self.length : end, layer, 0] = k_RHTK.transpose(1, 2)
        own[:, self.length : end, layer, 1] = v_RHTK.transpose(1, 2)
        return own[:, :end, layer, 0].transpose(1, 2), own[:, :end, layer, 1].transpose(1, 2)

    def advance(self, tokens: int) -> None:
        """All layers have appended `tokens` tokens."""
        self.length += tokens

    def reorder(self, order_R: Tensor) -> None:
        """Keep rows `order_R` (long), in that order: hypotheses survive, multiply, or leave with their sentence."""
        if self._own is None:
            return
        rows_before, rows = self._own.size(0), order_R.numel()
        if in_place(order_R, rows_before):
            return
        full = self._own.size(1) == self.length  # then it grows on the way
        if full or self._spare is None or self._spare.size(1) != self._own.size(1) or self._spare.size(0) < rows:
            capacity = self.length + GROWTH if full else self._own.size(1)
            self._spare = self._own.new_empty(rows, capacity, *self._own.shape[2:])
        target = self._spare[:rows]
        torch.index_select(self._own[:, : self.length], 0, order_R, out=target[:, : self.length])
        self._own, self._spare = target, self._own
        self._reorder_memory(order_R, rows_before)

    def _reorder_memory(self, order_R: Tensor, rows_before: int) -> None:
        first = next((kv for kv in self.memory if kv is not None), None)
        if first is None:
            return
        beam = rows_before // first[0].size(0)
        if beam > 1 and order_R.numel() == rows_before:
            return  # hypotheses move only within their sentence, whose memory stays where it is
        rows = order_R // beam  # of the memory, one for each hypothesis
        sentences = rows[::beam]
        whole = order_R.numel() % beam == 0 and torch.equal(sentences.repeat_interleave(beam), rows)
        chosen = sentences if whole else rows  # hypotheses left alone: each gets a memory row of its own
        self.memory = [kv and (kv[0].index_select(0, chosen), kv[1].index_select(0, chosen)) for kv in self.memory]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask.index_select(0, chosen)

    def _room(self, like_RHTK: Tensor, tokens: int) -> Tensor:
        rows, heads, _, head_dim = like_RHTK.shape
        if self._own is None or self._own.size(1) < tokens:
            capacity = -(-tokens // GROWTH) * GROWTH
            grown = like_RHTK.new_empty(rows, capacity, self.layers, 2, heads, head_dim)
            if self._own is not None:
                grown[:, : self.length] = self._own[:, : self.length]
            self._own, self._spare = grown, None
        return self._own

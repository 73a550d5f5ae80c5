"""fairseq's model API over the one stack: an encoder and an incremental decoder."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor, nn

from ..modules.attention import MultiHeadAttention, Projections
from ..modules.attention_masks import (
    NOWHERE,
    Piece,
    both,
    causal_is_enough,
    causal_mask,
    padding_mask,
    same_group,
    seen_by_step,
)
from ..modules.decoding_cache import DecodingCache, in_place
from ..modules.linear import lay_out_for_decoding
from ..modules.packing import Packing, pack, packing
from ..modules.positions import position_ids
from ..modules.transformer_layer import LayerContext, TransformerLayer
from ..modules.transformer_stack import StackOutput, TransformerStack
from ._auxiliary import AuxiliaryLosses

# B batch (rows), T length, S source length, D model dim, V vocabulary
CACHE = "decoding_cache"  # our one entry in fairseq's incremental_state


class PseudoPart(NamedTuple):
    """What an encoder reads beside a text: pseudo-masks and the tokens they stand for (UniLMv2), (B, Q) long each."""

    tokens: Tensor
    positions: Tensor  # from 0; several places may share one, and share them with the text; -1 at padding
    steps: Tensor  # as `seen_by_step` has them, never 0 but for what every place of this part sees; NOWHERE at padding
    segments: Optional[Tensor] = None

    def segments_or_first(self) -> Tensor:
        """Segments, 0 where they are not told."""
        return torch.zeros_like(self.tokens) if self.segments is None else self.segments


class StackEncoder(TransformerStack, FairseqEncoder):
    """A bidirectional stack as fairseq's encoder."""

    def __init__(self, dictionary: Dictionary, stack: Dict[str, Any]):
        FairseqEncoder.__init__(self, dictionary)
        TransformerStack.__init__(self, **stack)
        self.max_source_positions = _max_positions(stack)

    @property
    def attention_heads(self) -> int:
        """Heads of the attention of a layer."""
        return self._attention().heads

    @property
    def projection_width(self) -> int:
        """Width of queries, keys and values before they are split into heads."""
        return self._attention().q_proj.out_features

    def _attention(self) -> MultiHeadAttention:
        return next(layer.self_attn for layer in self.layers if isinstance(layer, TransformerLayer))

    def encode(
        self,
        src_tokens: Tensor,
        keep_states: bool = False,
        *,
        segments: Optional[Tensor] = None,
        pseudo: Optional[PseudoPart] = None,
    ) -> Tuple[StackOutput, Tensor]:
        """Hidden states of `src_tokens` (B, T), then of `pseudo` (B, Q), and where in them the padding is, bool.

        Args:
            segments: (B, T) long, where the stack has segments; None: all 0.
            pseudo: a second part that the first cannot see; then padding of the first stands after its tokens.
        """
        padding_BT = src_tokens.eq(self.padding_idx)
        if pseudo is not None and pseudo.tokens.size(1):
            return self._encode_both(src_tokens, padding_BT, segments, pseudo, keep_states)
        x_BTD = self.embed(src_tokens, segments_BT=segments)
        return self.transform(x_BTD, self._reading(padding_BT), keep_states), padding_BT

    def project(
        self, number: int, src_tokens: Tensor, segments: Optional[Tensor] = None
    ) -> Tuple[None, Dict[str, Any]]:
        """Queries, keys and values of `src_tokens` (B, T) in the `number`-th layer with attention, counted from 1.

        They come where a network's output has its extras: `"projections"`, (B, T, D) each, and `"padding"`, (B, T)
        bool, True at padding, where projections say nothing.
        """
        padding_BT = src_tokens.eq(self.padding_idx)
        x_BTD = self.embed(src_tokens, segments_BT=segments)
        found, auxiliary = self.projections(x_BTD, self._reading(padding_BT), number)
        losses = AuxiliaryLosses(auxiliary)
        found = Projections(*(losses.guard(x_BTD) for x_BTD in found))
        return None, {"projections": found, "padding": padding_BT, "auxiliary": losses}

    def _reading(self, padding_BT: Tensor) -> LayerContext:
        """Every token sees every other."""
        if not padding_BT.any():
            return LayerContext()  # attention without a mask, which the fastest kernels want
        packed = packing(padding_BT) if self.training else None
        return LayerContext(padding_mask(padding_BT), padding_BT=_routed(padding_BT, packed), packed=packed)

    def _encode_both(
        self,
        text_BT: Tensor,
        text_padding_BT: Tensor,
        segments_BT: Optional[Tensor],
        pseudo: PseudoPart,
        keep_states: bool,
    ) -> Tuple[StackOutput, Tensor]:
        """One pass over both parts, in two pieces of attention: the text's is that of an ordinary encoder."""
        (_, length), (_, more) = text_BT.shape, pseudo.tokens.shape
        tokens_BL = torch.cat((text_BT, pseudo.tokens), dim=1)
        padding_BL = torch.cat((text_padding_BT, pseudo.steps.eq(NOWHERE)), dim=1)
        positions_BL = torch.cat((position_ids(text_BT, self.padding_idx) - self.padding_idx - 1, pseudo.positions), 1)
        steps_BL = torch.cat((text_padding_BT.long() * NOWHERE, pseudo.steps), dim=1)
        if self.embed_segments is None:
            segments_BL = None
        else:
            first_BT = torch.zeros_like(text_BT) if segments_BT is None else segments_BT
            segments_BL = torch.cat((first_BT, pseudo.segments_or_first()), dim=1)
        text_mask = padding_mask(text_padding_BT) if text_padding_BT.any() else None
        pieces = (
            Piece(length, length, text_mask, in_line=True),
            Piece(more, length + more, seen_by_step(pseudo.steps, steps_BL)),
        )
        packed = packing(padding_BL) if self.training else None
        context = LayerContext(pieces, positions_BL, padding_BT=_routed(padding_BL, packed), packed=packed)
        x_BLD = self.embed(tokens_BL, positions_BL + self.padding_idx + 1, segments_BL)
        return self.transform(x_BLD, context, keep_states), padding_BL

    def forward(
        self, src_tokens: Tensor, src_lengths: Optional[Tensor] = None, return_all_hiddens: bool = False, **unused: Any
    ) -> Dict[str, Any]:
        """fairseq's encoder output: a dict of lists, hidden states time-first, as the engine's generator expects."""
        output, padding_BT = self.encode(src_tokens, return_all_hiddens)
        return {
            "encoder_out": [output.x_BTD.transpose(0, 1)],
            "encoder_padding_mask": [padding_BT],
            "encoder_states": [state.transpose(0, 1) for state in output.states],
            "auxiliary": output.auxiliary,
            "src_tokens": [],
            "src_lengths": [],
        }

    def reorder_encoder_out(self, encoder_out: Dict[str, Any], new_order: Tensor) -> Dict[str, Any]:
        """Rows `new_order` of an encoder output; itself where beams only change places within their sentence."""
        rows = len(encoder_out["encoder_padding_mask"][0])
        copies = _copies(new_order, rows, encoder_out.get("copies", 1))
        if in_place(new_order, rows) or (copies > 1 and len(new_order) == rows):
            return encoder_out
        time_first = ("encoder_out", "encoder_states")
        reordered = {key: [x.index_select(1, new_order) for x in encoder_out[key]] for key in time_first}
        reordered["encoder_padding_mask"] = [x.index_select(0, new_order) for x in encoder_out["encoder_padding_mask"]]
        return {**reordered, "auxiliary": [], "src_tokens": [], "src_lengths": [], "copies": copies}

    def make_generation_fast_(self, **unused: Any) -> None:
        """Called by the engine before decoding."""
        lay_out_for_decoding(self.layers)

    def max_positions(self) -> int:
        return self.max_source_positions


class Memory(NamedTuple):
    """What cross-attention reads: one row per sentence, or one per hypothesis."""

    x_BSD: Tensor  # (N, D) where packed
    mask: Optional[Tensor]  # (B, 1, 1, S), True = may look; None where there is no padding
    packed: Optional[Packing] = None


class StackDecoder(TransformerStack, FairseqIncrementalDecoder):
    """A causal stack and output projection as fairseq's incremental decoder; without memory, a language model."""

    def __init__(self, dictionary: Dictionary, stack: Dict[str, Any], output_projection: nn.Linear):
        FairseqIncrementalDecoder.__init__(self, dictionary)
        TransformerStack.__init__(self, **stack)
        self.output_projection = output_projection
        self.max_target_positions = _max_positions(stack)
        self.beam_size = 1

    def set_beam_size(self, beam_size: int) -> None:
        """Hypotheses per sentence: cross-attention keys are then computed and kept once per sentence."""
        self.beam_size = beam_size

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Dict[str, List[Tensor]]] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        groups: Optional[Tensor] = None,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Logits (B, T, V), or hidden states (B, T, D), and fairseq's dict of extras.

        With `incremental_state` only the tokens not seen before are computed, and returned. With `groups` (B, T), small
        integers, a token sees those before it in its own group alone: mT6's partially non-autoregressive decoding.
        """
        if incremental_state is None:
            output = self._full(prev_output_tokens, self._memory(encoder_out), return_all_hiddens, groups)
        else:
            output = self._step(prev_output_tokens, encoder_out, incremental_state, return_all_hiddens)
        losses = AuxiliaryLosses([*([] if encoder_out is None else encoder_out["auxiliary"]), *output.auxiliary])
        x_BTD = losses.guard(output.x_BTD)
        extra = {"attn": [None], "inner_states": output.states, "auxiliary": losses}
        return (x_BTD if features_only else self.output_layer(x_BTD)), extra

    def extract_features(self, prev_output_tokens: Tensor, **kwargs: Any) -> Tuple[Tensor, Dict[str, Any]]:
        return self(prev_output_tokens, features_only=True, **kwargs)

    def output_layer(self, features: Tensor) -> Tensor:
        return self.output_projection(features)

    def before_logits(self, features_ND: Tensor) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """Input, weight and bias of the last linear layer, for losses that never hold all logits."""
        return features_ND, self.output_projection.weight, self.output_projection.bias

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        if CACHE in incremental_state:
            incremental_state[CACHE].reorder(new_order)

    def make_generation_fast_(self, **unused: Any) -> None:
        """Called by the engine before decoding."""
        lay_out_for_decoding(self.layers)  # not the output projection, which may also be the embedding

    def max_positions(self) -> int:
        return self.max_target_positions

    def _full(
        self, tokens_BT: Tensor, memory: Optional[Memory], keep_states: bool, groups_BT: Optional[Tensor]
    ) -> StackOutput:
        padding_BT = tokens_BT.eq(self.padding_idx)
        length = tokens_BT.size(1)
        packed = packing(padding_BT) if self.training else None
        if groups_BT is not None:
            # without a mask for padding: it has a group of its own, and so sees itself and nothing of the text
            context = LayerContext(both(same_group(groups_BT), causal_mask(length, length, tokens_BT.device)))
        elif causal_is_enough(padding_BT):
            context = LayerContext(causal=True)
        else:
            context = LayerContext(both(padding_mask(padding_BT), causal_mask(length, length, tokens_BT.device)))
        context = context._replace(padding_BT=_routed(padding_BT, packed), packed=packed)
        return self.transform(self.embed(tokens_BT), _with_memory(context, memory), keep_states)

    def _step(
        self,
        tokens_BT: Tensor,
        encoder_out: Optional[Dict[str, List[Tensor]]],
        incremental_state: Dict[str, Any],
        keep_states: bool,
    ) -> StackOutput:
        cache = incremental_state.get(CACHE)
        memory = None
        if cache is None:
            cache = incremental_state[CACHE] = DecodingCache(self.attention_layers)
            memory = self._per_sentence(self._memory(encoder_out))
            cache.memory_mask = None if memory is None else memory.mask
        elif encoder_out is not None:  # keys and values are in the cache; only its presence is read
            memory = Memory(encoder_out["encoder_out"][0], cache.memory_mask)
        new_BT = tokens_BT[:, cache.length :]
        length, total = new_BT.size(1), tokens_BT.size(1)
        # As in the engine, a position is the number of tokens so far: generated prefixes hold no padding.
        positions_BT = self.padding_idx + torch.arange(cache.length + 1, total + 1, device=tokens_BT.device)[None, :]
        context = LayerContext(
            self_mask=None if length == 1 else causal_mask(length, total, tokens_BT.device),
            padding_BT=new_BT.eq(self.padding_idx),
            cache=cache,
        )
        output = self.transform(self.embed(new_BT, positions_BT), _with_memory(context, memory), keep_states)
        cache.advance(length)
        return output

    def _memory(self, encoder_out: Optional[Dict[str, List[Tensor]]]) -> Optional[Memory]:
        if encoder_out is None:
            return None
        x_BSD, padding_BS = encoder_out["encoder_out"][0].transpose(0, 1), encoder_out["encoder_padding_mask"][0]
        if not padding_BS.any():
            return Memory(x_BSD, None)
        packed = packing(padding_BS) if self.training else None
        return Memory(pack(x_BSD, packed), padding_mask(padding_BS), packed)

    def _per_sentence(self, memory: Optional[Memory]) -> Optional[Memory]:
        """Drop the copies that beam search made of each sentence, where they really are copies."""
        beam = self.beam_size
        if memory is None or beam == 1 or memory.x_BSD.size(0) % beam:
            return memory
        first = Memory(memory.x_BSD[::beam], None if memory.mask is None else memory.mask[::beam])
        # A generator with another beam may have set the size: trust the rows, not the number.
        copies = all(torch.equal(first.x_BSD, memory.x_BSD[i::beam]) for i in range(1, beam))
        return first if copies else memory


def _copies(order_R: Tensor, rows: int, copies: int) -> int:
    """How many neighbouring rows are the same sentence, once rows `order_R` are taken of `rows` that come in `copies`.

    Beam search first copies each sentence, then moves hypotheses within it or drops it whole; anything else gives 1.
    """
    if copies == 1 and len(order_R) % rows == 0:
        beam, sentences_R = len(order_R) // rows, torch.arange(rows, device=order_R.device)
        return beam if torch.equal(order_R, sentences_R.repeat_interleave(beam)) else 1
    if len(order_R) % copies:
        return 1
    sentences_R = order_R // copies
    first = sentences_R[::copies]
    stays = len(order_R) < rows or torch.equal(first, torch.arange(len(first), device=first.device))
    return copies if stays and torch.equal(sentences_R, first.repeat_interleave(copies)) else 1


def _with_memory(context: LayerContext, memory: Optional[Memory]) -> LayerContext:
    if memory is None:
        return context
    return context._replace(memory_BSD=memory.x_BSD, memory_mask=memory.mask, memory_packed=memory.packed)


def _routed(padding_BT: Tensor, packed: Optional[Packing]) -> Optional[Tensor]:
    """What a feed-forward must leave out: nothing where padding was left out already."""
    return padding_BT if packed is None else None


def _max_positions(stack: Dict[str, Any]) -> int:
    positions = stack["embed_positions"]
    return int(1e5) if positions is None else positions.max_positions

"""fairseq's encoder and incremental decoder over one bidirectional stack: a text, and pseudo-masks that continue it."""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from ..modules.attention_masks import NOWHERE, masked_bias, padding_mask, seen_by_step
from ..modules.decoding_cache import DecodingCache, Recording
from ..modules.transformer_layer import LayerContext
from ..modules.transformer_stack import StackOutput
from ._adapters import CACHE, PseudoPart
from ._auxiliary import AuxiliaryLosses
from .transformer_mlm import MaskedLMEncoder

# N sentences, R rows (hypotheses), S source length, T target length, U new tokens of a step, D model dim, V vocabulary
SOURCE, TARGET = 0, 1  # segments
# What the package adds to a dictionary beside pieces of text, as `data/symbols.py` writes it.
_ADDED = re.compile(
    r"<mask>|<pseudo_mask>|<sentinel_([1-9][0-9]?|100)>|__[A-Za-z][A-Za-z0-9_]*__|madeupword\d{4,}"
)


class Noise(NamedTuple):
    """How training disturbs what stands for target tokens; UniLMv2's paper does not say so, its code does."""

    unmasked: float = 0.0  # share of pseudo-masks that are the token itself
    random: float = 0.0  # and that are another token
    originals: float = 0.0  # share of the tokens before them that are what their pseudo-mask is


class SourceEncoder(MaskedLMEncoder):
    """All parameters of the model, under the names of `transformer_mlm`; as fairseq's encoder it reads `<s> SRC </s>`.

    Args:
        dictionary, stack, head: as in `MaskedLMEncoder`.
        longest: source, in tokens without `<s>`.
    """

    longest = 0

    def max_positions(self) -> int:
        return self.longest

    def text(self, src_tokens: Tensor) -> Tuple[Tensor, Tensor]:
        """Sources as pre-training had them, `<s>` first and padding last, (N, S), and their lengths, (N,)."""
        padding_NS = src_tokens.eq(self.padding_idx)
        in_line = src_tokens.gather(1, padding_NS.int().argsort(dim=1, stable=True))
        start = src_tokens.new_full((len(src_tokens), 1), self.dictionary.bos())
        return torch.cat((start, in_line), dim=1), (~padding_NS).sum(dim=1) + 1

    def forward(self, src_tokens: Tensor, src_lengths: Optional[Tensor] = None, **unused: Any) -> Dict[str, Any]:
        """One pass over the sources; fairseq's encoder output, and under `memory` each layer's keys and values.

        All of it has one row per sentence and keeps them: `rows` says which of them each row of the engine means.
        """
        text_NS, _ = self.text(src_tokens)
        padding_NS = text_NS.eq(self.padding_idx)
        recording = Recording(self.attention_layers)
        mask = padding_mask(padding_NS) if padding_NS.any() else None
        context = LayerContext(mask, padding_BT=padding_NS, cache=recording)
        output = self.transform(self.embed(text_NS), context)
        return {
            "encoder_out": [output.x_BTD.transpose(0, 1)],
            "encoder_padding_mask": [padding_NS],
            "encoder_states": [],
            "auxiliary": output.auxiliary,
            "src_tokens": [],
            "src_lengths": [],
            "memory": recording.memory,
            "rows": [torch.arange(len(text_NS), device=text_NS.device)],
        }

    def reorder_encoder_out(self, encoder_out: Dict[str, Any], new_order: Tensor) -> Dict[str, Any]:
        """Rows `new_order` of an encoder output; no key is copied."""
        return {**encoder_out, "rows": [encoder_out["rows"][0].index_select(0, new_order)]}


class PseudoMaskDecoder(FairseqIncrementalDecoder):
    """fairseq's incremental decoder without parameters: each step reads the last token and a pseudo-mask after it.

    Args:
        dictionary: of both sides.
        stack: whose parameters it uses.
        longest: target, in tokens with its end.
        pseudo_mask: row of `<pseudo_mask>`.
    """

    def __init__(self, dictionary: Dictionary, stack: SourceEncoder, longest: int, pseudo_mask: int):
        super().__init__(dictionary)
        self._stack = (stack,)  # in a tuple: its parameters are the encoder's, not the decoder's
        self.longest = longest
        self.pseudo_mask = pseudo_mask
        self.register_buffer("ordinary", _ordinary_rows(dictionary), persistent=False)

    @property
    def stack(self) -> SourceEncoder:
        """The encoder."""
        return self._stack[0]

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[Dict[str, Any]] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Logits (R, T, V), or hidden states (R, T, D), of the tokens after `prev_output_tokens`; fairseq's extras.

        With `incremental_state` only those after tokens not seen before are computed, and returned.
        """
        cache = None if incremental_state is None else incremental_state.get(CACHE)
        if cache is None:
            assert encoder_out is not None, "this decoder reads the keys and values of an encoder"
            cache = _begin(encoder_out)
        if incremental_state is not None:
            incremental_state[CACHE] = cache
        output = self._step(prev_output_tokens, cache)
        new = prev_output_tokens.size(1) - cache.length
        cache.advance(new)
        return self.result(output._replace(x_BTD=output.x_BTD[:, new:]), features_only)

    def result(self, output: StackOutput, features_only: bool) -> Tuple[Tensor, Dict[str, Any]]:
        """What fairseq's decoders return, of the hidden states of pseudo-masks."""
        losses = AuxiliaryLosses(output.auxiliary)
        x_RTD = losses.guard(output.x_BTD)
        extra = {"attn": [None], "inner_states": output.states, "auxiliary": losses}
        return (x_RTD if features_only else self.output_layer(x_RTD)), extra

    def extract_features(self, prev_output_tokens: Tensor, **kwargs: Any) -> Tuple[Tensor, Dict[str, Any]]:
        return self(prev_output_tokens, features_only=True, **kwargs)

    def output_layer(self, features: Tensor) -> Tensor:
        return self.stack.lm_head(features)

    def before_logits(self, features_ND: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Input, weight and bias of the last linear layer, for losses that never hold all logits."""
        return self.stack.before_logits(features_ND)

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        if CACHE in incremental_state:
            incremental_state[CACHE].reorder(new_order)

    def max_positions(self) -> int:
        return self.longest

    def both_parts(self, previous_RT: Tensor, lengths_R: Tensor, noise: Noise) -> PseudoPart:
        """What stands behind sources of `lengths_R` tokens in a full pass: inputs and pseudo-masks in turn, (R, 2 T).

        Token t = 1, 2, ... of the target stands at position length + t - 1 from 0 and has step t; its pseudo-mask
        stands there too and has step -t. What the decoder starts with stands at the source's end, with step 0; where it
        is that end itself, nobody sees it. Nothing is seen by what stands before it, so that experts of one choice,
        which serve first who stands first, tell no token of a later one.

        Args:
            previous_RT: decoder inputs, the start first, padding last.
            noise: of training.
        """
        steps_RT, padding_RT = self._steps(previous_RT), previous_RT.eq(self.stack.padding_idx)
        originals_RT, masks_RT = self._disturbed(previous_RT, noise)
        count_T = torch.arange(previous_RT.size(1), device=previous_RT.device)
        unused = _in_turn(padding_RT, padding_RT)
        return PseudoPart(
            tokens=_in_turn(originals_RT, masks_RT),
            positions=(lengths_R[:, None] + _in_turn(count_T - 1, count_T)).masked_fill(unused, -1),
            steps=_in_turn(steps_RT, (-1 - count_T).masked_fill(padding_RT, NOWHERE)),
            segments=torch.full_like(unused, TARGET, dtype=torch.long),
        )

    def _step(self, previous_RT: Tensor, cache: DecodingCache) -> StackOutput:
        """Hidden states of the tokens after `cache.length`, then of their pseudo-masks: (R, 2 U, D)."""
        stack, before = self.stack, cache.length
        new_RU, steps_RT = previous_RT[:, before:], self._steps(previous_RT)
        count_U = torch.arange(before, previous_RT.size(1), device=previous_RT.device)
        mask_steps_RU = (-1 - count_U).expand_as(new_RU)
        keys_RT = torch.cat((steps_RT, mask_steps_RU), dim=1)
        self_mask = seen_by_step(torch.cat((steps_RT[:, before:], mask_steps_RU), dim=1), keys_RT)
        lengths_N, mask_NS = cache.memory_mask.sum(dim=-1).view(-1), cache.memory_mask
        offsets_U = torch.cat((count_U - 1, count_U))
        if stack.relative_bias is not None:
            offsets_T = torch.arange(-1, before - 1, device=offsets_U.device)
            own = stack.relative_bias(offsets_U[None], torch.cat((offsets_T, offsets_U))[None])
            positions_S = torch.arange(mask_NS.size(-1), device=offsets_U.device)
            theirs = stack.relative_bias(lengths_N[:, None] + offsets_U, positions_S[None])
            self_mask, mask_NS = masked_bias(own, self_mask), masked_bias(theirs, mask_NS)
        tokens_RU = torch.cat((new_RU, torch.full_like(new_RU, self.pseudo_mask)), dim=1)
        lengths_R = lengths_N.repeat_interleave(len(previous_RT) // len(lengths_N))
        rows_RU = stack.padding_idx + 1 + lengths_R[:, None] + offsets_U
        context = LayerContext(
            self_mask,
            padding_BT=new_RU.eq(stack.padding_idx).repeat(1, 2),
            memory_mask=mask_NS,
            cache=cache,
            joint=True,
        )
        return stack.transform(stack.embed(tokens_RU, rows_RU, torch.full_like(tokens_RU, TARGET)), context)

    def _steps(self, previous_RT: Tensor) -> Tensor:
        """Who may see each decoder input, by `seen_by_step`."""
        steps_RT = torch.arange(previous_RT.size(1), device=previous_RT.device).expand_as(previous_RT)
        unseen = previous_RT.eq(self.stack.padding_idx)
        unseen[:, 0] |= previous_RT[:, 0].eq(self.dictionary.eos())
        return steps_RT.masked_fill(unseen, NOWHERE)

    def _disturbed(self, previous_RT: Tensor, noise: Noise) -> Tuple[Tensor, Tensor]:
        """Decoder inputs, and pseudo-masks of the tokens after them."""
        masks_RT = torch.full_like(previous_RT, self.pseudo_mask)
        if noise == Noise():
            return previous_RT, masks_RT
        end = previous_RT.new_full((len(previous_RT), 1), self.stack.padding_idx)
        target_RT = torch.cat((previous_RT[:, 1:], end), dim=1)
        target_RT = target_RT.masked_fill(target_RT.eq(self.stack.padding_idx), self.dictionary.eos())
        kind_RT = torch.rand(previous_RT.shape, device=previous_RT.device)
        chosen_RT = torch.randint(len(self.ordinary), previous_RT.shape, device=previous_RT.device)
        masks_RT = torch.where(kind_RT < noise.unmasked + noise.random, self.ordinary[chosen_RT], masks_RT)
        masks_RT = torch.where(kind_RT < noise.unmasked, target_RT, masks_RT)
        replaced_RT = torch.rand(previous_RT.shape, device=previous_RT.device) < noise.originals
        replaced_RT &= previous_RT.ne(self.stack.padding_idx)
        replaced_RT[:, 0] = False
        return torch.where(replaced_RT, masks_RT.roll(1, dims=1), previous_RT), masks_RT


def _in_turn(inputs_RT: Tensor, masks_RT: Tensor) -> Tensor:
    """The first input, the pseudo-mask after it, the second input, and so on: (R, 2 T)."""
    return torch.stack((inputs_RT, masks_RT), dim=-1).flatten(-2)


def _begin(encoder_out: Dict[str, Any]) -> DecodingCache:
    """A cache whose memory is the encoder's: one row per sentence while the engine's rows are beams side by side."""
    memory: List[Tuple[Tensor, Tensor]] = encoder_out["memory"]
    padding_NS, rows_R = encoder_out["encoder_padding_mask"][0], encoder_out["rows"][0]
    mask = padding_mask(padding_NS)
    sentences_N = torch.arange(len(padding_NS), device=rows_R.device)
    beam = len(rows_R) // len(sentences_N)
    if not beam or not torch.equal(rows_R, sentences_N.repeat_interleave(beam)):
        memory = [(k.index_select(0, rows_R), v.index_select(0, rows_R)) for k, v in memory]
        mask = mask.index_select(0, rows_R)
    cache = DecodingCache(len(memory))
    cache.memory, cache.memory_mask = list(memory), mask
    return cache


def _ordinary_rows(dictionary: Dictionary) -> Tensor:
    """Rows of words and pieces: no specials, tags, masks, sentinels or fillers."""
    rows = [row for row in range(dictionary.nspecial, len(dictionary)) if not _ADDED.fullmatch(dictionary[row])]
    return torch.tensor(rows or [dictionary.unk()])

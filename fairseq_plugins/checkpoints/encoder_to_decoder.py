"""Layers of an encoder -> layers of another stack: XLM-T's and DeltaLM's ways to start a decoder from an encoder.

A stack is a state dict of one side without the side's name: `layers.0.self_attn.q_proj.weight`, `embed_tokens.weight`.
"""

import re
from typing import Dict, Mapping, Sequence

from torch import Tensor

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_POSITIONS, _SEGMENTS = "embed_positions.weight", "embed_segments.weight"
_CROSS = re.compile(r"self_attn\.([qkv]_proj\..+)")  # what XLM-T's released code can copy into cross-attention


def layer_count(stack: Mapping[str, Tensor]) -> int:
    """Layers of a stack, 0 without any."""
    return 1 + max((int(found[1]) for found in map(_LAYER.fullmatch, stack) if found), default=-1)


def plain_stack(
    stack: Mapping[str, Tensor], layers: Sequence[int], *, cross_attention: bool = False
) -> Dict[str, Tensor]:
    """A stack of the chosen layers, in that order, and all that stands outside layers (a new dict, same tensors).

    Args:
        stack: of an encoder.
        layers: number of the encoder's layer for every layer of the result.
        cross_attention: also copy the projections of queries, keys and values into a cross-attention.
    """
    taken = _outside_layers(stack)
    for index, layer in enumerate(layers):
        for part, value in _layer(stack, layer).items():
            taken[f"layers.{index}.{part}"] = value
            cross = _CROSS.fullmatch(part)
            if cross_attention and cross:
                taken[f"layers.{index}.encoder_attn.{cross[1]}"] = value
    return taken


def interleaved_stack(
    stack: Mapping[str, Tensor], layers: Sequence[int], *, cross_attention: bool = True
) -> Dict[str, Tensor]:
    """A decoder with `--interleaved-ffn` from twice as many layers of an encoder (DeltaLM, by the authors' code).

    The first of two layers gives self-attention and the first feed-forward; the second one's self-attention becomes the
    cross-attention, with its norm, and its feed-forward the second one.

    Args:
        stack: of an encoder.
        layers: two numbers of encoder layers for every layer of the result.
        cross_attention: False leaves cross-attention and its norm out.
    """
    taken = _outside_layers(stack)
    for index, (first, second) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        for part, value in _layer(stack, first).items():
            part = part.replace("feed_forward.", "first_feed_forward.").replace("final_layer_norm", "ffn_layer_norm")
            taken[f"layers.{index}.{part}"] = value
        for part, value in _layer(stack, second).items():
            if part.startswith("self_attn"):
                if not cross_attention:
                    continue
                part = part.replace("self_attn", "encoder_attn")
            taken[f"layers.{index}.{part}"] = value
    return taken


def without_segments(stack: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """A stack without segment table that reads a text as one with it does, all of it in segment 0 (a new dict).

    Every position gets that segment's row: they are added anyway.

    Raises:
        ValueError: there are no learned positions.
    """
    rest = {name: value for name, value in stack.items() if name != _SEGMENTS}
    if len(rest) == len(stack):
        return rest
    if _POSITIONS not in stack:
        raise ValueError("it has segments and no learned positions, of which segment 0 could become a part")
    rest[_POSITIONS] = stack[_POSITIONS] + stack[_SEGMENTS][0]
    return rest


def _outside_layers(stack: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    return {name: value for name, value in stack.items() if not _LAYER.fullmatch(name)}


def _layer(stack: Mapping[str, Tensor], number: int) -> Dict[str, Tensor]:
    return {found[2]: stack[found[0]] for found in map(_LAYER.fullmatch, stack) if found and int(found[1]) == number}

"""Parameter names of stock fairseq Transformers -> ours, and back.

They differ in one place: a layer's feed-forward is a slot, so a dense one is `layers.N.feed_forward.fc1` here and
`layers.N.fc1` there.
"""

import re
from typing import Dict, Mapping

from torch import Tensor, tensor

_STOCK_FEED_FORWARD = re.compile(r"(.*\blayers\.\d+)\.(fc1|fc2)\.(weight|bias)")
_OUR_FEED_FORWARD = re.compile(r"(.*\blayers\.\d+)\.feed_forward\.(fc1|fc2)\.(weight|bias)")
_FUSED = re.compile(r"(.*)\.in_proj_(weight|bias)")
_NOT_WEIGHTS = re.compile(r"(.*\.)?(version|embed_positions\._float_tensor|embed_positions\.weights)")


def from_fairseq(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Our names for a stock state dict (a new dict; our own names pass through).

    Splits the fused q/k/v projection of old checkpoints and drops version marks and sinusoidal tables, which are not
    weights.
    """
    renamed = {}
    for name, value in state.items():
        if _NOT_WEIGHTS.fullmatch(name):
            continue
        fused = _FUSED.fullmatch(name)
        if fused:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{fused[1]}.{part}_proj.{fused[2]}"] = third
        else:
            renamed[_STOCK_FEED_FORWARD.sub(r"\1.feed_forward.\2.\3", name)] = value
    return renamed


def to_fairseq(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Stock names for a dense encoder-decoder of ours (a new dict; stock names pass through).

    Adds the version marks without which stock encoders and decoders drop their final norm. Sinusoidal tables are not
    part of a state: the engine makes its own.
    """
    renamed = {_OUR_FEED_FORWARD.sub(r"\1.\2.\3", name): value for name, value in state.items()}
    stacks = dict.fromkeys(name.partition(".")[0] for name in state)
    return {**{f"{stack}.version": tensor([3.0]) for stack in stacks}, **renamed}


def replace(state: Dict[str, Tensor], renamed: Dict[str, Tensor]) -> None:
    """Put `renamed` into `state`, in place: what the engine's loading hook asks for."""
    state.clear()
    state.update(renamed)

"""Attention of any temperature -> ordinary attention, for engines that divide scores by the root of the head width."""

import re
from typing import Dict, Mapping

from torch import Tensor

_QUERIES = re.compile(r"(\w+)\.layers\.\d+\.(self_attn|encoder_attn)\.q_proj\.(weight|bias)")


def fold_attention_temperature(state: Mapping[str, Tensor], factor: Mapping[str, float]) -> Dict[str, Tensor]:
    """Scale queries, so that ordinary attention has the scores of one with a temperature (PLATE, arXiv 2106.03441).

    q k / sqrt(T) = (q sqrt(K / T)) k / sqrt(K) with heads of width K: the same function up to rounding.

    Args:
        state: names and tensors of a model; passed on as they are but for what is scaled.
        factor: stack (`encoder`, `decoder`) -> sqrt(K / T); 1 where its attention is ordinary.
    """
    folded = dict(state)
    for name, found in zip(state, map(_QUERIES.fullmatch, state), strict=True):
        if found and factor[found[1]] != 1:
            folded[name] = state[name] * factor[found[1]]
    return folded

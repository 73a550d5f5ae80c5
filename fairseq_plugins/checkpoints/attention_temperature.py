"""Attention of any temperature -> ordinary attention, for engines that divide scores by the root of the head width."""

import re
from typing import Any, Dict, Mapping

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


def query_factors(options: Mapping[str, Any]) -> Dict[str, float]:
    """What queries of each stack are to be multiplied by, for scores that are divided by the root of the head width.

    Args:
        options: of a model, complete; those of a stack that it lacks may be missing.
    """
    temperature, factors = options["attention_temperature"], {}
    for side in ("encoder", "decoder"):
        if f"{side}_embed_dim" in options:
            width = options["attention_head_dim"] or options[f"{side}_embed_dim"] // options[f"{side}_attention_heads"]
            factors[side] = (width / (temperature or width)) ** 0.5
    return factors

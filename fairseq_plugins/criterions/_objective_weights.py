"""Weights of several losses in one option."""

import math
from typing import Dict, List

from ..compat import Refusal


def parse_weights(text: str, objectives: List[str]) -> Dict[str, float]:
    """`sc:1,tsc:0.5` as numbers, 1 for the others of `objectives`.

    Raises:
        Refusal: an objective that the task does not have, or what is not a positive number.
    """
    weights = dict.fromkeys(objectives, 1.0)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition(":")
        if name not in weights:
            raise Refusal(f"--objective-weights {part}: the objectives are {', '.join(objectives)} (--objectives)")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = -1.0
        if not 0 < weights[name] < math.inf:
            raise Refusal(f"--objective-weights {part}: give a positive number after the colon, as {name}:1")
    return weights

"""DeepNorm -> plain post-norm, for engines that know no weighted skip connections."""

import re
from typing import Dict, Mapping

from torch import Tensor

# the last projection of each sublayer, in this package's names and in fairseq's
_LAST = re.compile(r"(\w+)\.layers\.\d+\.(?:self_attn\.out_proj|encoder_attn\.out_proj|(?:feed_forward\.)?fc2)\.\w+")


def fold_deepnorm(state: Mapping[str, Tensor], alpha: Mapping[str, float]) -> Dict[str, Tensor]:
    """Divide the last projection of every sublayer by its stack's alpha (DeepNet, arXiv 2203.00555, Section 3).

    LN(alpha x + G(x)) = LN(x + G(x) / alpha) if the norm's eps is divided by alpha^2 as well. An engine whose eps is
    fixed computes the same but for that: docs/serving.md says how little it is.

    Args:
        state: names and tensors of a dense model; passed on as they are but for what is divided.
        alpha: stack (`encoder`, `decoder`) -> weight of its skip connections; 1 where it has none.
    Raises:
        ValueError: a stack with an alpha has no such projection: not the state of that model.
    """
    folded, divided = {}, set()
    for name, tensor in state.items():
        last = _LAST.fullmatch(name)
        if last and alpha.get(last[1], 1.0) != 1:
            tensor = tensor / alpha[last[1]]
            divided.add(last[1])
        folded[name] = tensor
    for stack, value in alpha.items():
        if value != 1 and stack not in divided:
            raise ValueError(f"it has no parameters of the {stack}'s layers")
    return folded

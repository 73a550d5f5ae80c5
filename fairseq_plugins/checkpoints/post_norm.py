"""DeepNorm -> plain post-norm, for engines that know no weighted skip connections."""

import re
from typing import Dict, List, Mapping, Tuple

from torch import Tensor

_LAYER = re.compile(r"(\w+)\.layers\.(\d+)\.(.+)")
# Parts of a layer, by names that end in this package's and in fairseq's words.
_NORM = re.compile(r"(self_attn|encoder_attn|final)_layer_norm\.(weight|bias)")
_READS = re.compile(r"(self_attn\.[qkv]_proj|encoder_attn\.q_proj|(feed_forward\.)?fc1)\.weight")
_FIRST_OUTPUT = re.compile(r"self_attn\.out_proj\.(weight|bias)")
_INPUT = ("embed_project", "layernorm_embedding")  # what makes a stack's input, where there is one: the last of them


def fold_deepnorm(state: Mapping[str, Tensor], alpha: Mapping[str, float]) -> Dict[str, Tensor]:
    """Move the weight of DeepNorm's skip connections (DeepNet, arXiv 2203.00555, Section 3) into the parameters.

    Every norm hands alpha x on instead of x, and what reads that divides by alpha: LN(alpha x + G(x)) is then an
    ordinary post-norm sublayer with the norm's own eps. So does a norm of the embeddings. Without one a stack's input
    x_0 cannot be scaled, and its first sublayer is folded by LN(alpha x_0 + G(x_0)) = LN(x_0 + G(x_0) / alpha), which
    is exact if that one norm's eps is divided by alpha^2 too: docs/serving.md says how little it is otherwise. The last
    norm hands x itself to what comes after.

    Args:
        state: names and tensors of a dense model; passed on as they are but for what is scaled.
        alpha: stack (`encoder`, `decoder`) -> weight of its skip connections; 1 where it has none.
    Raises:
        ValueError: a stack with an alpha has no layers: not the state of that model.
    """
    layers: Dict[str, int] = {}
    for stack, number, _ in _layers(state):
        layers[stack] = max(layers.get(stack, 0), number + 1)
    for stack, value in alpha.items():
        if value != 1 and stack not in layers:
            raise ValueError(f"it has no parameters of the {stack}'s layers")
    folded, scaled = dict(state), set()
    for stack, value in alpha.items():
        makers = (f"{stack}.{part}." for part in _INPUT)
        maker = next((maker for maker in makers if f"{maker}weight" in state), None)
        if value != 1 and maker is not None:
            scaled.add(stack)
            folded.update({name: state[name] * value for name in state if name.startswith(maker)})
    for stack, number, part in _layers(state):
        first, last = number == 0 and stack not in scaled, number == layers[stack] - 1
        factor = _factor(part, alpha.get(stack, 1.0), first=first, last=last)
        if factor != 1:
            name = f"{stack}.layers.{number}.{part}"
            folded[name] = state[name] * factor
    return folded


def _layers(state: Mapping[str, Tensor]) -> List[Tuple[str, int, str]]:
    """(stack, number of the layer, rest of the name) of everything inside a layer."""
    return [(found[1], int(found[2]), found[3]) for found in map(_LAYER.fullmatch, state) if found]


def _factor(part: str, alpha: float, *, first: bool, last: bool) -> float:
    """What one parameter of a layer is multiplied by."""
    if _NORM.fullmatch(part):
        return 1.0 if last and part.startswith("final") else alpha
    if first and part.startswith("self_attn."):  # reads x_0 as it is
        return 1 / alpha if _FIRST_OUTPUT.fullmatch(part) else 1.0
    return 1 / alpha if _READS.fullmatch(part) else 1.0

"""A model whose experts were pruned to one per layer -> the dense model that computes the same."""

import re
from typing import Any, Dict, List, Mapping

from torch import Tensor

DENSE_NAMES = {
    "fc1_weight": "fc1.weight",
    "fc1_bias": "fc1.bias",
    "fc2_weight": "fc2.weight",
    "fc2_bias": "fc2.bias",
    "inner_norm.weight": "inner_norm.weight",
    "inner_norm.bias": "inner_norm.bias",
}
_MOE = re.compile(r"(.*\blayers\.\d+)\.feed_forward\.alive")


def dense_model(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """`to_dense` for a model with these options (of a checkpoint's `cfg.model`).

    Raises:
        ValueError: no such model exists; one sentence that says what stands in the way.
    """
    if "moe_experts" not in options:
        raise ValueError("it does not say that it has experts: it is no checkpoint with --moe-experts")
    if options["moe_eval_capacity_factor"]:
        raise ValueError(
            f"it drops tokens over its --moe-eval-capacity-factor {options['moe_eval_capacity_factor']}, and a dense "
            "feed-forward never does: fine-tune with 0"
        )
    return to_dense(state, gate=str(options["moe_gate"]), top_k=options["moe_top_k"])


def to_dense(state: Mapping[str, Tensor], *, gate: str, top_k: int) -> Dict[str, Tensor]:
    """State dict of the dense model with identical outputs; everything outside MoE layers is passed on as it is.

    Args:
        state: names and tensors of a model with all its experts.
        gate: `softmax` or `sigmoid`.
        top_k: experts per token. Two gates are normalised to sum 1, so a lone expert's is 1 under a sigmoid too.

    Raises:
        ValueError: no such model exists; one sentence that names the layer and what stands in the way.
    """
    moe_layers = [match[1] for match in map(_MOE.fullmatch, state) if match]
    if not moe_layers:
        raise ValueError("it has no mixture-of-experts layers: it is dense already")
    dense: Dict[str, Tensor] = {}
    inside = {}
    for layer in moe_layers:
        inside[layer] = _lone_expert(state, layer, gate_may_vary=gate == "sigmoid" and top_k == 1)
    for name, tensor in state.items():
        layer, slot, _ = name.partition(".feed_forward.")
        if not slot or layer not in inside:
            dense[name] = tensor
        elif inside[layer]:
            dense.update(inside[layer])
            inside[layer] = {}
    return dense


def _lone_expert(state: Mapping[str, Tensor], layer: str, gate_may_vary: bool) -> Dict[str, Tensor]:
    """The dense feed-forward that one layer has become."""
    prefix = f"{layer}.feed_forward."
    parts = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    living: List[int] = parts["alive"].nonzero().view(-1).tolist()
    weights = {name[len("experts.") :]: tensor for name, tensor in parts.items() if name.startswith("experts.")}
    if len(living) != 1:
        raise ValueError(f"{layer} has {len(living)} experts left: fine-tune with --moe-prune until one is")
    if not any(name.startswith(f"{layer}.") and not name.startswith(prefix) for name in state):
        raise ValueError(f"{layer} is an inserted layer of experts: no dense layer of this package computes the same")
    if any(not name.startswith("sublayers.0.") for name in weights):
        raise ValueError(f"{layer} has experts of several sublayers: no dense feed-forward computes the same")
    if gate_may_vary and not ("pruning.gate_is_one" in parts and parts["pruning.gate_is_one"]):
        raise ValueError(
            f"{layer} has a sigmoid gate, which still weighs the last expert by the token: "
            "fine-tune with --moe-prune-gate-one"
        )
    dense = {}
    for name, stacked in weights.items():
        if len(stacked) != len(parts["alive"]):
            raise ValueError(f"{layer} holds {len(stacked)} of {len(parts['alive'])} experts: run merge-experts first")
        # a copy, as a view would take the memory of all experts along into the file
        dense[prefix + DENSE_NAMES[name[len("sublayers.0.") :]]] = stacked[living[0]].clone()
    return dense

"""The start-up self-check of `--residual deepnorm` and `subln`: their constants and their effect on the first batch."""

import logging
import math
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from ..modules.residual import ResidualScheme
from ..modules.transformer_layer import TransformerLayer
from ..modules.transformer_stack import TransformerStack

logger = logging.getLogger(__name__)

SLACK = 2.0  # a branch this many times stronger than promised did not start by its scheme; those that do reach 1.1


def arm(model: nn.Module) -> None:
    """Log one line per stack of `model` on its first training forward, if its residual scheme has constants by depth.

    Measured are the root mean squares (rms) of the stack's output and of the branches of its first, middle and last
    layer over the rms of their weighted skip. Hooks do it, which are gone after that forward: recomputation of
    checkpointed activations and every later update meet none. Only rank 0 looks; generation never does.

    Args:
        model: whose direct children that are stacks are looked at.
    """
    stacks = {name: child for name, child in model.named_children() if isinstance(child, TransformerStack)}
    if not any(_has_constants(scheme) for scheme in map(_scheme, stacks.values()) if scheme is not None):
        return
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    loaded: List[bool] = []
    model.register_load_state_dict_post_hook(lambda module, keys: loaded.append(True))

    def start(module: nn.Module, inputs: Any) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        armed.remove()
        checks = [_StackCheck(name, stack) for name, stack in stacks.items()]

        def finish(module: nn.Module, inputs: Any, output: Any) -> None:
            finished.remove()
            for check in checks:
                check.report(fresh=not loaded)

        finished = module.register_forward_hook(finish)

    armed = model.register_forward_pre_hook(start)


def promised_ratio(scheme: ResidualScheme, gain: float, skip: float) -> float:
    """The most that a branch should measure at the start, over its weighted skip.

    A Xavier map of gain g between equal widths keeps rms times g. Under DeepNorm a branch is two such maps (v and out,
    or fc1 and fc2) of a stream of rms x, and averaging over tokens, the activation and unequal widths only make it
    smaller: at most g^2 x against alpha x, so g^2 / alpha. That is v w / alpha of DeepNet's bound on the model update
    (arXiv 2203.00555, Appendix B), whose constants make 2N (v^2 + w^2) / alpha^2 = 1 in a single stack. Under Sub-LN
    the inner norm sets rms 1 before the last map, whose widths are unequal in the feed-forward: at most sqrt(2) g,
    while the skip grows with depth.

    Args:
        scheme: of the stack.
        gain: Xavier gain of this branch.
        skip: rms of the unweighted skip.
    """
    return math.sqrt(2) * gain / max(skip, 1e-12) if scheme.inner_norm else gain**2 / scheme.alpha


class Branch(NamedTuple):
    """One sublayer on the first batch."""

    name: str
    ratio: float  # rms of the branch / rms of the weighted skip
    promised: float  # the most it should be at the start

    def text(self, fresh: bool) -> str:
        """For the log; the promise is one about the start only."""
        return f"{self.name} {self.ratio:.3f}" + (f" (<= {self.promised:.3f})" if fresh else "")


class _StackCheck:
    """Hooks in one stack that measure one forward."""

    def __init__(self, name: str, stack: TransformerStack):
        self.name, self.stack = name, stack
        self.rms: Dict[str, Tensor] = {}
        layers = [i for i, layer in enumerate(stack.layers) if isinstance(layer, TransformerLayer)]
        self.chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
        last: Any = stack.layers[-1] if stack.layer_norm is None else stack.layer_norm
        self.handles = [last.register_forward_hook(self._keep("output"))]
        for index in self.chosen:
            for part, module, norm, _ in _branches(stack.layers[index]):
                key = f"{index} {part}"
                skip = norm if stack.layers[index].scheme.norm_first else module
                self.handles.append(module.register_forward_hook(self._keep(key)))
                self.handles.append(skip.register_forward_pre_hook(self._keep_input(f"{key} skip")))

    def report(self, fresh: bool) -> None:
        """Remove the hooks, log the line, and warn where the numbers are not what the scheme is made for."""
        for handle in self.handles:
            handle.remove()
        if "output" not in self.rms:
            return  # this forward did not use the stack
        output = self.rms["output"].item()
        measured = {index: self._measured(index) for index in self.chosen}
        layers = ", ".join(
            f"layer {index + 1}: " + " ".join(branch.text(fresh) for branch in parts)
            for index, parts in measured.items()
        )
        source = "" if fresh else " (weights of a checkpoint: not the scale at the start)"
        logger.info(
            f"self-check of the {self.name}: {len(self.stack.layers)} layers, {_constants(self.stack)}; first batch"
            f"{source}: output rms {output:.3f}, branch / skip in {layers}"
        )
        if not math.isfinite(output):
            logger.warning(f"self-check: the output of the {self.name} is not finite on the first batch")
        for index, parts in measured.items():
            for branch in parts:
                if not branch.ratio <= SLACK * branch.promised and (fresh or not math.isfinite(branch.ratio)):
                    logger.warning(
                        f"self-check: {self.name} layer {index + 1} {branch.name} measures {branch.ratio:.3f} of its "
                        f"skip, and its residual scheme promises at most {branch.promised:.3f}; deep stacks that start "
                        "like this diverge: were weights initialised again after the model was built?"
                    )

    def _measured(self, index: int) -> List[Branch]:
        layer: Any = self.stack.layers[index]
        found = []
        for name, _, _, gain in _branches(layer):
            key = f"{index} {name}"
            if key in self.rms:
                skip = self.rms[f"{key} skip"].item()
                ratio = self.rms[key].item() / max(layer.scheme.alpha * skip, 1e-12)
                found.append(Branch(name, ratio, promised_ratio(layer.scheme, gain, skip)))
        return found

    def _keep(self, key: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.rms[key] = _rms(output[0] if isinstance(output, tuple) else output)

        return hook

    def _keep_input(self, key: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.rms[key] = _rms(inputs[0])

        return hook


def _rms(x: Tensor) -> Tensor:
    with torch.no_grad():  # nothing for a recomputed forward to miss
        return x.detach().float().square().mean().sqrt()


def _branches(layer: Any) -> List[Any]:
    """(name, module, norm, Xavier gain) of the sublayers that stand on the layer's residual stream."""
    scheme = layer.scheme
    found = [("self_attn", layer.self_attn, layer.self_attn_layer_norm, scheme.gain)]
    if layer.first_feed_forward is not None:
        found.append(("first_feed_forward", layer.first_feed_forward, layer.ffn_layer_norm, scheme.gain))
    if layer.encoder_attn is not None:
        found.append(("encoder_attn", layer.encoder_attn, layer.encoder_attn_layer_norm, scheme.cross_gain))
    if layer.final_layer_norm is not None:
        found.append(("feed_forward", layer.feed_forward, layer.final_layer_norm, scheme.gain))
    return found


def _scheme(stack: TransformerStack) -> Optional[ResidualScheme]:
    return next((layer.scheme for layer in stack.layers if isinstance(layer, TransformerLayer)), None)


def _has_constants(scheme: ResidualScheme) -> bool:
    return scheme.inner_norm or scheme.alpha != 1 or scheme.gain != 1


def _constants(stack: TransformerStack) -> str:
    scheme = _scheme(stack)
    assert scheme is not None
    if scheme.inner_norm:
        return f"--residual subln: gamma {scheme.gain:.4f}"
    return f"--residual deepnorm: alpha {scheme.alpha:.4f}, beta {scheme.gain:.4f}"

"""From `moe_prune*` options to what scores the experts of a layer and lets them go."""

import functools
from typing import Any, Dict, Optional

from torch import Tensor

from ..compat import safe_load
from ..modules.moe.pruning import LayerPruning, PruningSchedule
from ._build_moe import OptionError, sum_over_workers

# E experts


def check_pruning(cfg: Any) -> None:
    """Refuse `moe_prune*` options out of range or without use.

    Raises:
        OptionError: one sentence that names the flag and its value.
    """
    variant, path = str(cfg.moe_prune), cfg.moe_prune_from
    if path and variant != "two-pass":
        raise OptionError(f"--moe-prune-from {path} needs --moe-prune two-pass, not {variant}")
    if variant == "none":
        return
    if not cfg.moe_experts:
        raise OptionError(f"--moe-prune {variant} needs --moe-experts above 0")
    for flag, value in (
        ("--moe-capacity-factor", cfg.moe_capacity_factor),
        ("--moe-eval-capacity-factor", cfg.moe_eval_capacity_factor),
    ):
        if value and (path or variant != "two-pass"):
            raise OptionError(f"--moe-prune {variant} needs {flag} 0, not {value}: the last expert takes every token")
    if cfg.moe_cluster_dropout and (path or variant != "two-pass"):
        raise OptionError(
            f"--moe-prune {variant} needs --moe-cluster-dropout 0, not {cfg.moe_cluster_dropout}: experts would "
            "score low for having been left out"
        )
    _schedule(cfg)


def layer_pruning(cfg: Any, name: str) -> Optional[LayerPruning]:
    """The pruning of one MoE layer, None where experts are not pruned.

    Args:
        cfg: options of a model, checked.
        name: of the layer in the state dict, for example `encoder.layers.1`.
    """
    if str(cfg.moe_prune) == "none":
        return None
    path = cfg.moe_prune_from
    return LayerPruning(
        cfg.moe_experts,
        _schedule(cfg),
        score=str(cfg.moe_prune_score),
        gate_one=cfg.moe_prune_gate_one,
        choose=functools.partial(_best_of, path, name, cfg.moe_experts) if path else None,
        sum_over_workers=sum_over_workers(),
        name=name,
    )


def _schedule(cfg: Any) -> PruningSchedule:
    try:
        return PruningSchedule(
            str(cfg.moe_prune), cfg.moe_prune_updates, cfg.moe_prune_windows, cfg.moe_prune_threshold
        )
    except ValueError as error:
        raise OptionError(str(error)) from None


def _best_of(path: str, layer: str, experts: int) -> int:
    """The expert with the best score in the first pass. Read when training begins: a model that only generates needs no
    such file.

    Raises:
        OptionError: no readable checkpoint, or one of another model or another kind of training.
    """
    score_E = _recorded_scores(path).get(f"{layer}.feed_forward.pruning.score")
    if score_E is None or not score_E.any():
        raise OptionError(f"--moe-prune-from {path} has no scores of {layer}; train with --moe-prune two-pass for them")
    if len(score_E) != experts:
        raise OptionError(f"--moe-prune-from {path} has scores of {len(score_E)} experts, this model has {experts}")
    return int(score_E.argmax())


@functools.lru_cache(maxsize=1)
def _recorded_scores(path: str) -> Dict[str, Tensor]:
    model = safe_load(path).get("model", {})
    return {name: tensor.clone() for name, tensor in model.items() if name.endswith(".pruning.score")}

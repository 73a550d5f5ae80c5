"""Turn a mixture-of-experts checkpoint, pruned to one expert per layer, into a dense one that computes the same.

    prune-experts run/checkpoint_best.pt --output dense.pt

The result is a dense model of the same architecture, for generation, or for training on with --finetune-from-model. It
holds no optimiser state and no moving average; what `opus100 train` recorded about its data goes along. Fine-tune with
--moe-prune to get there. Experts of several sublayers, inserted layers and sigmoid gates without --moe-prune-gate-one
have no dense equal and are refused.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import load_checkpoint, options_of, sound, write_checkpoint
from fairseq_plugins.opus100.run_folder import BOUND_KEY, data_of_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to read and what to write."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of a model pruned with --moe-prune")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the dense checkpoint to write")


def run(args: argparse.Namespace) -> None:
    """Read, replace each MoE layer by its last expert, write.

    Raises:
        UserError: a file that is missing, damaged or no checkpoint of this package, or experts without a dense equal.
    """
    from fairseq_plugins.checkpoints.expert_pruning import dense_model  # late: torch takes seconds to import

    state = load_checkpoint(args.checkpoint)
    try:
        with sound(args.checkpoint, ValueError):
            dense = dense_model(options_of(state, "model") if state.get("cfg") else {}, state["model"])
    except ValueError as error:
        raise UserError(f"{args.checkpoint} cannot become dense: {error}") from None
    with sound(args.checkpoint):
        result = {**state, "model": dense, "cfg": _dense_options(state["cfg"])}
    result["extra_state"] = _extra(args.checkpoint, state)
    result.pop("last_optimizer_state", None)
    write_checkpoint(result, args.output)
    saved = _parameters(state["model"]) - _parameters(dense)
    print(f"{args.output}: {args.checkpoint} as a dense model, {saved:,} parameters less")


def _parameters(model: Dict[str, Any]) -> int:
    return sum(tensor.numel() for tensor in model.values() if tensor.is_floating_point())


def _dense_options(cfg: Any) -> Any:
    """The options of the checkpoint with every option of experts at its default."""
    import copy

    import fairseq_plugins

    fairseq_plugins.register()
    from fairseq import models

    cfg = copy.deepcopy(cfg)
    name = models.ARCH_MODEL_NAME_REGISTRY.get(cfg["model"]["_name"], cfg["model"]["_name"])
    for option, default in vars(models.MODEL_DATACLASS_REGISTRY[name]()).items():
        if option.startswith("moe_") or option == "freeze_moe":
            cfg["model"][option] = default
    return cfg


def _extra(path: Path, state: Dict[str, Any]) -> Dict[str, Any]:
    """The checkpoint's `extra_state` without moving averages and places of experts, and with the data it stems from."""
    from fairseq_plugins.checkpoints.expert_shards import RECORD

    left_out = ("ema", "ema_fp32_params", RECORD)
    extra = {key: value for key, value in (state.get("extra_state") or {}).items() if key not in left_out}
    data = data_of_checkpoint(path, state)
    return extra if data is None else {**extra, BOUND_KEY: data}

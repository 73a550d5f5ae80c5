"""The generator or the discriminator of an `electra` checkpoint as a checkpoint of `transformer_mlm`."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.cli._checkpoint_checks import bad_options, check_numbers, check_types, check_weights, damaged
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of
from fairseq_plugins.opus100.files import sha256_of
from fairseq_plugins.opus100.run_folder import data_of_checkpoint, quiet_engine

_MODEL, _KIND = "transformer_mlm", "electra"
_LONGEST = "max_source_positions"  # the task's, where a command does not say it


class Part(NamedTuple):
    """One of the two models."""

    checkpoint: Dict[str, Any]  # what to give to torch.save
    flags: List[str]  # words of fairseq-train that build it


def electra_part_checkpoint(path: Path, part: str) -> Part:
    """Read an `electra` and make a checkpoint of one part of it; one that was made so stays as it is.

    Data and dictionary are the checkpoint's. Task and criterion are masked_lm's where they were electra's, which want
    both models.

    Args:
        path: the checkpoint.
        part: generator or discriminator.
    Raises:
        UserError: it is missing, damaged, of another model, or of one rank among several.
    """
    from fairseq_plugins.checkpoints.electra_parts import electra_part
    from fairseq_plugins.checkpoints.expert_shards import RECORD
    from fairseq_plugins.opus100.engines.stock_checkpoint import EXPORTED_KEY, exported_checkpoint

    state = load_state(path, typed=False)
    check_types(state, path, _KIND)
    with quiet_engine():
        fairseq_plugins.register()
    made = ((state.get("extra_state") or {}).get(EXPORTED_KEY) or {}).get("part")
    if made:
        if made != part:
            raise UserError(f"{path} is a {made} alone: --to {part} takes the checkpoint that it was made from")
        options = {**_defaults(), **options_of(state, "model")}
        check_numbers(options, _MODEL, path, _KIND)
        check_weights(state["model"], options, options_of(state, "task"), path, kind=_KIND)
        return Part(state, _flags(options))
    options = _options(state, path, part)
    if ((state.get("extra_state") or {}).get(RECORD) or {}).get("ranks", 1) > 1:
        raise UserError(f"{path} holds a part of the experts; join the files of all ranks with "
                        "python -m fairseq_plugins merge-experts first")  # fmt: skip
    try:
        model = electra_part(state["model"], part)
    except ValueError as error:
        raise damaged(path, f"{error}", _KIND) from None
    source = {"file": path.name, "sha256": sha256_of(path), "part": part}
    exported = exported_checkpoint(options, model, state, source, data_of_checkpoint(path, state))
    cfg = exported["cfg"]
    cfg["criterion"] = {"_name": "masked_lm", "tpu": False}
    if cfg["task"].get("_name") == "electra":
        cfg["task"] = _masked_lm_task(cfg["task"])
    check_weights(model, options, cfg["task"], path, kind=_KIND)
    return Part(exported, _flags(options))


def _options(state: Dict[str, Any], path: Path, part: str) -> Dict[str, Any]:
    """The part's options, all that `transformer_mlm` has and no others."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
    from omegaconf import OmegaConf

    stored = options_of(state, "model")
    arch = stored.get("_name") or stored.get("arch")
    model = ARCH_MODEL_NAME_REGISTRY.get(arch, arch)
    if model != "electra":
        raise UserError(f"checkpoint {path} is of a {model}: --to {part} takes one of --arch electra")
    check_numbers(stored, model, path, _KIND)
    with bad_options(path, _KIND):
        own = MODEL_REGISTRY["electra"].part_options(OmegaConf.create({**stored}), part)
        kept = {name: own[name] for name in _defaults() if name in own}
    return {"_name": _MODEL, "arch": _MODEL, **_defaults(), **kept}


def _masked_lm_task(task: Dict[str, Any]) -> Dict[str, Any]:
    """The stock task over the same dictionary, which masks as `--task electra` does."""
    kept = ("tokens_per_sample", "sample_break_mode", "mask_prob", "leave_unmasked_prob", "seed")
    options = {name: task[name] for name in kept if name in task}
    data = task.get("data") or task.get("mono_data")
    return {"_name": "masked_lm", "data": data, "random_token_prob": 0.0, **options}


def _defaults() -> Dict[str, Any]:
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    return {name: value for name, value in vars(MODEL_DATACLASS_REGISTRY[_MODEL]()).items() if name != "_name"}


def _flags(options: Dict[str, Any]) -> List[str]:
    """Those that are not the defaults."""
    words = ["--arch", _MODEL]
    for name, default in _defaults().items():
        value = options[name]
        if name != _LONGEST and value != default and str(value) != str(default):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words

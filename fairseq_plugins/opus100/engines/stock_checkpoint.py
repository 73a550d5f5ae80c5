"""A plain Transformer as a checkpoint file of stock fairseq: nothing in it but tensors and plain values.

So it loads without --user-dir, and also where torch reads weights only (its default since 2.6) and refuses the
Namespace objects that fairseq-train itself writes.
"""

import argparse
from typing import Any, Dict, Mapping

from fairseq_plugins.opus100.engines.plain_transformer import PlainTransformer
from fairseq_plugins.opus100.facts import MULTILINGUAL, MULTILINGUAL_TASKS
from fairseq_plugins.opus100.run_folder import BOUND_KEY

EXPORTED_KEY = "exported"  # in extra_state: what the file was made from


def stock_checkpoint(
    model: PlainTransformer, checkpoint: Mapping[str, Any], source: Mapping[str, Any], data: Any
) -> Dict[str, Any]:
    """What to give to torch.save.

    Args:
        model: to write.
        checkpoint: it comes from; task and everything else but the model are its own. No optimiser state goes along.
        source: file name and sha256 of that.
        data: what it was trained from, as `run_folder.bound_data` says it, or None.
    """
    options = {"_name": "transformer", "arch": "transformer", **model.options}
    exported = exported_checkpoint(options, model.state, checkpoint, source, data)
    task = exported["cfg"]["task"]
    if task.get("_name") in MULTILINGUAL_TASKS:  # how it was trained is nothing to those who translate
        task.update(_name=MULTILINGUAL, task=MULTILINGUAL)
    return exported


def exported_checkpoint(
    options: Mapping[str, Any],
    model: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    source: Mapping[str, Any],
    data: Any,
) -> Dict[str, Any]:
    """What to give to torch.save for another model than the checkpoint's, made from it.

    Args:
        options: of that model, with its `_name`.
        model: its parameters by name.
        checkpoint, source, data: as above.
    """
    cfg = _configuration(checkpoint)
    cfg["model"] = dict(options)
    extra = {EXPORTED_KEY: dict(source), **({} if data is None else {BOUND_KEY: data})}
    last = (checkpoint.get("optimizer_history") or [{}])[-1]
    history = [{"criterion_name": last.get("criterion_name"), "optimizer_name": last.get("optimizer_name"),
                "lr_scheduler_state": {}, "num_updates": last.get("num_updates", 0)}]  # fmt: skip
    return {"args": None, "cfg": cfg, "model": dict(model), "optimizer_history": history, "task_state": {},
            "extra_state": extra}  # fmt: skip


def _configuration(checkpoint: Mapping[str, Any]) -> Dict[str, Any]:
    if checkpoint.get("cfg"):
        return _plain(checkpoint["cfg"])
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import OmegaConf

    return _plain(OmegaConf.to_container(convert_namespace_to_omegaconf(checkpoint["args"])))


def _plain(value: Any) -> Any:
    """Namespaces as dicts, at every depth."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value

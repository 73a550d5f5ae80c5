"""Whether a checkpoint is what `export` takes it for, before anything is written."""

import argparse
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, Mapping

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import options_of
from fairseq_plugins.opus100.run_folder import BOUND_KEY

_TOKENS = "{}.embed_tokens.weight"


def damaged(path: Path, why: str, kind: str) -> UserError:
    """One sentence that says what to do. `kind` is the model that it should be of, here and below."""
    return UserError(f"{path} is damaged or no {kind}: {why}; copy it again, or train one with --arch {kind}")


def check_types(state: Mapping[str, Any], path: Path, kind: str) -> None:
    """See that all that is read of a checkpoint is of the type that fairseq writes.

    Raises:
        UserError: what is not.
    """
    from torch import Tensor

    from fairseq_plugins.checkpoints.expert_shards import RECORD
    from fairseq_plugins.opus100.engines.stock_checkpoint import EXPORTED_KEY

    def check(name: str, value: Any, *types: type) -> None:
        if not isinstance(value, types):
            raise damaged(path, f"{name} is {'missing' if value is None else 'a ' + type(value).__name__}", kind)

    for name, value in state["model"].items():
        check(f"the name {name!r} in model", name, str)
        check(f"model {name}", value, Tensor)
    if state.get("cfg"):
        check("cfg", state["cfg"], dict)
        for part in ("model", "task"):
            check(f"cfg {part}", state["cfg"].get(part), dict, argparse.Namespace)
        check("_name in cfg task", options_of(state, "task").get("_name"), str)
    else:
        check("args", state.get("args"), argparse.Namespace)
    stored = options_of(state, "model")
    check("_name in cfg model", stored.get("_name") or stored.get("arch"), str)
    extra = state.get("extra_state") or {}
    check("extra_state", extra, dict)
    for name in (EXPORTED_KEY, RECORD, BOUND_KEY):
        check(f"extra_state {name}", extra.get(name) or {}, dict)
    check("extra_state ranks", (extra.get(RECORD) or {}).get("ranks", 1), int)
    history = state.get("optimizer_history") or []
    check("optimizer_history", history, list)
    for entry in history:
        check("an entry of optimizer_history", entry, dict)
        check("num_updates in optimizer_history", entry.get("num_updates", 0), int)


def check_numbers(options: Mapping[str, Any], model: str, path: Path, kind: str) -> None:
    """See that options of the registered `model` are numbers where it has numbers.

    Raises:
        UserError: one is not.
    """
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    for name, default in vars(MODEL_DATACLASS_REGISTRY[model]()).items():
        value = options.get(name, default)
        if isinstance(default, (int, float)) and not isinstance(value, (int, float)):
            raise damaged(path, f"its option {name} is {value!r}", kind)


@contextmanager
def bad_options(path: Path, kind: str) -> Iterator[None]:
    """What a model that options do not fit raises, as one sentence.

    It reads a hundred of them, each where it needs it, and looks at its range alone.

    Raises:
        UserError: they make no model.
    """
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split())
        raise damaged(path, f"its options make no model ({why})", kind) from None


def check_weights(
    weights: Mapping[str, Any],
    options: Mapping[str, Any],
    task: Any,
    path: Path,
    *,
    model: str = "transformer_mlm",
    part: str = "",
    kind: str,
) -> Any:
    """See that the options build a `model` with these names and shapes; no memory is taken for it.

    Args:
        weights: parameters by name.
        options: of the model.
        task: options of its task.
        model: as registered.
        part: what names of parameters begin with that are looked at; others may be missing or there.
    Returns:
        the model, without numbers.
    Raises:
        UserError: they do not.
    """
    import torch
    from omegaconf import OmegaConf

    rows = {}
    for side in ("encoder", "decoder") if model != "transformer_mlm" else ("encoder",):
        name = _TOKENS.format(side)
        if name not in weights or not weights[name].dim():
            raise damaged(path, f"it has no {name}", kind)
        rows[side] = _rows(len(weights[name]))
        if options[f"{side}_layers"] > len(weights):  # before so many are built
            raise damaged(path, f"its options say {options[f'{side}_layers']} layers, and it has {len(weights)} "
                          "parameters", kind)  # fmt: skip
    with bad_options(path, kind), torch.device("meta"):
        holder = SimpleNamespace(source_dictionary=rows["encoder"], target_dictionary=rows.get("decoder"),
                                 cfg=OmegaConf.create(task))  # fmt: skip
        built = _build(model, OmegaConf.create({**options}), holder)
    wanted = built.state_dict()
    for name in sorted({*wanted, *weights}):
        theirs, ours = (_form(each.get(name)) for each in (weights, wanted))
        if theirs != ours and name.startswith(part):
            raise damaged(path, f"{name} is {theirs}, and with its options it would be {ours}", kind)
    return built


def _form(tensor: Any) -> str:
    if tensor is None:
        return "missing"
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _build(model: str, cfg: Any, task: Any) -> Any:
    from fairseq.models import MODEL_REGISTRY

    return MODEL_REGISTRY[model].build_model(cfg, task)


def _rows(count: int) -> Any:
    """A dictionary of so many symbols, of which nothing else is known; it takes no memory for them."""
    from fairseq.data import Dictionary

    class Rows(Dictionary):
        def __len__(self) -> int:
            return count

    return Rows()

"""Reading and writing whole checkpoints. torch is imported late: it takes seconds."""

from pathlib import Path
from typing import Any, Dict

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import whole_path


def load_checkpoint(path: Path) -> Dict[str, Any]:
    """A fairseq checkpoint as it was saved, on the CPU, its tensors mapped from the file where its format allows that.

    Raises:
        UserError: the file is missing, damaged, no fairseq checkpoint, or holds types that are not allow-listed.
    """
    from fairseq_plugins.compat import safe_load

    state = safe_load(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no 'model'")
    return state


def load_state(path: Path) -> Dict[str, Any]:
    """`load_checkpoint` for what needs the options that the model was trained with.

    Raises:
        UserError: as there, or the checkpoint does not say with which options.
    """
    state = load_checkpoint(path)
    if not (state.get("cfg") or state.get("args")):
        raise UserError(f"checkpoint {path} is not one that fairseq-train wrote: it has no options")
    return state


def write_checkpoint(state: Dict[str, Any], path: Path, flag: str = "--output") -> None:
    """Write whole or not at all: an interrupted run never leaves half a checkpoint under the final name.

    Raises:
        UserError: `path`, which `flag` gave, cannot be written.
    """
    import torch

    try:
        with whole_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a missing folder or a full disk as RuntimeError
        raise UserError(f"{flag} {path} cannot be written: {str(error).splitlines()[0]}") from None


def updates_of(state: Dict[str, Any]) -> int:
    """Updates that a checkpoint was trained for."""
    return state["optimizer_history"][-1]["num_updates"]


def options_of(state: Dict[str, Any], part: str) -> Dict[str, Any]:
    """One part of a checkpoint's options (`model`, `task`) as a plain dict of its own.

    fairseq stores a Namespace, hydra a nested dict, and old checkpoints one Namespace for everything.
    """
    stored = (state["cfg"] or {}).get(part) if state.get("cfg") else state["args"]
    return dict(stored) if isinstance(stored, dict) else dict(vars(stored))

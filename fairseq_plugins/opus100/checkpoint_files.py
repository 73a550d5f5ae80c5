"""Reading and writing whole checkpoints. torch is imported late: it takes seconds."""

import argparse
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Type

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import misfit, whole_number, whole_path

_PARTS = ("model", "task", "checkpoint", "distributed_training")  # of a configuration, that are read here


def load_checkpoint(path: Path, typed: bool = True) -> Dict[str, Any]:
    """A fairseq checkpoint as it was saved, on the CPU, its tensors mapped from the file where its format allows that.

    Args:
        path: of it.
        typed: see that what is read of it has the types that fairseq writes; without, the caller does.
    Raises:
        UserError: the file is missing, damaged, no fairseq checkpoint, or holds types that are not allow-listed.
    """
    from torch import Tensor

    from fairseq_plugins.compat import safe_load

    state = safe_load(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no 'model'")
    if not typed:
        return state
    options, nothing = (dict, argparse.Namespace, type(None)), type(None)
    shape = {
        "model": {str: Tensor},
        "args?": (argparse.Namespace, nothing),
        "cfg?": lambda cfg: cfg is None or misfit(cfg, {f"{part}?": options for part in _PARTS}) is None,
        "extra_state?": (dict, nothing),
        "optimizer_history?": lambda of: of is None or misfit(of, [{"num_updates?": whole_number}]) is None,
    }
    if (where := misfit(state, shape)) is not None:
        raise UserError(f"checkpoint {path} is damaged or not of fairseq: {where} is nothing that fairseq writes")
    return state


@contextmanager
def sound(path: Any, *known: Type[Exception]) -> Iterator[None]:
    """What goes wrong with the contents of a checkpoint, as one sentence.

    Its hundreds of options and names of parameters are read one by one, by the engine and here, and each reader
    stumbles over a wrong one in its own way.

    Args:
        path: the checkpoint, or several in words.
        known: what the caller explains better, and gets as it is.
    Raises:
        UserError: instead of what fails for want of something in the file, or for something there.
    """
    try:
        yield
    except (UserError, *known):
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, AssertionError) as error:
        why = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(f"checkpoint {path} is damaged or of another kind ({why}); copy it again, or give "
                        "another") from error


def load_state(path: Path, typed: bool = True) -> Dict[str, Any]:
    """`load_checkpoint` for what needs the options that the model was trained with.

    Raises:
        UserError: as there, or the checkpoint does not say with which options.
    """
    state = load_checkpoint(path, typed)
    without = not (state.get("cfg") or state.get("args"))
    if without or (typed and state.get("cfg") and not state["cfg"].get("model")):
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
    """Updates that a checkpoint was trained for; 0 where it does not say."""
    return (state.get("optimizer_history") or [{}])[-1].get("num_updates", 0)


def options_of(state: Dict[str, Any], part: str) -> Dict[str, Any]:
    """One part of a checkpoint's options (`model`, `task`) as a plain dict of its own.

    fairseq stores a Namespace, hydra a nested dict, and old checkpoints one Namespace for everything.
    """
    stored = (state["cfg"] or {}).get(part) if state.get("cfg") else state["args"]
    return dict(vars(stored)) if isinstance(stored, argparse.Namespace) else dict(stored or {})

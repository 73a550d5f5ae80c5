"""Reading and writing whole checkpoints, for the verbs that do both. torch is imported late: it takes seconds."""

import os
from pathlib import Path
from typing import Any, Dict

from fairseq_plugins._verbs import UserError


def load_checkpoint(path: Path) -> Dict[str, Any]:
    """A fairseq checkpoint, its tensors mapped from the file where its format allows that.

    Raises:
        UserError: the file is missing, damaged, or no fairseq checkpoint.
    """
    from fairseq_plugins.compat import safe_load

    state = safe_load(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no 'model'")
    return state


def write_checkpoint(state: Dict[str, Any], path: Path) -> None:
    """Write whole or not at all: an interrupted run never leaves half a checkpoint under the final name.

    Raises:
        UserError: `path`, which --output gave, cannot be written.
    """
    import torch

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a missing folder or a full disk as RuntimeError
        raise UserError(f"--output {path} cannot be written: {str(error).splitlines()[0]}") from None
    finally:
        temporary.unlink(missing_ok=True)

"""What stock fairseq needs on current Python, torch and numpy: each item a small function with its reason.

Written for fairseq-fixed 0.12.3.1 with torch 2.6 to 2.13, numpy 1.26 to 2.4 and Python 3.11 to 3.13. ``apply()`` runs
every item once, before fairseq reads a checkpoint or builds a model: fairseq imports its ``--user-dir`` that early.
Nothing here imports the engine at the top, so ``safe_load`` also serves tools that run without it.
"""

import argparse
import collections
import functools
import inspect
import pickle
import re
import typing
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple, Union

import torch

from fairseq_plugins._verbs import UserError

_applied = False


def apply() -> None:
    """Make the stock fairseq commands work on current Python. Idempotent.

    Raises:
        ModuleNotFoundError: fairseq is not installed.
    """
    global _applied
    if _applied:
        return
    allow_checkpoint_globals()
    allow_broadcast_globals()
    refuse_unreadable_checkpoints()
    let_ddp_run_on_cpu()
    _applied = True


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class CheckpointError(SystemExit, UserError):
    """A checkpoint that is missing, damaged, or holds more than fairseq itself writes. The message is one sentence.

    It is a ``SystemExit`` because the stock commands know no user errors: there it ends the process with the sentence
    on stderr and status 1, without a traceback. To this package's verbs it is a ``UserError`` like any other.
    """


def allow_checkpoint_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read what fairseq writes into checkpoints, and nothing else.

    Since torch 2.6 ``weights_only`` is the default and fairseq's ``torch.load(f)`` fails on its own files: those of
    the command line hold an ``argparse.Namespace``, those of ``--eval-bleu`` numpy numbers.
    """
    torch.serialization.add_safe_globals([argparse.Namespace, *_numpy_globals()])


def allow_broadcast_globals() -> None:
    """Let rank 0 of a distributed run send its checkpoint to the others.

    When training resumes, fairseq pickles the state, its configuration already turned into omegaconf objects, and the
    other ranks read it with ``torch.load``.
    """
    from fairseq.distributed.utils import _TensorPlaceholder
    from omegaconf import DictConfig, ListConfig, base, nodes

    builtins = [dict, list, tuple, int, float, bool, str, collections.defaultdict]
    omegaconf = [DictConfig, ListConfig, base.ContainerMetadata, base.Metadata]
    omegaconf += [node for node in vars(nodes).values() if inspect.isclass(node) and issubclass(node, nodes.ValueNode)]
    torch.serialization.add_safe_globals(
        [*builtins, *omegaconf, (typing.Any, "typing.Any"), _TensorPlaceholder]  # type: ignore[list-item]
    )


def _numpy_globals() -> Iterator[Union[type, Tuple[Callable, str]]]:
    """What pickled numpy arrays and scalars name. numpy 2 renamed ``numpy.core``; files of both ages are around."""
    import numpy

    multiarray = (numpy._core if hasattr(numpy, "_core") else numpy.core).multiarray
    yield from (numpy.ndarray, numpy.dtype)
    for package in ("numpy.core", "numpy._core"):
        for name in ("_reconstruct", "scalar"):
            yield getattr(multiarray, name), f"{package}.multiarray.{name}"
    for name in sorted(vars(numpy.dtypes)):
        if name.endswith("DType"):
            yield getattr(numpy.dtypes, name)


def refuse_unreadable_checkpoints() -> None:
    """Turn torch's page-long message about a damaged or foreign checkpoint into one sentence that names the file."""
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(path, *args, **kwargs)
        except Exception:
            safe_load(PathManager.get_local_path(path))  # raises if the file is to blame
            raise

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def safe_load(path: Union[str, Path]) -> Any:
    """Read a checkpoint to the CPU without running any code that it may hold.

    Tensors are mapped from the file where its format allows that, so do not write into ``path`` while they are used.

    Args:
        path: a file written by ``torch.save``.
    Returns:
        what was saved; for a fairseq checkpoint a dict with ``model``, ``cfg`` or ``args``, ``extra_state``, ...
    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or holds something fairseq never writes.
    """
    allow_checkpoint_globals()
    try:
        mmap = zipfile.is_zipfile(path)  # files of torch < 1.6 are no zip archives and cannot be mapped
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except Exception as error:  # torch has a different type for every kind of damage
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        raise CheckpointError(
            f"checkpoint {path} holds {foreign[1]}, which fairseq never writes and which could run code when loaded; "
            "nothing was loaded, so use a checkpoint that holds only tensors and plain values"
        )
    raise CheckpointError(
        f"checkpoint {path} is truncated, damaged or not a checkpoint; use the one before it or copy it again"
    )


# ---- distributed training --------------------------------------------------------------------------------------------


def let_ddp_run_on_cpu() -> None:
    """Let ``--ddp-backend pytorch_ddp``, the default, train models that live on the CPU.

    fairseq always passes ``device_ids``, which torch accepts only for modules on a GPU.
    """
    from fairseq.models import distributed_fairseq_model
    from torch.nn.parallel import DistributedDataParallel

    class DeviceAwareDistributedDataParallel(DistributedDataParallel):
        def __init__(self, module: torch.nn.Module, device_ids: Any = None, output_device: Any = None, **options: Any):
            if all(parameter.device.type == "cpu" for parameter in module.parameters()):
                device_ids = output_device = None
            super().__init__(module, device_ids=device_ids, output_device=output_device, **options)

    distributed_fairseq_model.DistributedDataParallel = DeviceAwareDistributedDataParallel

"""What stock fairseq needs on current Python, torch and numpy: each item a small function with its reason.

Written for fairseq-fixed 0.12.3.1 with torch 2.6 to 2.13, numpy 1.26 to 2.4 and Python 3.11 to 3.13. ``apply()`` runs
every item once, before fairseq reads a checkpoint or builds a model: fairseq imports its ``--user-dir`` that early.
Nothing here imports the engine at the top, so ``safe_load`` also serves tools that run without it.
"""

import argparse
import collections
import errno
import functools
import inspect
import pickle
import re
import types
import typing
import warnings
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
    let_ranks_gather_on_cpu()
    understand_options()
    keep_the_last_batch()
    go_on_with_the_same_batches()
    provide_numpy_compat()
    average_no_whole_numbers()
    hold_norms_of_float32_masters()
    train_experts_in_parallel()
    watch_trainings()
    start_new_trainings()
    survive()
    silence_known_warnings()
    _applied = True


class Refusal(SystemExit, UserError):
    """Input that this package refuses inside a stock command.

    It is a ``SystemExit`` because the stock commands know no user errors: there it ends the process with the message
    on stderr and status 1, without a traceback. To this package's verbs it is a ``UserError`` like any other.
    """


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class CheckpointError(Refusal):
    """A checkpoint that is missing, damaged, or holds more than fairseq itself writes. The message is one sentence."""


_NOT_ITS_FAULT = (errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ELOOP)  # may pass


class DamagedCheckpoint(CheckpointError):
    """One that cannot be read as a checkpoint at all."""


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
    torch.serialization.add_safe_globals([*builtins, *omegaconf, typing.Any, _TensorPlaceholder])


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
        path: a file of ``torch.save``.
    Returns:
        what was saved; for a fairseq checkpoint a dict with ``model``, ``cfg`` or ``args``, ``extra_state``, ...
    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or holds something fairseq never writes.
    """
    allow_checkpoint_globals()
    try:
        open(path, "rb").close()  # so that what the system says about opening it is not taken for damage below
        mmap = zipfile.is_zipfile(path)  # files of torch < 1.6 are no zip archives and cannot be mapped
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except (PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error.strerror}") from None
    except MemoryError:
        raise
    except Exception as error:  # torch has a different type for every kind of damage
        if isinstance(error, OSError) and error.errno in _NOT_ITS_FAULT:
            raise CheckpointError(f"checkpoint {path} cannot be read now: {error.strerror}") from None
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if foreign:
        raise CheckpointError(
            f"checkpoint {path} holds {foreign[1]}, which fairseq never writes and which could run code when loaded; "
            "nothing was loaded, so use a checkpoint that holds only tensors and plain values"
        )
    raise DamagedCheckpoint(
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


def let_ranks_gather_on_cpu() -> None:
    """Let ranks without a GPU exchange what is no sum: stock does it through a buffer on CUDA."""
    from fairseq.distributed import utils

    stock = utils.all_gather_list

    @functools.wraps(stock)
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> Any:
        if torch.cuda.is_available():
            return stock(data, group, max_size)
        group = utils.get_global_group() if group is None else group
        found = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(found, data, group=group)
        return found

    utils.all_gather_list = all_gather_list


def average_no_whole_numbers() -> None:
    """Let ``--store-ema`` train models with buffers of whole numbers or truth values, which it copies from now on.

    The stock moving average multiplies everything in the state dict by its decay, and fails on those: on the living
    experts of a mixture, for example.
    """
    from fairseq.models.ema import EMA

    start = EMA.__init__

    @functools.wraps(start)
    def __init__(self: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        start(self, model, *args, **kwargs)
        whole = {name for name, value in model.state_dict().items() if not torch.is_floating_point(value)}
        self.skip_keys = {*self.skip_keys, *whole}

    EMA.__init__ = __init__


def hold_norms_of_float32_masters() -> None:
    """Hold the row norms of marked parameters in the float32 copies of ``--fp16`` and ``--bf16`` too.

    X-MoE sets the norm of an expert's embedding back after each update. In half precision the optimiser works on copies
    of its own, and writes them over the model's parameters after each step.
    """
    from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin

    sync = _FP16OptimizerMixin._sync_fp32_params_to_fp16

    def masters(optimizer: Any) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        if not optimizer.has_flat_params:
            yield from zip(optimizer.fp16_params, optimizer.fp32_params, strict=True)
            return
        for device, flat in optimizer.fp32_params.items():
            offset = 0
            for parameter in optimizer.fp16_params:
                if parameter.device.index in (device, None):
                    yield parameter, flat.data[offset : offset + parameter.numel()].view_as(parameter)
                    offset += parameter.numel()

    @functools.wraps(sync)
    @torch.no_grad()
    def _sync_fp32_params_to_fp16(self: Any) -> None:
        for parameter, master in masters(self):
            norm = getattr(parameter, "fixed_row_norm", None)
            if norm is not None and parameter.requires_grad:
                master.mul_(norm / master.norm(dim=1, keepdim=True).clamp(min=1e-12))
        sync(self)

    _FP16OptimizerMixin._sync_fp32_params_to_fp16 = _sync_fp32_params_to_fp16


def train_experts_in_parallel() -> None:
    """Right gradient norms and one checkpoint per rank for ``--moe-expert-parallel-size`` above 1."""
    from fairseq_plugins import _expert_parallel_compat

    _expert_parallel_compat.apply()


def watch_trainings() -> None:
    """``--stop-at-loss-jump`` and ``--gradient-bands``, for models that have them."""
    from fairseq_plugins import _training_watch

    _training_watch.apply()


def understand_options() -> None:
    """``--bf16`` on the device at hand; presets refused under hydra; overrides of options that are new."""
    from fairseq_plugins import _options_compat

    _options_compat.apply()


def survive() -> None:
    """Whole checkpoints, one training per folder, repair of what a kill left; one sentence for what ran out."""
    from fairseq_plugins import _last_words, _whole_checkpoints

    _whole_checkpoints.apply()
    _last_words.apply()


def start_new_trainings() -> None:
    """Tell a model that asks for it (``start_training``) that a training begins, or that one goes on.

    The engine builds models alike for a new training, a resumed one and a translation. Only the trainer knows; and it
    must say so before it makes the optimiser, which copies the weights in half precision.
    """
    from fairseq.trainer import Trainer

    load = Trainer.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = getattr(self.get_model(), "start_training", lambda resumed: None)
        try:
            extra_state = load(self, *args, **kwargs)
        except ValueError:  # torch's, for an optimiser's state of other parameters: the model may know why
            start(resumed=True)
            raise
        start(resumed=self.get_num_updates() > 0)
        return extra_state

    Trainer.load_checkpoint = load_checkpoint


# ---- data ------------------------------------------------------------------------------------------------------------


def keep_the_last_batch() -> None:
    """Let no sentence vanish: fairseq drops the last batch unless ``--required-batch-size-multiple``, 8, divides it.

    Up to 7 sentences, the longest ones, would be missing from every training, validation and test set, without a word.
    What was dropped becomes a batch of its own: it fitted into the limits together with more.
    """
    from fairseq.data import data_utils

    cut = data_utils.batch_by_size

    @functools.wraps(cut)
    def batch_by_size(indices: Any, *args: Any, **kwargs: Any) -> Any:
        import numpy

        if not isinstance(indices, numpy.ndarray):
            indices = numpy.fromiter(indices, dtype=numpy.int64, count=-1)
        batches = cut(indices, *args, **kwargs)
        fixed_shapes = kwargs.get("fixed_shapes", args[5] if len(args) > 5 else None)
        rest = indices[sum(map(len, batches)) :]  # batches are consecutive runs of indices
        return batches if fixed_shapes is not None or not len(rest) else [*batches, rest]

    data_utils.batch_by_size = batch_by_size


def go_on_with_the_same_batches() -> None:
    """Let a training that is resumed in a later epoch have the batches of one that was never stopped.

    Stock composes the batches once for all epochs, with dice of the epoch in which the process begins: after a resume
    in epoch 2 other sentences stand together, at other places of the epoch, so some are seen twice and some never.
    """
    from fairseq.tasks import FairseqTask

    stock = FairseqTask.get_batch_iterator
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def get_batch_iterator(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        words = call.arguments
        renewed = words["disable_iterator_cache"] or words["update_epoch_batch_itr"]
        if renewed or getattr(self.cfg, "rebuild_batches", False) or not self.can_reuse_epoch_itr(words["dataset"]):
            return stock(*call.args, **call.kwargs)
        seed = words["seed"]
        words["seed"] = seed + 1 - words["epoch"]  # stock adds the epoch before it rolls dice, so it is never negative
        iterator = stock(*call.args, **call.kwargs)
        iterator.seed = seed  # of the order of batches, which is each epoch's own
        return iterator

    FairseqTask.get_batch_iterator = get_batch_iterator


def provide_numpy_compat() -> None:
    """Give back ``numpy.compat.long``, which numpy 2 removed and fairseq uses for sentence-wise text blocks.

    Without it ``--sample-break-mode eos`` (language_modeling, masked_lm) and ``--num-batch-buckets`` fail.
    """
    import numpy

    if not hasattr(numpy, "compat"):
        numpy.compat = types.SimpleNamespace(long=int)


# ---- noise -----------------------------------------------------------------------------------------------------------

# The warnings of every stock run, on which nobody can act: (start of the message, why it is safe to hide)
KNOWN_WARNINGS = (
    (r"hydra\.experimental\.initialize\(\) is no longer experimental", "fairseq still imports hydra's old name"),
    (r"hydra\.experimental\.compose\(\) is no longer experimental", "fairseq still imports hydra's old name"),
    (r"\s*The version_base parameter is not specified", "hydra assumes its 1.1 rules, which fairseq's files follow"),
    (r"\s*The strict flag in the compose API is deprecated", "fairseq passes a flag that hydra ignores"),
    (r"In 'config': Usage of deprecated keyword in package header", "how fairseq's own config.yaml is written"),
    (r"\s*'config' is validated against ConfigStore schema", "how fairseq registers its own configuration"),
    (r"'pin_memory' argument is set as true but no accelerator is found", "fairseq pins memory without a GPU too"),
    (r"`torch\.cuda\.amp\.autocast\(args\.\.\.\)` is deprecated", "fairseq's train step uses torch's old name"),
    (r"Support for mismatched key_padding_mask and attn_mask is deprecated", "fairseq mixes bool and float masks"),
)


def silence_known_warnings() -> None:
    """Hide the warnings of ``KNOWN_WARNINGS`` and no others, so that a warning which matters is seen."""
    for message, _ in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)

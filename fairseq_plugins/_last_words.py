"""One sentence, instead of a traceback, for what ends a stock command through no fault of the code.

Memory and disks that run out, processes that are killed, data that is damaged: each with what to do. Any other error
keeps its traceback. Applied by ``compat.apply()``.
"""

import errno
import functools
import logging
import math
import os
import re
import struct
import sys
from typing import Any, List, NamedTuple, Optional

SHOW = "FAIRSEQ_PLUGINS_TRACEBACK"  # set: explained errors keep their traceback too
LOST_IN_A_ROW = 10  # batches without memory after which a training is stopped: it only burns time

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory|MemoryError")
_LOADER_KILLED = re.compile(r"DataLoader worker \(pid.*?\) (is killed by signal: \w+|exited unexpectedly)")
_RANK_GONE = re.compile(r"gloo.*Connection (closed|reset) by peer|ncclRemoteError|remote process exited")
_NO_ROW = re.compile(r"index out of range in self|device-side assert triggered|indexSelect\w*Index: block")
_DISK = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the quota of the disk is used up; make room",
    errno.EROFS: "the disk is read-only; give another folder",
    errno.EACCES: "it may not be written or read; change its rights or give another folder",
    errno.EIO: "the disk fails; give another one",
}
_NUMBERED = re.compile(r"\[Errno (\d+)\][^:]*(?:: '([^']*)')?")
_REFUSED = re.compile(r"fairseq_plugins\.compat\.(?:Refusal|CheckpointError|DamagedCheckpoint): (.*)")
_PROCESS_GONE = re.compile(r"process \d+ terminated with (exit code|signal)")


class Batch(NamedTuple):
    """What the trainer is at."""

    sample: Any
    update: int
    training: bool
    rows: float  # of the dictionary, infinite where there is none


_batch: Optional[Batch] = None


def apply() -> None:
    """Change the trainer's words, the reading of shards, and the last words of the process."""
    name_the_batch()
    refuse_cut_shards()
    explain_before_exit()


def explain_before_exit() -> None:
    """Print the sentence of ``explain`` where Python would print a traceback, also for a log that cannot be written."""
    before, handle_error = sys.excepthook, logging.Handler.handleError

    def excepthook(kind: Any, error: BaseException, traceback: Any) -> None:
        said = None if os.environ.get(SHOW) else explain(error)
        if said is None:
            before(kind, error, traceback)
        else:
            print(f"error: {said}", file=sys.stderr, flush=True)

    def handleError(self: logging.Handler, record: logging.LogRecord) -> None:
        said = explain(sys.exc_info()[1] or Exception())
        if said is None:
            handle_error(self, record)
        elif not vars(self).get("explained"):
            self.explained = True  # type: ignore[attr-defined]
            print(f"warning: the log {getattr(self, 'baseFilename', '')} is incomplete: {said}", file=sys.stderr)

    sys.excepthook, logging.Handler.handleError = excepthook, handleError  # type: ignore[method-assign]


def explain(error: BaseException) -> Optional[str]:
    """What happened and what to do, None for an error that only its traceback explains.

    Args:
        error: that ends the process; of a rank that ``fairseq-train`` has started itself, torch's report of it.
    """
    text = f"{type(error).__name__}: {error}".strip()
    last = text.splitlines()[-1]
    at = f" at {in_words(_batch)}" if _batch else ""
    refused, killed = _REFUSED.match(last), _LOADER_KILLED.search(text)
    if refused:
        return refused[1]
    if killed:
        return (f"a process that loads data {killed[1].removeprefix('is ')}, most often because the system's memory "
                "ran out; give fewer --num-workers (0: none) and the same command again")
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return (f"memory ran out{at}; give a lower --max-tokens (and a higher --update-freq for the same update), and "
                "the same command again")
    disk = _of_a_disk(error, last)
    if disk is not None:
        return disk
    if _RANK_GONE.search(text) or _PROCESS_GONE.search(last):
        return "another rank of this training has ended, and its own message says why; give the same command again"
    if _NO_ROW.search(text) and _batch is not None and beyond_the_dictionary(_batch):
        return (f"a token is outside of the dictionary{at}: a file of the data is damaged or was made with another "
                "dict.txt; make the data again")
    return None


def _of_a_disk(error: BaseException, last: str) -> Optional[str]:
    found = _NUMBERED.search(last)
    number, name = (int(found[1]), found[2]) if found else (None, None)
    if isinstance(error, OSError):
        number, name = error.errno, error.filename
    if number not in _DISK or (number == errno.EACCES and not name):  # which may be a socket's
        return None
    return f"{name or 'a file'}: {_DISK[number]} and give the same command again"


def beyond_the_dictionary(batch: Batch) -> bool:
    """Whether a batch holds a token that has no row."""
    inputs = batch.sample.get("net_input") if isinstance(batch.sample, dict) else None
    tensors = [batch.sample.get("target"), *inputs.values()] if isinstance(inputs, dict) else []
    whole = [value for value in tensors if hasattr(value, "is_floating_point") and not value.is_floating_point()]
    return any(value.numel() and float(value.max()) >= batch.rows for value in whole)


def name_the_batch() -> None:
    """Say which batch had no memory, and which flag helps, where stock prints pages about the GPU and goes on.

    One process alone goes on with the next batch, as stock does, up to ``LOST_IN_A_ROW`` times, and so do several under
    ``legacy_ddp``. Under other back-ends the others would wait for the gradients of the one that has none.
    """
    import torch
    from fairseq.trainer import Trainer

    train, prepare = Trainer.train_step, Trainer._prepare_sample

    @functools.wraps(train)
    def train_step(self: Any, samples: List[Any], raise_oom: bool = False) -> Any:
        before = vars(self).get("batches_lost", 0)
        self.batches_lost = before
        output = train(self, samples, raise_oom or _others_wait(self))
        if self.batches_lost == before:
            self.batches_lost = 0
        elif self.batches_lost >= LOST_IN_A_ROW:
            raise torch.OutOfMemoryError(f"out of memory {self.batches_lost} times in a row")
        return output

    def _log_oom(self: Any, error: BaseException) -> None:
        self.batches_lost = vars(self).get("batches_lost", 0) + 1
        print(f"warning: {explain(error)}", file=sys.stderr, flush=True)

    @functools.wraps(prepare)
    def _prepare_sample(self: Any, sample: Any, is_dummy: bool = False) -> Any:
        global _batch
        words = getattr(self.task, "source_dictionary", None)
        rows = len(words) if words is not None else math.inf
        _batch = Batch(sample, self.get_num_updates() + 1, self.model.training, rows)
        return prepare(self, sample, is_dummy)

    Trainer.train_step, Trainer._log_oom, Trainer._prepare_sample = train_step, _log_oom, _prepare_sample


def _others_wait(trainer: Any) -> bool:
    """Whether other ranks would wait for ever for the gradients of one that had no memory for its batch."""
    reduces_at_once = trainer.cfg.distributed_training.ddp_backend in ("legacy_ddp", "no_c10d")
    alone = trainer.data_parallel_world_size == 1
    return not alone and (not reduces_at_once or getattr(trainer.cfg.model, "moe_expert_parallel_size", 1) > 1)


def in_words(batch: Batch) -> str:
    """A batch by its shapes, padding included."""
    shapes = {}
    if isinstance(batch.sample, dict):
        inputs = batch.sample.get("net_input")
        inputs = inputs if isinstance(inputs, dict) else {}
        shapes = {"source": inputs.get("src_tokens"), "target": batch.sample.get("target")}
    parts = [f"{side} {' x '.join(map(str, value.shape))}" for side, value in shapes.items() if hasattr(value, "shape")]
    place = f"update {batch.update}" if batch.training else f"the validation after update {batch.update - 1}"
    return f"{place}, a batch of {' and '.join(parts)} tokens" if parts else place


def refuse_cut_shards() -> None:
    """Name a data file that is cut off or no data file, where stock fails at some sentence, or reads nonsense."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    start = MMapIndexedDataset._do_init

    @functools.wraps(start)
    def _do_init(self: Any, path: str) -> None:
        if os.path.exists(f"{path}.idx") and os.path.exists(f"{path}.bin") and not is_whole_shard(path):
            self._path, self._index, self._bin_buffer_mmap = path, None, _Unmapped()  # what its destructor closes
            from fairseq_plugins.compat import Refusal

            raise Refusal(f"{path}.idx or its .bin is cut off or damaged; make it again (with prepare, where the "
                          "folder is prepare's, else with fairseq-preprocess)")
        start(self, path)

    MMapIndexedDataset._do_init = _do_init


class _Unmapped:
    """Stands for a map of memory that was never made."""

    def __init__(self) -> None:
        self._mmap = self

    def close(self) -> None:
        pass


def is_whole_shard(path: str) -> bool:
    """Whether the files of a memory-mapped data set are as long as their header says; content is not read."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype

    header = struct.Struct("<9sQBQ")  # magic, version, type of a token, sentences
    with open(f"{path}.idx", "rb") as index:
        begin = index.read(header.size)
        if len(begin) < header.size:
            return False
        magic, version, code, count = header.unpack(begin)
        length = header.size + 12 * count  # 4 bytes for a size, 8 for where it begins
        if magic != MMapIndexedDataset.Index._HDR_MAGIC or version != 1 or code not in _code_to_dtype:
            return False
        if os.path.getsize(f"{path}.idx") != length:
            return False
        if not count:
            return True
        index.seek(header.size + 4 * (count - 1))
        (size,) = struct.unpack("<i", index.read(4))
        index.seek(length - 8)
        (pointer,) = struct.unpack("<q", index.read(8))
    return 0 <= pointer + size * _code_to_dtype[code]().itemsize <= os.path.getsize(f"{path}.bin")

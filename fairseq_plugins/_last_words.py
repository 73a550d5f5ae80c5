"""One sentence, instead of a traceback, for what ends a stock command through no fault of the code.

Memory and disks that run out, processes that are killed, data that is damaged: each with what to do. Any other error
keeps its traceback. Applied by ``compat.apply()``.
"""

import errno
import functools
import logging
import os
import re
import struct
import sys
from typing import Any, List, Optional

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
_NUMBERED = re.compile(rf"\[Errno ({'|'.join(map(str, _DISK))})\][^:\n]*(?:: '([^'\n]*)')?")

_batch: str = ""  # the batch that the trainer is at, in words


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
    text = f"{type(error).__name__}: {error}"
    at = f" at {_batch}" if _batch else ""
    if _LOADER_KILLED.search(text):
        how = _LOADER_KILLED.search(text)[1]
        return (f"a process that loads data {how.removeprefix('is ')}, most often because the system's memory ran out; "
                "give fewer --num-workers (0: none) and the same command again")  # fmt: skip
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return (f"memory ran out{at}; give a lower --max-tokens (and a higher --update-freq for the same update), and "
                "the same command again")
    disk = _NUMBERED.search(text)
    if disk:
        return f"{disk[2] or 'a file'}: {_DISK[int(disk[1])]} and give the same command again"
    if _RANK_GONE.search(text):
        return "another rank of this training has ended, and its own message says why; give the same command again"
    if _NO_ROW.search(text):
        return (f"a token is outside of the dictionary{at}: a file of the data is damaged or was made with another "
                "dict.txt; make the data again")
    return None


def name_the_batch() -> None:
    """Say which batch had no memory, and which flag helps, where stock prints pages about the GPU and goes on.

    One process alone goes on with the next batch, as stock does, up to ``LOST_IN_A_ROW`` times. Of several, the others
    would wait for the gradients of the one that has none.
    """
    import torch
    from fairseq.trainer import Trainer

    train, prepare = Trainer.train_step, Trainer._prepare_sample

    @functools.wraps(train)
    def train_step(self: Any, samples: List[Any], raise_oom: bool = False) -> Any:
        before = vars(self).get("batches_lost", 0)
        self.batches_lost = before
        output = train(self, samples, raise_oom or self.data_parallel_world_size > 1)
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
        prepared = prepare(self, sample, is_dummy)
        _batch = _in_words(prepared[0], self.get_num_updates() + 1)
        return prepared

    Trainer.train_step, Trainer._log_oom, Trainer._prepare_sample = train_step, _log_oom, _prepare_sample


def _in_words(sample: Any, update: int) -> str:
    """A batch by its shapes, padding included."""
    shapes = {}
    if isinstance(sample, dict):
        inputs = sample.get("net_input") if isinstance(sample.get("net_input"), dict) else {}
        shapes = {"source": inputs.get("src_tokens"), "target": sample.get("target")}
    parts = [f"{side} {' x '.join(map(str, value.shape))}" for side, value in shapes.items() if hasattr(value, "shape")]
    return f"update {update}, a batch of {' and '.join(parts)} tokens" if parts else f"update {update}"


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

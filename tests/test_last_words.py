"""Errors that are no fault of the code become one sentence; all others keep their traceback."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch

from fairseq_plugins import _last_words
from fairseq_plugins._last_words import Batch, explain, is_whole_shard
from tests.helpers import environment

WORKER = "DataLoader worker (pid 12) is killed by signal: Killed. "


@pytest.mark.parametrize(
    "error, says",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower --max-tokens"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "lower --max-tokens"),
        (MemoryError(), "lower --max-tokens"),
        (RuntimeError(WORKER), "a process that loads data killed by signal: Killed, most often"),
        (RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly"), "fewer --num-workers"),
        (OSError(errno.ENOSPC, "No space left on device", "run/train.log"), "run/train.log: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "run"), "run: the disk is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), "run: it may not be written"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:14"), "another rank"),
        (Exception("x\nTraceback ...\nfairseq_plugins.compat.Refusal: --flag 3 is wrong"), "--flag 3 is wrong"),
        (Exception("process 1 terminated with signal SIGKILL"), "another rank"),
        # what the parent of ranks gets: the child's traceback as text
        (Exception("Process 1\nOSError: [Errno 28] No space left on device: 'x.log'\n"), "x.log: the disk"),
    ],
)
def test_what_ran_out_is_one_sentence(error, says):
    said = explain(error)
    assert says in said and "\n" not in said and not said.endswith(".")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a defect"),
        IndexError("list index out of range"),
        KeyError("memory"),
        IndexError("index out of range in self"),  # with no batch known that would be to blame
        PermissionError(errno.EACCES, "Permission denied"),  # of a socket, perhaps
    ],
)
def test_a_defect_keeps_its_traceback(error):
    assert explain(error) is None


def test_the_batch_is_named(monkeypatch):
    sample = {"net_input": {"src_tokens": torch.full((3, 7), 4)}, "target": torch.full((3, 9), 9)}
    batch = Batch(sample, 12, True, 10)
    monkeypatch.setattr(_last_words, "_batch", batch)
    assert "at update 12, a batch of source 3 x 7 and target 3 x 9 tokens;" in explain(MemoryError())
    assert explain(IndexError("index out of range in self")) is None, "all tokens have a row: a defect"
    monkeypatch.setattr(_last_words, "_batch", batch._replace(rows=9))
    assert "a token is outside of the dictionary at update 12" in explain(IndexError("index out of range in self"))
    assert _last_words.in_words(Batch("DUMMY", 3, True, 9)) == "update 3"
    assert _last_words.in_words(Batch(None, 3, False, 9)) == "the validation after update 2"


@pytest.mark.parametrize("shown", [False, True])
def test_the_hook_prints_the_sentence_and_the_traceback_on_demand(shown):
    code = "import fairseq; from fairseq_plugins import compat; compat.apply(); raise MemoryError"
    env = {**environment(), **({_last_words.SHOW: "1"} if shown else {})}
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert process.returncode == 1 and ("Traceback" in process.stderr) == shown
    assert shown or process.stderr.startswith("error: memory ran out")


@pytest.fixture
def shard(tmp_path):
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    def write(count):
        builder = MMapIndexedDatasetBuilder(f"{tmp_path / 'shard'}.bin", dtype=np.uint16)
        for length in range(1, count + 1):
            builder.add_item(torch.arange(length))
        builder.finalize(f"{tmp_path / 'shard'}.idx")
        return tmp_path / "shard"

    return write


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_whole_shard_is_whole(shard, count):
    assert is_whole_shard(str(shard(count)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda idx, bin: bin.write_bytes(bin.read_bytes()[:-1]),
        lambda idx, bin: idx.write_bytes(idx.read_bytes()[:-1]),
        lambda idx, bin: idx.write_bytes(idx.read_bytes() + b"\0"),
        lambda idx, bin: idx.write_bytes(b""),
        lambda idx, bin: idx.write_bytes(b"x" + idx.read_bytes()[1:]),
        lambda idx, bin: idx.write_bytes(idx.read_bytes()[:17] + b"\x63" + idx.read_bytes()[18:]),
        lambda idx, bin: idx.write_bytes(idx.read_bytes()[:18] + b"\xff" + idx.read_bytes()[19:]),
    ],
    ids=["bin cut", "idx cut", "idx longer", "idx empty", "no idx", "unknown type", "count flipped"],
)
def test_a_damaged_shard_is_refused_by_its_name(shard, spoil, capfd):
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    import fairseq_plugins
    from fairseq_plugins.compat import Refusal

    fairseq_plugins.register()
    path = shard(5)
    spoil(path.with_suffix(".idx"), path.with_suffix(".bin"))
    assert not is_whole_shard(str(path))
    with pytest.raises(Refusal, match="shard.idx or its .bin is cut off or damaged"):
        MMapIndexedDataset(str(path))
    assert capfd.readouterr().err == "", "destructors have nothing to say"

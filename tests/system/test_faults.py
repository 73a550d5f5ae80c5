"""What ends a training through no fault of its own: one sentence, nothing lost, and the same command goes on."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fairseq_plugins.data.symbols import dictionary_rows, dictionary_text
from tests.distributed.ranks import run_together
from tests.helpers import checkpoint, environment, succeeded
from tests.system.disks import small_disk
from tests.system.recorded import read_record, recorded_words
from tests.tasks.pretraining import PIECES, write_data
from tests.tasks.tiny_trainings import words_of

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def words(data, run, updates, *more):
    kept = ["--save-interval-updates", 2, "--keep-interval-updates", 2, "--no-epoch-checkpoints"]
    task = words_of("translation_multi_validated", data)
    return [*task, *kept, "--save-dir", run, "--max-update", updates, *more]


def train(tmp_path, *words, death="never"):
    (process,) = run_together([recorded_words(tmp_path / "record.jsonl", death, words)])
    return process


def refused(process, *says):
    """One sentence at the end of what was printed, and no traceback."""
    printed = process.stderr + process.stdout
    assert process.returncode not in (0, None) and "Traceback" not in printed, printed[-3000:]
    last = process.stderr.strip().splitlines()[-1]
    assert all(word in last for word in says), last
    return last


def updates_in(run):
    return checkpoint(run)["optimizer_history"][-1]["num_updates"]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A training of 4 updates, with checkpoints of 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    succeeded(train(folder, *words(data, folder / "run", 4)))
    assert updates_in(folder / "run") == 4
    return folder / "run"


def test_a_full_disk_and_a_read_only_one(data, tmp_path):
    with small_disk(tmp_path / "disk", 4096) as disk:
        run = disk.folder / "run"
        succeeded(train(tmp_path, *words(data, run, 2)))
        disk.fill()
        log = "--log-file", run / "train.log"
        refused(train(tmp_path, *words(data, run, 6, *log)), "checkpoint_1_4.pt cannot be written: the disk is full")
        assert updates_in(run) == 2 and not list(run.glob("*.tmp"))
        disk.make_room()
        succeeded(train(tmp_path, *words(data, run, 6)))
        assert updates_in(run) == 6
        disk.remount("ro")
        refused(train(tmp_path, *words(data, run, 8)), f"{run}", "read-only")
        disk.remount("rw")
        assert updates_in(run) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(damage, data, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "checkpoint_1_4.pt"):
        whole = bytearray((run / name).read_bytes())
        if damage == "cut":
            del whole[len(whole) // 3 :]
        else:
            whole[-30:] = bytes(30)  # where a zip archive says what it holds
        (run / name).write_bytes(whole)
    process = succeeded(train(tmp_path, *words(data, run, 6)))
    assert "going on from checkpoint_1_2.pt, update 2" in process.stderr
    assert [line["update"] for line in read_record(tmp_path / "record.jsonl")] == [3, 4, 5, 6] and updates_in(run) == 6


def test_nothing_but_damaged_checkpoints(data, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    for path in run.glob("*.pt"):
        path.write_bytes(b"damaged")
    refused(train(tmp_path, *words(data, run, 6)), "checkpoint_last.pt is truncated", "move checkpoint_last*.pt away")


def test_two_trainings_in_one_folder(data, tmp_path):
    run, record = tmp_path / "run", tmp_path / "first.jsonl"
    first = subprocess.Popen(recorded_words(record, "never", words(data, run, 100_000)), env=environment(),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_for(lambda: record.exists() and read_record(record))
        refused(train(tmp_path, *words(data, run, 100_000)), "another training is running in --save-dir", str(run))
        assert first.poll() is None and not (tmp_path / "record.jsonl").read_text(), "and it made no update"
    finally:
        first.kill()
        first.wait()


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the children of a process in /proc")
def test_a_process_that_loads_data_is_killed(data, tmp_path):
    run, record = tmp_path / "run", tmp_path / "record.jsonl"
    command = recorded_words(record, "never", words(data, run, 100_000, "--num-workers", 1))
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: record.exists() and len(read_record(record)) > 2)
        loader = wait_for(lambda: children(process.pid))[0]
        os.kill(loader, signal.SIGKILL)
        output = process.communicate(timeout=90)
    finally:
        process.kill()
    ended = subprocess.CompletedProcess(command, process.returncode, *output)
    refused(ended, "a process that loads data", "--num-workers")
    assert updates_in(run) >= 2, "the checkpoints are there"


def test_no_memory_names_the_batch_and_the_flag(data, tmp_path):
    process = train(tmp_path, *words(data, tmp_path / "run", 6), death="memory:4")
    refused(process, "memory ran out at update 4, a batch of source", "tokens; give a lower --max-tokens")
    assert updates_in(tmp_path / "run") == 2
    succeeded(train(tmp_path, *words(data, tmp_path / "run", 6)))


def test_a_nan_stops_with_the_last_good_checkpoint(data, tmp_path):
    process = train(tmp_path, *words(data, tmp_path / "run", 6), death="nan:4")
    refused(process, "training diverged and was stopped", "checkpoint_last.pt (update 2)", "likely causes")
    assert updates_in(tmp_path / "run") == 2
    succeeded(train(tmp_path, *words(data, tmp_path / "run", 6)))
    assert updates_in(tmp_path / "run") == 6


@pytest.mark.parametrize("end", ["idx", "bin"])
def test_a_cut_shard(end, data, tmp_path):
    own = shutil.copytree(data, tmp_path / "data")
    path = own / f"train.de-en.en.{end}"
    path.write_bytes(path.read_bytes()[:-7])
    refused(train(tmp_path, *words(own, tmp_path / "run", 4)), "train.de-en.en.idx or its .bin is cut off or damaged")


def test_a_shard_with_flipped_bits(data, tmp_path):
    """A token above the dictionary is seen when it is read; prepare's hashes see every bit."""
    own = shutil.copytree(data, tmp_path / "data")
    path, dice = own / "train.de-en.de.bin", random.Random(5)
    content = bytearray(path.read_bytes())
    for _ in range(20):
        content[2 * dice.randrange(len(content) // 2) + 1] ^= 0x40  # the high byte of a token
    path.write_bytes(content)
    process = train(tmp_path, *words(own, tmp_path / "run", 40))
    refused(process, "a token is outside of the dictionary at update", "a batch of source", "make the data again")


def test_another_dictionary_is_refused(data, trained, tmp_path):
    own, run = shutil.copytree(data, tmp_path / "data"), shutil.copytree(trained, tmp_path / "run")
    turned = dictionary_rows(PIECES[::-1], ("de", "en", "fr"))
    (own / "dict.txt").write_text(dictionary_text(turned), encoding="utf-8")
    refused(train(tmp_path, *words(own, run, 6)), "was trained with another source dictionary than that of the data")
    assert updates_in(run) == 4

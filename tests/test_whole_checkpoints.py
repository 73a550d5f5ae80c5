"""Checkpoints appear whole, the last one is repaired from the newest that all ranks have, a folder has one training."""

import errno
import os
import subprocess
import sys
import time

import pytest
import torch

import fairseq_plugins
from fairseq_plugins import _whole_checkpoints
from fairseq_plugins._whole_checkpoints import lock_folder, repair_last, together
from fairseq_plugins.compat import CheckpointError, Refusal
from tests.helpers import environment


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    fairseq_plugins.register()
    monkeypatch.setattr(_whole_checkpoints, "PAUSE", 0)


def write(path, updates):
    torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, path)


def updates_in(path):
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


def save(*args):
    from fairseq import checkpoint_utils

    checkpoint_utils.torch_persistent_save(*args)


def test_a_failed_write_leaves_the_old_file_and_is_one_sentence(tmp_path, monkeypatch):
    path = str(tmp_path / "checkpoint_last.pt")
    save({"model": 1}, path)
    tries = []

    def full(obj, file):
        open(file, "wb").write(b"half")
        tries.append(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(Refusal, match=r"_last.pt cannot be written: No space left on device; .* same command"):
            save({"model": 2}, path)
    assert len(tries) == 3 and os.listdir(tmp_path) == ["checkpoint_last.pt"]
    assert torch.load(path, weights_only=True) == {"model": 1}
    with pytest.raises(Refusal, match="its folder is gone"):
        save({}, str(tmp_path / "gone" / "checkpoint_last.pt"))


def test_a_disk_that_comes_back_costs_nothing(tmp_path, monkeypatch):
    stock, tries = torch.save, []

    def once(obj, file):
        tries.append(file)
        if len(tries) == 1:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        stock(obj, file)

    monkeypatch.setattr(torch, "save", once)
    save({"model": 3}, str(tmp_path / "a.pt"))
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"model": 3} and len(tries) == 2


def test_ranks_meet_before_a_file_gets_its_name(tmp_path):
    seen = []
    with together(lambda written: seen.append((written, sorted(os.listdir(tmp_path))))):
        save({}, str(tmp_path / "a.pt"))
        with pytest.raises(Refusal):
            save({}, str(tmp_path / "gone" / "c.pt"))  # the others must hear of it, or they would wait
    save({}, str(tmp_path / "b.pt"))
    assert seen == [(True, ["a.pt.tmp"]), (False, ["a.pt"])] and sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_a_copy_replaces_in_one_step(tmp_path):
    from fairseq.file_io import PathManager

    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    before = open(tmp_path / "old")
    assert PathManager.copy(str(tmp_path / "new"), str(tmp_path / "old"), overwrite=True)
    assert (tmp_path / "old").read_text() == "new" and before.read() == "old"


def test_nothing_is_touched_where_all_is_well(tmp_path):
    assert repair_last(tmp_path) is None
    write(tmp_path / "checkpoint_last.pt", 7)
    (tmp_path / "checkpoint_1_9.pt").write_bytes(b"half")
    assert repair_last(tmp_path) == 7
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_1_9.pt", "checkpoint_last.pt"]


def test_the_newest_whole_checkpoint_replaces_a_damaged_one(tmp_path, capsys):
    for updates in (10, 20, 30):
        write(tmp_path / f"checkpoint_1_{updates}.pt", updates)
    last, newest = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_1_30.pt"
    last.write_bytes(newest.read_bytes()[:100])
    newest.write_bytes(newest.read_bytes()[:-50])
    write(tmp_path / "checkpoint_1_40-rank-0.pt", 40)  # experts of one rank are no whole checkpoint
    assert repair_last(tmp_path) == 20 == updates_in(last)
    said = capsys.readouterr().err
    assert f"{last} is truncated" in said and "going on from checkpoint_1_20.pt, update 20" in said


def test_flipped_weights_are_seen_by_their_checksum(tmp_path, capsys):
    for name, updates in (("checkpoint_1_10.pt", 10), ("checkpoint_last.pt", 20)):
        torch.save({"model": {"w": torch.arange(4096.0)}, "optimizer_history": [{"num_updates": updates}]},
                   tmp_path / name)  # fmt: skip
    content = bytearray((tmp_path / "checkpoint_last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint_last.pt").write_bytes(content)
    assert repair_last(tmp_path) == 20, "torch reads it"
    assert repair_last(tmp_path, check_content=True) == 10
    assert "a checksum in it is wrong" in capsys.readouterr().err
    assert (tmp_path / "checkpoint_last.pt.damaged").read_bytes() == content


@pytest.mark.parametrize("state", [{"model": {}}, {"model": {}, "optimizer_history": []}, {"foreign": os.path.join}])
def test_what_is_not_damaged_is_left_alone(state, tmp_path):
    """A model alone, as others write it, or what fairseq itself will refuse: never replaced by an older one."""
    write(tmp_path / "checkpoint_1_10.pt", 10)
    torch.save(state, tmp_path / "checkpoint_last.pt")
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    assert repair_last(tmp_path, check_content=True) is None
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before and len(os.listdir(tmp_path)) == 2


def test_nothing_whole_is_left(tmp_path):
    for name in ("checkpoint_last.pt", "checkpoint_1_10.pt", "checkpoint_best.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no other checkpoint in .* can replace it, so move checkpoint_last"):
        repair_last(tmp_path)


RANKS = ["-rank-0", "-rank-1"]


def test_ranks_go_back_to_what_all_of_them_have(tmp_path):
    write(tmp_path / "checkpoint_last-rank-0.pt", 30)
    write(tmp_path / "checkpoint_1_30-rank-0.pt", 30)
    write(tmp_path / "checkpoint_last-rank-1.pt", 20)
    write(tmp_path / "checkpoint_1_20-rank-0.pt", 20)
    write(tmp_path / "checkpoint_1_20-rank-1.pt", 20)
    assert repair_last(tmp_path, RANKS) == 20
    assert [updates_in(tmp_path / f"checkpoint_last{rank}.pt") for rank in RANKS] == [20, 20]


def test_a_rank_that_had_written_but_not_named_its_file_counts(tmp_path):
    write(tmp_path / "checkpoint_last-rank-0.pt", 30)
    write(tmp_path / "checkpoint_last-rank-1.pt", 20)
    write(tmp_path / "checkpoint_last-rank-1.pt.tmp", 30)
    assert repair_last(tmp_path, RANKS) == 30
    assert [updates_in(tmp_path / f"checkpoint_last{rank}.pt") for rank in RANKS] == [30, 30]


def test_files_of_ranks_on_another_machine_are_left_alone(tmp_path):
    write(tmp_path / "checkpoint_last-rank-0.pt", 30)
    assert repair_last(tmp_path, RANKS) is None
    assert os.listdir(tmp_path) == ["checkpoint_last-rank-0.pt"]


def test_processes_that_load_data_do_not_hold_the_folder(tmp_path):
    """They outlive a kill of their training by seconds."""
    lock_folder(str(tmp_path))
    ready, begun = os.pipe()
    child = os.fork()
    if not child:
        os.write(begun, b".")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        _whole_checkpoints._held.popitem()[1].close()
        lock_folder(str(tmp_path))
        _whole_checkpoints._held.popitem()[1].close()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_trainings_with_other_suffixes_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_whole_checkpoints, "_held", {})
    lock_folder(str(tmp_path), "-a")
    lock_folder(str(tmp_path), "-b")
    assert len(_whole_checkpoints._held) == 2
    for lock in _whole_checkpoints._held.values():
        lock.close()


def test_a_folder_has_one_training(tmp_path):
    """The lock is the process's: a second one is refused while the first lives, and not after it was killed."""
    code = "import sys; from fairseq_plugins._whole_checkpoints import lock_folder; lock_folder(sys.argv[1]); "
    code += "print('held', flush=True); sys.stdin.read()"
    first = subprocess.Popen([sys.executable, "-c", code, tmp_path], env=environment(), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(Refusal, match=f"another training is running in --save-dir {tmp_path}"):
            lock_folder(str(tmp_path))
    finally:
        first.kill()
        first.wait()
    lock_folder(str(tmp_path))
    lock_folder(str(tmp_path))  # again by the same process: a training that loads twice
    _whole_checkpoints._held.popitem()[1].close()

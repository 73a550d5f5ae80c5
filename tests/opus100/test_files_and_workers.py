"""Files that are whole or absent, errors in one sentence, worker processes that end when they should."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100 import files
from fairseq_plugins.opus100.files import Progress, plain_os_errors, read_json, whole_file, write_json, write_whole
from fairseq_plugins.opus100.workers import run_all, run_alone, usable_cores
from tests.helpers import REPOSITORY, environment
from tests.opus100 import worker_jobs


def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "x"
    write_whole(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        with whole_file(path) as out:
            out.write(b"half of the ne")
            raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_is_of_what_was_written(tmp_path):
    import hashlib

    assert write_whole(tmp_path / "x", b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_equal_values_are_equal_json_files(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "ü": [2]})
    write_json(tmp_path / "b", {"ü": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"x": 1, "ü": [2]}
    assert read_json(tmp_path / "none") is None
    (tmp_path / "c").write_text("[1")
    with pytest.raises(UserError, match="c is damaged"):
        read_json(tmp_path / "c")


@pytest.mark.parametrize(
    "number, sentence", [(errno.ENOSPC, "the disk of OUT is full"), (errno.EACCES, "file: Permission denied")]
)
def test_errors_of_the_system_become_one_sentence(number, sentence):
    with pytest.raises(UserError, match=sentence):
        with plain_os_errors("OUT"):
            raise OSError(number, os.strerror(number), "file")


def test_a_closed_pipe_stays_one():
    with pytest.raises(BrokenPipeError):
        with plain_os_errors("OUT"):
            raise BrokenPipeError


def test_progress_tells_how_much_time_is_left(capsys, monkeypatch):
    clock = iter([0.0, 5.0, 30.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress("work", 400, "lines")
    progress.show(50)  # too early to print
    progress.show(100)
    progress.finish()
    assert capsys.readouterr().err == "work: 100 of 400 lines, 0:01:30 left\nwork: 400 lines in 0:00:40\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_with_their_jobs(workers):
    worker_jobs.prepared.clear()
    results = run_all(worker_jobs.square, [1, 2, 3], workers, Progress("x", 3, "jobs"), (worker_jobs.prepare, (100,)))
    assert sorted(results) == [(1, 101), (2, 104), (3, 109)]
    worker_jobs.prepared.clear()


def test_an_error_of_a_job_is_the_error_of_all(capfd):
    with pytest.raises(UserError, match="job . is bad"):
        list(run_all(worker_jobs.refuse, [1, 2], 2, Progress("x", 2, "jobs")))
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(UserError, match="worker process was killed.*fewer --workers"):
        list(run_all(worker_jobs.kill_myself, [1, 2], 2, Progress("x", 2, "jobs")))
    with pytest.raises(UserError, match="worker process was killed"):
        run_alone(worker_jobs.kill_myself, 1, None, what="x")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "error, kind, said",
    [
        ((UserError, "the checkpoint is damaged"), UserError, "^the checkpoint is damaged$"),
        ((RuntimeError, "CUDA out of memory.\nTried"), UserError, "could not start to work: CUDA out of memory.$"),
        ((OSError, errno.EACCES, "Permission denied", "model.pt"), UserError, "Permission denied: 'model.pt'$"),
        ((MemoryError,), UserError, "MemoryError$"),
        ((ModuleNotFoundError, "No module named 'x'"), ModuleNotFoundError, "'x'$"),
        ((ZeroDivisionError, "ours"), ZeroDivisionError, "^ours$"),  # stays what it is, traceback and all
    ],
)
def test_a_worker_that_cannot_start_says_why(workers, error, kind, said):
    prepare = (worker_jobs.refuse_to_prepare, error)
    with pytest.raises(kind, match=said):
        list(run_all(worker_jobs.square, [1, 2, 3], workers, Progress("x", 3, "jobs"), prepare))


def test_only_the_cores_this_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


SCRIPT = """
import time
from fairseq_plugins.opus100.files import Progress
from fairseq_plugins.opus100.workers import run_all

def sleep(job, report):
    import os
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    list(run_all(sleep, [1, 2], 2, Progress("x", 2, "jobs")))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    parent = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # a shell starts background jobs with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(number)
    parent.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "value, shape, where",
    [
        ({"a": 1}, {"a": int}, None),
        ({"a": 1, "more": 2}, {"a": (int, str), "b?": str}, None),
        ([], {"a": int}, ""),
        ({}, {"a": int}, "a"),
        ({"b": 2}, {"b?": str}, "b"),
        ({"rows": [{"n": 1}, {"n": "x"}]}, {"rows": [{"n": int}]}, "rows 1 n"),
        ({"any": {"deep": None}}, {str: {"deep": [int]}}, "any deep"),
        ({"n": -1}, {"n": files.whole_number}, "n"),
        ({"n": True}, {"n": files.number}, "n"),
        ({"n": float("nan")}, {"n": files.number_or_none}, "n"),
        ({"h": {"a/b.txt": "0"}}, {"h": files.hashes}, None),
        ({"h": {"../b": "0"}}, {"h": files.hashes}, "h"),
        ({"h": {"/b": "0"}}, {"h": files.hashes}, "h"),
        ({"h": {"a\0": "0"}}, {"h": files.hashes}, "h"),
    ],
)
def test_what_is_wrong_with_a_value_is_named_by_its_place(value, shape, where):
    assert files.misfit(value, shape) == where


def test_json_without_end_is_damaged(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="x.json is damaged: it is not a JSON object"):
        files.read_json(tmp_path / "x.json")

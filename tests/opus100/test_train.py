"""opus100 train: the command it writes, what it refuses, and that the same command goes on where it was killed."""

import argparse
import errno
import fcntl
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from fairseq_plugins.opus100 import prepare, train
from fairseq_plugins.opus100.run_folder import only_one
from fairseq_plugins.opus100.training_command import LONGEST, longest_kept
from tests.helpers import environment
from tests.opus100.road import REPOSITORY, TINY_MODEL, train_words, verb, verb_words


def command_of(output):
    """The words behind ``exec`` in a printed or written command."""
    words = shlex.split(output.replace("\\\n", " "), comments=True)
    return words[words.index("exec") + 1 :]


def value(command, flag):
    """The word after a flag, the last one where it stands twice."""
    return command[len(command) - command[::-1].index(flag)]


def test_dry_run_prints_the_whole_command_and_writes_nothing(prepared, tmp_path, capsys):
    assert verb("train", "--data", prepared, "--run", tmp_path / "run", "--dry-run", "--", "--encoder-layers", "3") == 0
    command = command_of(capsys.readouterr().out)
    assert command[1:4] == ["-m", "fairseq_cli.train", str(prepared)]
    assert value(command, "--arch") == "deepnet_mt_12l"
    assert value(command, "--encoder-langtok") == "tgt" and "--decoder-langtok" not in command
    assert value(command, "--lang-pairs") == str(prepared / "lang_pairs.txt")  # a file, however many pairs
    assert value(command, "--sampling-method") == "temperature" and value(command, "--sampling-temperature") == "5"
    assert value(command, "--adam-betas") == "(0.9, 0.98)"
    assert command[-2:] == ["--encoder-layers", "3"]
    assert not any("-en" in word for word in command if not word.startswith(("--", "/")))
    assert not (tmp_path / "run").exists()


def test_the_tag_scheme_of_the_data_reaches_the_command(prepared, tmp_path, capsys):
    data = shutil.copytree(prepared, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps({**manifest, "tag_scheme": "source+target"}))
    verb("train", "--data", data, "--run", tmp_path / "run", "--dry-run")
    command = command_of(capsys.readouterr().out)
    assert value(command, "--encoder-langtok") == "src" and "--decoder-langtok" in command


def test_the_longest_line_that_prepare_keeps_can_be_trained_on(prepared, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    longest = parser.parse_args(["--corpus", "c", "--out", "d"]).max_length
    assert LONGEST == longest_kept({}) == longest + 2  # tag and end
    data = shutil.copytree(prepared, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest["prepare"]["options"]["max_length"] == longest
    manifest["prepare"]["options"]["max_length"] = 512  # as after prepare --max-length 512
    (data / "manifest.json").write_text(json.dumps(manifest))
    for words, limit in (([], "514"), (["--max-positions", 100], "100")):
        verb("train", "--data", data, "--run", tmp_path / "run", "--dry-run", *words)
        command = command_of(capsys.readouterr().out)
        assert [value(command, f"--max-{side}-positions") for side in ("source", "target")] == [limit, limit]


def test_separate_embeddings_are_refused_where_a_preset_ties_them(prepared, tmp_path, capsys):
    words = ["train", "--data", prepared, "--run", tmp_path / "run", "--dry-run", "--separate-embeddings"]
    assert verb(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--arch deepnet_mt_12l" in error and "--residual deepnorm" in error
    for arch in ("transformer", "transformer_mt"):
        assert verb(*words, "--arch", arch) == 0
        assert "--share-all-embeddings" not in command_of(capsys.readouterr().out)


SLOW_TO_END = """
import signal, sys, time
from pathlib import Path
try:
    Path("started").touch()
    time.sleep(300)
except KeyboardInterrupt:
    time.sleep(1)  # a checkpoint is being written
    Path("ended").touch()
    raise
"""
INTERRUPTIBLE = """
import sys
from fairseq_plugins._verbs import run_verbs
from fairseq_plugins.opus100 import train
train.GRACE = int(sys.argv.pop())
train.build_command = lambda args, manifest, kept: ({}, [sys.executable, "-c", open("slow.py").read()])
sys.exit(run_verbs("x", "x", "fairseq_plugins.opus100", {"train": ""}, sys.argv[1:]))
"""


@pytest.mark.parametrize("kill, grace", [(os.killpg, 100), (os.kill, 1)])  # both are told, or the parent only
def test_ctrl_c_waits_for_the_training_to_end(prepared, tmp_path, kill, grace):
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    words = [sys.executable, "-c", INTERRUPTIBLE, "train", "--data", prepared, "--run", tmp_path / "run", f"{grace}"]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell starts background jobs with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    kill(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and (tmp_path / "ended").exists()
    assert error.endswith("interrupted; run the same command again to go on\n")


def test_a_full_disk_is_one_sentence(prepared, tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train, "write_whole", full)
    assert verb(*train_words(prepared, tmp_path / "run", 5)) == 2
    assert capsys.readouterr().err.startswith(f"error: the disk of {tmp_path / 'run'} is full; ")


def test_a_changed_command_keeps_the_old_one(tmp_path):
    path = tmp_path / "command.sh"
    for script in ("a\n", "b\n", "b\n", "c\n"):
        train.keep_script(path, script)
    texts = {entry.name: entry.read_text() for entry in tmp_path.iterdir()}
    assert texts == {"command.sh": "c\n", "command.1.sh": "a\n", "command.2.sh": "b\n"}


def test_the_limit_of_open_files_is_raised(monkeypatch):
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    train.raise_open_file_limit(needed=1632)  # 204 directions, train and valid
    assert limits == [4096, 4096]
    with pytest.raises(train.UserError, match="4096 open files"):
        train.raise_open_file_limit(needed=5000)


def test_trains_and_leaves_what_the_next_verbs_need(prepared, trained):
    assert (trained / "manifest.json").read_bytes() == (prepared / "manifest.json").read_bytes()
    assert {"checkpoint_best.pt", "checkpoint_last.pt", "train.log"} <= {path.name for path in trained.iterdir()}
    command = command_of((trained / "command.sh").read_text())
    assert command[-len(TINY_MODEL) :] == TINY_MODEL
    assert subprocess.run(["sh", "-n", trained / "command.sh"]).returncode == 0
    assert '"num_updates": "60"' in (trained / "train.log").read_text()


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="Linux sets the size of a pipe")
def test_killed_and_started_again_gives_the_same_weights(prepared, trained, tmp_path):
    """kill -9 in the middle; the same command must end in the weights of the run that was never stopped."""
    run = tmp_path / "run"
    words = verb_words(*train_words(prepared, run, 60, save_every=7))
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)  # the training blocks a few updates after we stop reading its log
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=write, stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(write)
    seen = b""
    while b'"num_updates": "16"' not in seen:
        more = os.read(read, 512)
        assert more, "the training ended by itself"
        seen += more
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(read)
    with open(run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the end of fairseq-train, which was killed as well
    assert list(run.glob("checkpoint_*_14.pt")) and not list(run.glob("checkpoint_*_56.pt"))
    assert verb(*train_words(prepared, run, 60, save_every=7)) == 0
    weights = [torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"] for folder in (run, trained)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_goes_on_with_the_loss_and_the_optimiser_it_began_with(prepared, trained, tmp_path, capsys):
    """fairseq refuses any other; and only its own Adam leaves weights in half precision."""

    def command(run):
        words = train_words(prepared, run, 61)
        assert verb(words[0], "--dry-run", *words[1:]) == 0
        flags = capsys.readouterr().out.replace("\\\n", " ").split()
        return [[flags[at + 1] for at, word in enumerate(flags) if word == flag][-1] for flag in KEPT]

    KEPT = "--criterion", "--optimizer"
    faster = ["chunked_label_smoothed_cross_entropy", "fused_adam"]
    run = shutil.copytree(trained, tmp_path / "run")
    assert command(run) == faster
    state = torch.load(run / "checkpoint_last.pt", weights_only=True)
    names = {"criterion_name": "LabelSmoothedCrossEntropyCriterion", "optimizer_name": "FairseqAdam"}
    state["optimizer_history"][-1].update(names)
    torch.save(state, run / "checkpoint_last.pt")
    assert command(run) == ["label_smoothed_cross_entropy", "adam"]
    args = SimpleNamespace(run=trained, fairseq_args=["--memory-efficient-bf16"])
    assert train.kept_flags(args) == ["--optimizer", "adam"]


def test_a_finished_run_is_left_alone(prepared, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert verb(*train_words(prepared, trained, 60)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in trained.iterdir()}


def test_a_second_training_in_the_same_folder_is_refused(prepared, trained, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    with only_one(run):
        assert verb(*train_words(prepared, run, 5)) == 2
    assert f"still running in {run}" in capsys.readouterr().err
    with only_one(run) as held:
        left_behind = subprocess.Popen(["sleep", "60"], pass_fds=held)
    with pytest.raises(train.UserError, match="still running"), only_one(run):
        pass
    left_behind.kill()
    left_behind.wait()
    with only_one(run):
        pass


def test_half_a_last_checkpoint_is_replaced(prepared, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    whole = (run / "checkpoint_last.pt").read_bytes()
    (run / "checkpoint_last.pt").write_bytes(whole[: len(whole) // 2])
    assert verb(*train_words(prepared, run, 60)) == 0
    assert "going on from checkpoint_" in capsys.readouterr().err
    assert torch.load(run / "checkpoint_last.pt", weights_only=True)["optimizer_history"][-1]["num_updates"] == 60
    for path in run.glob("checkpoint*.pt"):
        path.write_bytes(whole[:1000])
    assert verb(*train_words(prepared, run, 60)) == 2
    assert "no other checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["dict.txt", "sentencepiece.model", "tag scheme"])
def test_a_run_of_other_data_is_refused(prepared, trained, tmp_path, capsys, what):
    run = tmp_path / "run"
    run.mkdir()
    manifest = json.loads((trained / "manifest.json").read_text())
    if what == "tag scheme":
        manifest["tag_scheme"] = "source+target"
    else:
        manifest["sha256"][what] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert verb(*train_words(prepared, run, 5)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert what in error and {"dict.txt", "sentencepiece.model", "tag scheme"} - {what} == {
        other for other in ("dict.txt", "sentencepiece.model", "tag scheme") if other not in error
    }


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data, run: ["--data", data / "nowhere"], "no manifest.json"),
        (lambda data, run: ["--run", data / "dict.txt" / "run"], "cannot be written"),
        (lambda data, run: ["--max-positions", 501], "--max-positions 501 is more than --max-tokens 500"),
        (lambda data, run: ["--arch", "no_such_arch"], "ended with status"),
    ],
)
def test_bad_input_is_one_sentence(prepared, tmp_path, capsys, change, said):
    words = train_words(prepared, tmp_path / "run", 5)
    end = words.index("--")
    assert verb(*words[:end], *change(prepared, tmp_path / "run"), *words[end:]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_changed_data_is_noticed(prepared, tmp_path, capsys):
    data = shutil.copytree(prepared, tmp_path / "data")
    (data / "dict.txt").unlink()
    (data / "dict.txt").write_text("word 1\n")
    assert verb(*train_words(data, tmp_path / "run", 5)) == 2
    assert "dict.txt is not the file that manifest.json describes" in capsys.readouterr().err

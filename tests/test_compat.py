"""compat.py through the real commands. Every item of it has a test here that fails without the item."""

import argparse
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.configs import EMAConfig
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.models.ema import EMA
from omegaconf import OmegaConf

import fairseq_plugins
from fairseq_plugins import compat
from fairseq_plugins._verbs import UserError
from tests.helpers import (
    checkpoint,
    environment,
    fairseq_words,
    run_fairseq,
    succeeded,
    train_words,
    training_losses,
)

fairseq_plugins.register()


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with checkpoints of six updates that hold all fairseq can put in: a Namespace and numpy numbers."""
    run = tmp_path_factory.mktemp("trained")
    process = run_fairseq("train", *train_words(data, run, 6, "--eval-bleu", "--eval-bleu-args", '{"beam": 2}'))
    (run / "losses.json").write_text(json.dumps(training_losses(succeeded(process))))
    (run / "stderr").write_text(process.stderr)
    return run


# ---- the allow-list --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_allow_list():
    """torch's own allow-list only, as without compat.py."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)


def test_torch_alone_refuses_what_fairseq_writes(trained, no_allow_list):
    """The reason for the allow-list; with it, safe_load reads the same file."""
    foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(trained / "checkpoint_last.pt")))
    assert "argparse.Namespace" in foreign
    assert any(name.startswith("numpy.") for name in foreign)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(trained / "checkpoint_last.pt")
    state = compat.safe_load(trained / "checkpoint_last.pt")
    assert isinstance(state["cfg"]["model"], argparse.Namespace)
    assert state["optimizer_history"][-1]["num_updates"] == 6


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_both_generations_of_numpy_names_are_readable(package, tmp_path):
    """numpy 1 wrote numpy.core.multiarray, numpy 2 writes numpy._core.multiarray."""
    state = {"best": np.float64(0.25), "counts": np.arange(3)}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # names stand in clear in this format
    written = (tmp_path / "old.pt").read_bytes().replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pt").write_bytes(written.replace(b"numpy.core", package))
    state = compat.safe_load(tmp_path / "old.pt")
    assert state["best"] == 0.25 and state["counts"].tolist() == [0, 1, 2]


def test_state_that_rank_0_broadcasts_is_readable(tmp_path):
    """A resumed state as the other ranks get it: placeholders for tensors, the configuration as omegaconf objects."""
    cfg = OmegaConf.create({"lr": [0.1], "name": "x", "flag": True, "none": None, "bytes": b"b", "deep": {"n": 1}})
    torch.save({"model": {"weight": _TensorPlaceholder(0)}, "cfg": cfg}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["model"]["weight"].index == 0
    assert OmegaConf.to_container(state["cfg"]) == OmegaConf.to_container(cfg)


def test_resume_goes_on_from_the_checkpoint(data, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    process = run_fairseq("train", *train_words(data, run, 8, "--eval-bleu", "--eval-bleu-args", '{"beam": 2}'))
    assert sorted(training_losses(succeeded(process))) == [7, 8]
    assert checkpoint(run)["optimizer_history"][-1]["num_updates"] == 8


@pytest.mark.parametrize("command", ["generate", "interactive"])
def test_commands_translate_with_a_checkpoint(command, data, trained):
    words = [data, "--path", trained / "checkpoint_best.pt", "-s", "de", "-t", "en", "--max-len-b", "10"]
    process = succeeded(run_fairseq(command, *words, stdin="w1 w2 w3\nw4 w5\n"))
    hypotheses = re.findall(r"^H-(\d+)\t", process.stdout, re.MULTILINE)
    assert len(set(hypotheses)) == len(hypotheses) == (11 if command == "generate" else 2)


def test_validate_reads_a_checkpoint(data, trained):
    words = ["--path", trained / "checkpoint_best.pt", "--task", "translation", "--max-tokens", "400"]
    process = succeeded(run_fairseq("validate", data, *words))
    found = re.search(r"valid on 'valid' subset \| loss (\d+\.\d+)", process.stdout + process.stderr)
    assert float(found[1]) == pytest.approx(checkpoint(trained, "checkpoint_best.pt")["extra_state"]["best"], abs=0.01)


def test_averages_are_readable_by_the_commands_in_turn(data, trained, tmp_path):
    inputs, output = [trained / "checkpoint_best.pt", trained / "checkpoint_last.pt"], tmp_path / "average.pt"
    words = [sys.executable, "-m", "fairseq_plugins", "average", *map(str, inputs), "--output", str(output)]
    succeeded(subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300))
    average = checkpoint_utils.load_checkpoint_to_cpu(str(output))["model"]
    one, other = (compat.safe_load(path)["model"] for path in inputs)
    for name, parameter in average.items():
        torch.testing.assert_close(parameter, (one[name] + other[name]) / 2)


def test_fine_tuning_starts_from_the_weights_alone(data, trained, tmp_path):
    process = run_fairseq(
        "train", *train_words(data, tmp_path, 2, "--finetune-from-model", trained / "checkpoint_best.pt")
    )
    losses = training_losses(succeeded(process))
    assert sorted(losses) == [1, 2]
    assert losses[1] < json.loads((trained / "losses.json").read_text())["1"] - 0.5


def test_checkpoint_with_a_moving_average_is_restored(data, tmp_path):
    average = ["--store-ema", "--ema-decay", "0.9"]
    succeeded(run_fairseq("train", *train_words(data, tmp_path, 2, *average)))
    state = checkpoint(tmp_path)
    assert state["extra_state"]["ema"].keys() == state["model"].keys()
    restored = ["--restore-file", tmp_path / "checkpoint_last.pt", *average]
    process = run_fairseq("train", *train_words(data, tmp_path / "on", 4, *restored))
    assert sorted(training_losses(succeeded(process))) == [3, 4]


def test_moving_average_copies_whole_numbers():
    model = torch.nn.Linear(1, 1, bias=False)
    model.register_buffer("alive", torch.tensor([True, True]))
    model.weight.data.fill_(1.0)
    average = EMA(model, EMAConfig(ema_decay=0.75))
    model.weight.data.fill_(2.0)
    model.alive[1] = False
    average.step(model, 1)
    assert average.get_model().alive.tolist() == [True, False]
    assert average.get_model().weight.item() == 1.25


# ---- foreign and damaged checkpoints ---------------------------------------------------------------------------------


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.fixture(params=["zip", "before torch 1.6"])
def bomb(request, trained, tmp_path):
    """A checkpoint like any other, that runs a command when it is unpickled, and the file that the command writes."""
    state = checkpoint(trained)
    state["extra_state"]["note"] = Bomb(tmp_path / "exploded")
    path = tmp_path / "bomb.pt"
    torch.save(state, path, _use_new_zipfile_serialization=request.param == "zip")
    torch.load(path, weights_only=False)
    (tmp_path / "exploded").unlink()  # it does explode where nothing holds it back
    return path, tmp_path / "exploded"


def test_foreign_global_is_refused_in_one_sentence(bomb):
    path, exploded = bomb
    for load in (compat.safe_load, lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path))):
        with pytest.raises(compat.CheckpointError) as refusal:
            load(path)
        assert str(path) in str(refusal.value) and "posix.system" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert not exploded.exists()


def test_commands_refuse_a_foreign_global(bomb, data, trained):
    path, exploded = bomb
    words = [data, "--path", path, "-s", "de", "-t", "en"]
    if path.read_bytes()[:2] == b"PK":
        process = run_fairseq("generate", *words)
    else:  # the other format through the other command, to read each once
        process = run_fairseq("train", *train_words(data, path.parent, 1, "--restore-file", path))
    assert process.returncode == 1
    assert not exploded.exists()
    assert process.stderr.splitlines()[-1].startswith(f"checkpoint {path} holds posix.system, ")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("kept", [0, 10, 3000, 0.5, 0.999])
def test_truncated_checkpoint_is_refused_in_one_sentence(kept, trained, tmp_path):
    whole = (trained / "checkpoint_last.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    for load in (compat.safe_load, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(
            compat.CheckpointError, match=f"^checkpoint {path} is truncated, damaged or not a checkpoint"
        ):
            load(str(path))


def test_other_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(compat.CheckpointError, match="none.pt does not exist"):
        compat.safe_load(tmp_path / "none.pt")
    with pytest.raises(compat.CheckpointError, match="cannot be opened"):
        compat.safe_load(tmp_path)
    (tmp_path / "text.pt").write_text("dear reader\n")
    with pytest.raises(compat.CheckpointError, match="not a checkpoint"):
        compat.safe_load(tmp_path / "text.pt")


def test_refusal_ends_a_command_and_reaches_a_verb():
    """As SystemExit it ends a stock command with its sentence; as UserError our verbs print it as they do others."""
    assert issubclass(compat.CheckpointError, UserError)
    assert compat.CheckpointError("sentence").code == "sentence"


def test_failures_that_are_not_the_files_keep_their_own_error(trained, monkeypatch):
    """Only unreadable files become a sentence about the file."""
    path = str(trained / "checkpoint_last.pt")
    with pytest.raises(ValueError, match="not the file"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_utils, "_upgrade_state_dict", _fail_otherwise)
            checkpoint_utils.load_checkpoint_to_cpu(path)


def _fail_otherwise(_):
    raise ValueError("not the file")


# ---- --bf16 ----------------------------------------------------------------------------------------------------------


def test_bf16_trains_in_bf16_on_the_cpu_and_resumes(data, tmp_path):
    first = succeeded(run_fairseq("train", *train_words(data, tmp_path, 20, "--bf16")))
    for name, weight in checkpoint(tmp_path)["model"].items():  # written as float32, but only with values of bfloat16
        assert torch.equal(weight, weight.bfloat16().float()), name
    losses = training_losses(first)
    assert losses[20] < losses[1] - 0.5 and all(map(math.isfinite, losses.values()))
    second = training_losses(succeeded(run_fairseq("train", *train_words(data, tmp_path, 25, "--bf16"))))
    assert sorted(second) == list(range(21, 26))
    assert second[21] < losses[1] - 0.5


@pytest.mark.parametrize(
    "words, bf16, tpu",
    [
        ([], False, False),
        (["--bf16"], True, False),
        (["--memory-efficient-bf16"], True, False),
        (["--tpu"], False, True),
        (["--bf16", "--tpu"], True, True),
    ],
)
def test_bf16_is_not_tpu(words, bf16, tpu):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["data", "--task", "translation", "--arch", "transformer", *words])
    assert (args.bf16, args.tpu) == (bf16, tpu)


def test_bf16_help_tells_the_truth():
    text = re.sub(r"\s+", " ", options.get_training_parser().format_help())
    assert "--bf16 train in bfloat16 on the device at hand" in text
    assert "implies --tpu" not in text


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_known_warnings_are_real_and_silenced(data, trained, tmp_path):
    """Stock fairseq prints each of the nine (so the list holds nothing stale); with the user-dir none is left."""
    words = fairseq_words("train", *train_words(data, tmp_path, 1, "--cpu"))
    without_user_dir = words[: words.index("--user-dir")]
    stock = subprocess.run(without_user_dir, env=environment(), capture_output=True, text=True, timeout=300).stderr
    assert len(compat.KNOWN_WARNINGS) == 9
    for message, _ in compat.KNOWN_WARNINGS:
        assert re.search(message, stock), message
    assert not re.search("[Ww]arning: ", (trained / "stderr").read_text())


def test_no_other_warning_is_silenced():
    hidden = [entry for entry in warnings.filters if entry[0] == "ignore" and entry[1] is not None]
    for message in (
        "torch.cuda.amp.GradScaler is enabled, but CUDA is not available.  Disabling.",
        "Converting a tensor with requires_grad=True to a scalar may lead to unexpected behavior.",
        "The strict flag is deprecated",
        "Support for attn_mask is deprecated",
    ):
        assert not any(entry[1].match(message) for entry in hidden), message


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_apply_twice_changes_nothing():
    before = (checkpoint_utils.load_checkpoint_to_cpu, options.parse_args_and_arch, len(warnings.filters))
    compat.apply()
    assert (checkpoint_utils.load_checkpoint_to_cpu, options.parse_args_and_arch, len(warnings.filters)) == before

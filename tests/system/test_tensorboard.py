"""The stock flag --tensorboard-logdir with our models and criterions: one package more, and all scalars arrive."""

import struct

import pytest

from tests.helpers import run_fairseq, succeeded, train_words

pytestmark = pytest.mark.system

MODEL = (
    "--arch transformer_mt --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 --encoder-attention-heads 2 --decoder-attention-heads 2 "
    "--moe-experts 2 --moe-freq 1 --moe-router cosine --gradient-bands 1 "
    "--criterion label_smoothed_cross_entropy_with_moe"
).split()


def scalars(folder):
    """Tag -> {step: value} of the event files in a folder; a record is length, checksum, event, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            data = data[16 + length :]
    return found


def test_every_scalar_becomes_an_event(data, tmp_path):
    pytest.importorskip("tensorboardX")
    words = train_words(data, tmp_path / "run", 3, "--tensorboard-logdir", tmp_path / "events", model=MODEL)
    succeeded(run_fairseq("train", *words))
    training, validation = scalars(tmp_path / "events" / "train_inner"), scalars(tmp_path / "events" / "valid")
    wanted = {"loss", "nll_loss", "gnorm", "lr", "moe_load_max", "moe_dropped", "moe_temperature", "encoder_grad_1of1"}
    assert wanted <= training.keys()
    assert sorted(training["loss"]) == [1, 2, 3] and all(value > 0 for value in training["loss"].values())
    assert {"loss", "moe_load_entropy"} <= validation.keys()


def test_without_the_package_the_training_goes_on_and_says_so(data, tmp_path, monkeypatch):
    """What the engine says is one line wherever it starts to log; it writes no events."""
    for name in ("tensorboard", "tensorboardX"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError('hidden by a test')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    words = train_words(data, tmp_path / "run", 2, "--tensorboard-logdir", tmp_path / "events", model=MODEL)
    done = succeeded(run_fairseq("train", *words))
    said = {line.rpartition("| ")[2] for line in (done.stdout + done.stderr).splitlines() if "tensorboard not" in line}
    assert said == {"tensorboard not found, please install with: pip install tensorboard"}
    assert not (tmp_path / "events").exists() and (tmp_path / "run" / "checkpoint_last.pt").exists()
    assert "Traceback" not in done.stderr

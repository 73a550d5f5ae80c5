"""`python -m fairseq_plugins average` on checkpoints as fairseq writes them."""

import argparse
import json

import pytest
import torch

from fairseq_plugins.__main__ import main


def save(path, value, updates=0, val_loss=None, rows=4, maximise=False):
    """A checkpoint with fairseq's top level; its tied weights are all `value`."""
    weight = torch.full((rows, 2), float(value))
    torch.save(
        {
            "args": argparse.Namespace(arch="transformer"),
            "cfg": {"checkpoint": {"maximize_best_checkpoint_metric": maximise}},
            "model": {"encoder.embed_tokens.weight": weight, "decoder.embed_tokens.weight": weight},
            "optimizer_history": [{"num_updates": updates}],
            "last_optimizer_state": {"state": torch.ones(1000)},
            "extra_state": {"val_loss": val_loss, "train_iterator": {"epoch": 1}, "ema": {"w": weight}},
        },
        path,
    )


@pytest.fixture
def folder(tmp_path):
    """Four saved states of one training: value = updates / 100; the best validation losses are those of 200 and 300."""
    save(tmp_path / "checkpoint1.pt", 1, 100, val_loss=9.0)
    save(tmp_path / "checkpoint_2_200.pt", 2, 200, val_loss=3.0)
    save(tmp_path / "checkpoint2.pt", 3, 300, val_loss=4.0)
    save(tmp_path / "checkpoint.best_loss_4.0000.pt", 3, 300, val_loss=4.0)  # a second name of the same state
    save(tmp_path / "checkpoint10.pt", 10, 1000, val_loss=5.0)
    save(tmp_path / "checkpoint_last.pt", 10, 1000, val_loss=5.0)
    save(tmp_path / "checkpoint_best.pt", 2, 200, val_loss=3.0)
    return tmp_path


def average(*words, output):
    return main(["average", *map(str, words), "--output", str(output)])


def result(path):
    state = torch.load(path, weights_only=False)
    return state, state["model"]["encoder.embed_tokens.weight"][0, 0].item()


@pytest.mark.parametrize(
    "choice, mean, averaged",
    [
        (["--last", 2], 6.5, ["checkpoint10.pt", "checkpoint2.pt"]),
        (["--last", 4], 4.0, ["checkpoint10.pt", "checkpoint2.pt", "checkpoint_2_200.pt", "checkpoint1.pt"]),
        (["--best", 1], 2.0, ["checkpoint_2_200.pt"]),
        (["--best", 2], 2.5, ["checkpoint_2_200.pt", "checkpoint2.pt"]),
    ],
)
def test_last_and_best_count_every_state_once(folder, choice, mean, averaged):
    assert average(folder, *choice, output=folder / "out.pt") == 0
    state, value = result(folder / "out.pt")
    assert value == mean
    assert state["extra_state"]["averaged"] == averaged


def test_best_follows_a_metric_to_maximise(tmp_path):
    for value, bleu in ((1, 10.0), (2, 30.0), (3, 20.0)):
        save(tmp_path / f"checkpoint{value}.pt", value, value, val_loss=bleu, maximise=True)
    assert average(tmp_path, "--best", 2, output=tmp_path / "out.pt") == 0
    assert result(tmp_path / "out.pt")[1] == 2.5


def test_named_files(folder):
    assert average(folder / "checkpoint1.pt", folder / "checkpoint_last.pt", output=folder / "out.pt") == 0
    assert result(folder / "out.pt")[1] == 5.5


def test_the_result_keeps_what_generation_needs_and_drops_the_optimiser(folder):
    average(folder, "--last", 2, output=folder / "out.pt")
    state, _ = result(folder / "out.pt")
    assert state["args"].arch == "transformer" and state["extra_state"]["train_iterator"] == {"epoch": 1}
    assert "last_optimizer_state" not in state
    assert "ema" not in state["extra_state"]  # the first checkpoint's own, not a mean
    weights = state["model"].values()
    assert len({weight.data_ptr() for weight in weights}) == 1 < len(weights)


def test_an_input_may_be_overwritten(folder):
    target = folder / "checkpoint1.pt"
    assert average(target, folder / "checkpoint10.pt", output=target) == 0
    assert result(target)[1] == 5.5


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def spoil(folder):
    """One bad input per error."""
    whole = (folder / "checkpoint1.pt").read_bytes()
    (folder / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": torch.ones(1)}, folder / "other.pt")
    torch.save({"model": {"w": torch.ones(1)}, "extra_state": Bomb()}, folder / "bomb.pt")
    save(folder / "rows.pt", 1, rows=5)


@pytest.mark.parametrize(
    "words, says",
    [
        (["{}"], "is a folder: say which of its checkpoints with --last N or --best N"),
        (["{}", "--last", "5"], "--last 5: {} holds only 4 checkpoints"),
        (["{}", "--last", "0"], "--last 0 must be at least 1"),
        (["{}/checkpoint1.pt", "--best", "1"], "--best chooses from one folder"),
        (["{}/checkpoint1.pt", "{}/absent.pt"], "{}/absent.pt does not exist"),
        (["{}/checkpoint1.pt", "{}/half.pt"], "{}/half.pt is truncated"),
        (["{}/other.pt"], "{}/other.pt is not a fairseq checkpoint"),
        (["{}/checkpoint1.pt", "{}/bomb.pt"], "{}/bomb.pt holds"),
        (["{}/checkpoint1.pt", "{}/rows.pt"], "two different dictionaries"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(folder, capsys, monkeypatch, words, says):
    monkeypatch.chdir(folder)
    spoil(folder)
    assert average(*(word.format(folder) for word in words), output=folder / "out.pt") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says.format(folder) in error
    assert not (folder / "out.pt").exists() and not list(folder.glob(".*.tmp"))
    assert not (folder / "exploded").exists()


def test_checkpoints_without_validation_have_no_best(tmp_path, capsys):
    save(tmp_path / "checkpoint1.pt", 1, 1)
    assert average(tmp_path, "--best", 1, output=tmp_path / "out.pt") == 2
    assert "holds only 0 validated checkpoints" in capsys.readouterr().err


def write_manifest(folder, dictionary, tags="target"):
    """What `opus100 train` leaves beside checkpoints; returns the part that checkpoints are bound to."""
    bound = {"sha256": {"dict.txt": dictionary, "sentencepiece.model": "m"}, "tag_scheme": tags}
    text = json.dumps({**bound, "sha256": {**bound["sha256"], "train.bin": "t"}, "pivot": "en"})
    (folder / "manifest.json").write_text(text)
    return bound


@pytest.fixture
def two_trainings(tmp_path):
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "checkpoint1.pt", 1, 1)
        files.append(tmp_path / name / "checkpoint1.pt")
        write_manifest(tmp_path / name, "d")
    return files


@pytest.mark.parametrize("other, what", [(("e",), "dict.txt"), (("d", "source+target"), "tag scheme")])
def test_trainings_on_different_data_are_refused(two_trainings, tmp_path, capsys, other, what):
    write_manifest(tmp_path / "b", *other)
    assert average(*two_trainings, output=tmp_path / "out.pt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "different data" in error and what in error
    assert not (tmp_path / "out.pt").exists()


def test_the_result_says_which_data_it_was_trained_from(two_trainings, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    once, twice = tmp_path / "elsewhere" / "once.pt", tmp_path / "elsewhere" / "twice.pt"
    assert average(*two_trainings, output=once) == 0
    assert result(once)[0]["extra_state"]["fairseq_plugins"] == write_manifest(tmp_path / "a", "d")
    assert average(once, two_trainings[0], output=twice) == 0
    assert "fairseq_plugins" in result(twice)[0]["extra_state"]
    save(tmp_path / "unknown.pt", 1, 1)
    assert average(once, tmp_path / "unknown.pt", output=twice) == 0
    assert "fairseq_plugins" not in result(twice)[0]["extra_state"]


def test_checkpoints_of_two_expert_parallel_ranks_are_refused(tmp_path, capsys):
    for rank in (0, 1):
        save(tmp_path / f"{rank}.pt", rank)
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        state["extra_state"]["expert_shard"] = {"rank": rank, "ranks": 2}
        torch.save(state, tmp_path / f"{rank}.pt")
    assert average(tmp_path / "0.pt", tmp_path / "0.pt", output=tmp_path / "out.pt") == 0
    assert average(tmp_path / "0.pt", tmp_path / "1.pt", output=tmp_path / "no.pt") == 2
    assert "hold different experts" in capsys.readouterr().err and not (tmp_path / "no.pt").exists()


def test_an_output_that_cannot_be_written_is_named(folder, capsys):
    assert average(folder, "--last", 1, output=folder / "no" / "such" / "out.pt") == 2
    assert f"--output {folder}/no/such/out.pt cannot be written" in capsys.readouterr().err

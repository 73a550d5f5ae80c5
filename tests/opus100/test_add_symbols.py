"""Upgrading a stock data folder and a stock checkpoint: same model, same data, more rows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import dictionary_rows, dictionary_text, read_dictionary
from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.add_symbols import move_checkpoint, rewrite_shard, rows_of_checkpoint
from fairseq_plugins.opus100.files import sha256_of
from tests.helpers import TINY_TRANSFORMER, checkpoint, run_fairseq, succeeded, train_words, write_tiny_translation_data
from tests.opus100.corpora import read_all, sides_of

TAGGED = ("--task", "translation_multi_simple_epoch", "--lang-pairs", "de-en,en-de", "--encoder-langtok", "tgt")


def add_symbols(data, out, *words):
    return main(["add-symbols", "--data", str(data), "--out", str(out), *map(str, words)])


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """(data, run): a stock folder without our symbols and a stock model trained on it, tags appended at load time."""
    folder = tmp_path_factory.mktemp("old")
    data = write_tiny_translation_data(folder / "data")
    words = train_words(data, folder / "run", 3, "-s", "x", "-t", "y", *TAGGED, "--dropout", "0.1")
    words = [word for word in words if word not in ("-s", "-t", "x", "y", "de", "en")]
    succeeded(run_fairseq("train", *words))
    return data, folder / "run"


@pytest.fixture(scope="module")
def new(old, tmp_path_factory):
    """The folder that add-symbols made of ``old``, with one more language."""
    out = tmp_path_factory.mktemp("new") / "data"
    assert add_symbols(old[0], out, "--languages", "fr", "--checkpoint", old[1] / "checkpoint_last.pt") == 0
    return out


def test_the_new_dictionary_is_complete_and_keeps_the_pieces(old, new):
    before, after = read_dictionary(old[0] / "dict.de.txt"), read_dictionary(new / "dict.txt")
    pieces = [symbol for symbol in before[4:] if not symbol.startswith("madeupword")]
    assert after == dictionary_rows(pieces, ["de", "en", "fr"])
    assert {path.name for path in new.glob("dict*")} == {"dict.txt", "dict.de.txt", "dict.en.txt", "dict.fr.txt"}


def test_data_whose_rows_did_not_move_is_copied(old, new):
    for path in old[0].glob("*.bin"):
        assert (new / path.name).read_bytes() == path.read_bytes()
        assert (new / path.name).stat().st_ino != path.stat().st_ino


def test_rows_of_a_stock_model_include_the_tags_it_appended(old):
    rows = read_dictionary(old[0] / "dict.de.txt")
    state = checkpoint(old[1])
    assert len(state["model"]["encoder.embed_tokens.weight"]) == len(rows) + 2
    assert rows_of_checkpoint(state, rows) == rows + ["__de__", "__en__"]


def test_the_moved_model_has_the_same_numbers_under_each_symbol(old, new):
    before = checkpoint(old[1])
    after = torch.load(new / "checkpoints" / "checkpoint_last.pt", weights_only=False)
    old_rows = rows_of_checkpoint(before, read_dictionary(old[0] / "dict.de.txt"))
    new_rows = read_dictionary(new / "dict.txt")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        for symbol in old_rows:
            if symbol in new_rows:
                here, there = new_rows.index(symbol), old_rows.index(symbol)
                assert_close(after["model"][name][here], before["model"][name][there])
    moments = after["last_optimizer_state"]["state"][0]["exp_avg"]
    assert_close(moments[new_rows.index("__en__")], before["last_optimizer_state"]["state"][0]["exp_avg"][-1])
    assert moments[new_rows.index("__fr__")].abs().sum() == 0


def load(path, data):
    """A stock model with the dictionary that its task found in ``data``."""
    from fairseq import checkpoint_utils

    import fairseq_plugins

    fairseq_plugins.register()
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides={"data": str(data)})
    return models[0].eval(), task.dicts["en"]


def test_the_moved_model_says_the_same_about_every_symbol_it_knew(old, new):
    """Both load with stock fairseq, each with its folder; the logits of a tagged sentence agree symbol by symbol."""
    source, target = "__en__ w3 w17 w9 w9".split(), "w9 w17 w1".split()
    logits = []
    for path, data in ((old[1] / "checkpoint_last.pt", old[0]), (new / "checkpoints" / "checkpoint_last.pt", new)):
        model, dictionary = load(path, data)
        rows = [torch.tensor([[dictionary.index(s) for s in line] + [dictionary.eos()]]) for line in (source, target)]
        assert dictionary.unk() not in torch.cat(rows, 1)
        with torch.no_grad():
            out, _ = model(rows[0], torch.tensor([rows[0].shape[1]]), rows[1].roll(1, 1))
        logits.append({symbol: out[..., row] for row, symbol in enumerate(dictionary.symbols)})
    known = [symbol for symbol in logits[0] if not symbol.startswith("madeupword")]
    assert len(known) == 4 + 40 + 2
    for symbol in known:
        assert_close(logits[1][symbol], logits[0][symbol])


def test_training_goes_on_from_the_moved_checkpoint(new, tmp_path):
    shutil.copytree(new / "checkpoints", tmp_path / "run")
    words = [*TINY_TRANSFORMER, *TAGGED, "--save-dir", tmp_path / "run", "--max-update", "5", "--max-tokens", "400",
             "--optimizer", "adam", "--lr", "0.01", "--num-workers", "0"]  # fmt: skip
    done = succeeded(run_fairseq("train", new, *words))
    assert "Loaded checkpoint" in done.stdout + done.stderr
    assert checkpoint(tmp_path / "run")["optimizer_history"][-1]["num_updates"] == 5


def test_data_whose_rows_moved_is_rewritten(old, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(old[0], data)
    rows = read_dictionary(data / "dict.de.txt")
    front = ["<mask>", "__en__"]  # symbols of ours at the front push every piece two rows up
    for language in ("de", "en"):
        (data / f"dict.{language}.txt").write_text(dictionary_text(rows[:4] + front + rows[4:]))
    before = sides_of(old[0], "valid", "de-en")
    for path in data.glob("*.bin"):
        tokens = np.fromfile(path, np.uint16)
        np.where(tokens >= 4, tokens + 2, tokens).astype(np.uint16).tofile(path)
    assert sides_of(data, "valid", "de-en") != before
    assert add_symbols(data, tmp_path / "new") == 0
    assert sides_of(tmp_path / "new", "valid", "de-en") == before


def test_the_same_command_again_gives_the_same_files(old, new, tmp_path):
    for _ in range(2):
        assert add_symbols(old[0], tmp_path / "again", "--languages", "fr") == 0
    expected = {name: data for name, data in read_all(new).items() if not name.startswith("checkpoints/")}
    assert read_all(tmp_path / "again") == expected


def test_a_prepared_folder_gets_a_new_manifest(old, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(old[0], data)
    known = {"dict.de.txt": sha256_of(data / "dict.de.txt")}
    manifest = {"format": 1, "languages": ["de", "en"], "vocabulary": {"rows": 48}, "sha256": known}
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert add_symbols(data, tmp_path / "new", "--languages", "ru") == 0
    after = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert after["languages"] == ["de", "en", "ru"]
    assert after["vocabulary"]["rows"] == len(read_dictionary(tmp_path / "new" / "dict.txt"))
    assert set(after["sha256"]) == {"dict.de.txt", "dict.en.txt", "dict.ru.txt"}


def test_the_record_of_the_old_dictionary_does_not_move(old, tmp_path):
    """`average` writes into a checkpoint from which data it was trained; `evaluate` would refuse the new data."""
    rows = read_dictionary(old[0] / "dict.de.txt")
    state = checkpoint(old[1])
    state["extra_state"]["fairseq_plugins"] = {"sha256": {"dict.txt": "old"}, "tag_scheme": "target"}
    torch.save(state, tmp_path / "average.pt")
    move_checkpoint(tmp_path / "average.pt", tmp_path / "new.pt", rows, dictionary_rows(rows[4:44], ["de", "en"]), 1)
    moved = checkpoint(tmp_path, "new.pt")["extra_state"]
    assert moved.keys() == state["extra_state"].keys() - {"fairseq_plugins", "dictionaries"}


def refused(capsys, sentence, *words):
    assert add_symbols(*words) == 2
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_done_is_said_in_one_sentence(old, new, tmp_path, capsys):
    refused(capsys, "holds no dict.txt", tmp_path, tmp_path / "out")
    refused(capsys, "is --data; give another folder", old[0], old[0])
    refused(capsys, "is not empty and was not made by this command", old[0], old[1])
    refused(capsys, "'zh-Hans': use letters", old[0], tmp_path / "out", "--languages", "zh-Hans")
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": {"encoder.embed_tokens.weight": torch.zeros(7, 2)}, "args": None, "cfg": None}, foreign)
    refused(capsys, "has 7 rows, the dictionary 48", old[0], tmp_path / "out", "--checkpoint", foreign)
    data = tmp_path / "data"
    shutil.copytree(old[0], data)
    (data / "dict.en.txt").write_text("a 1\n")
    refused(capsys, "differ", data, tmp_path / "out2")


@pytest.mark.parametrize("change, sentence", [
    (lambda index: index[:17] + b"\x07" + index[18:], "fairseq's number type 7 is none for the rows of a dictionary"),
    (lambda index: index[:20], "is not in fairseq's mmap format"),
    (lambda index: b"TNTIDX" + index[6:], "is not in fairseq's mmap format"),
])  # fmt: skip
def test_a_shard_that_cannot_be_rewritten_is_one_sentence(old, tmp_path, change, sentence):
    table, prefix = np.arange(48), tmp_path / "valid.de-en.de"
    for end in (".bin", ".idx"):
        shutil.copy(f"{old[0] / prefix.name}{end}", f"{prefix}{end}")
    index = Path(f"{prefix}.idx")
    rewrite_shard(prefix, tmp_path / "same", table, np.dtype(np.uint16))
    assert (tmp_path / "same.idx").read_bytes() == index.read_bytes()
    index.write_bytes(change(index.read_bytes()))
    with pytest.raises(UserError, match=f"valid.de-en.de.idx.*{sentence}"):
        rewrite_shard(prefix, tmp_path / "new", table, np.dtype(np.uint16))
    assert not list(tmp_path.glob("new*"))

"""``prepare --vocabulary``: another corpus under the same pieces and rows."""

import json
import shutil

import pytest
from fairseq.data import Dictionary, data_utils

from fairseq_plugins.data.symbols import is_filler, read_dictionary, task_symbols
from tests.opus100.corpora import read_all
from tests.opus100.road import verb, write_parallel_corpus

VOCABULARY = ("sentencepiece.model", "sentencepiece.vocab", "dict.txt")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The pair de-en alone, of the same words as ``prepared``."""
    root = write_parallel_corpus(tmp_path_factory.mktemp("other"))
    for folder in [*root.glob("**/en-fr"), *root.glob("**/de-fr")]:
        shutil.rmtree(folder)
    return root


def prepare(corpus, out, vocabulary, *words):
    return verb("prepare", "--corpus", corpus, "--out", out, "--vocabulary", vocabulary, "--workers", 1, *words)


def test_pieces_and_rows_are_the_others(prepared, corpus, tmp_path):
    assert prepare(corpus, tmp_path / "data", prepared) == 0
    made, other = read_all(tmp_path / "data"), read_all(prepared)
    assert all(made[name] == other[name] for name in VOCABULARY)
    assert made["dict.de.txt"] == made["dict.txt"] and "dict.fr.txt" not in made
    assert made["train.de-en.de.bin"] == other["train.de-en.de.bin"]  # the same lines, so the same rows
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "data", prepared)]
    assert manifests[0]["vocabulary"] == manifests[1]["vocabulary"]
    assert manifests[0]["languages"] == ["de", "en"]


def test_the_same_command_again_finds_nothing_to_do_and_another_vocabulary_is_refused(
    prepared, corpus, tmp_path, capsys
):
    assert prepare(corpus, tmp_path / "data", prepared) == 0
    assert prepare(corpus, tmp_path / "data", prepared) == 0
    assert "nothing to do" in capsys.readouterr().out
    other = tmp_path / "other"
    words = ["--corpus", corpus, "--out", other, "--vocab-size", 150, "--workers", 1]
    assert verb("prepare", *words) == 0
    assert prepare(corpus, tmp_path / "data", other) == 2
    assert "of --vocabulary" in capsys.readouterr().err


def test_a_language_that_the_vocabulary_does_not_know(corpus, tmp_path, capsys):
    narrow = tmp_path / "narrow"
    assert verb("prepare", "--corpus", corpus, "--out", narrow, "--vocab-size", 150, "--workers", 1) == 0
    wide = write_parallel_corpus(tmp_path / "wide")
    assert prepare(wide, tmp_path / "data", narrow) == 2
    assert f"--vocabulary {narrow} has no tag of 'fr'" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("spoil", [lambda folder: (folder / "dict.txt").unlink(), shutil.rmtree])
def test_a_folder_that_is_not_whole(prepared, corpus, tmp_path, capsys, spoil):
    broken = shutil.copytree(prepared, tmp_path / "broken")
    spoil(broken)
    assert prepare(corpus, tmp_path / "data", broken) == 2
    assert str(broken) in capsys.readouterr().err


def test_a_dry_run_names_the_vocabulary(prepared, corpus, tmp_path, capsys):
    assert prepare(corpus, tmp_path / "data", prepared, "--dry-run") == 0
    assert f"SentencePiece and dictionary of {prepared}" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


# ---- of others -------------------------------------------------------------------------------------------------------


@pytest.fixture
def xlmr(prepared, tmp_path):
    """A folder as XLM-R's: its own rows, no symbols of this package."""
    folder = tmp_path / "xlmr.base"
    folder.mkdir()
    shutil.copyfile(prepared / "sentencepiece.model", folder / "sentencepiece.bpe.model")
    pieces = [row for row in read_dictionary(prepared / "dict.txt")[4:] if not is_task_symbol(row)]
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in reversed(pieces)), encoding="utf-8")
    return folder


def is_task_symbol(row):
    return row in task_symbols(["de", "en", "fr"]) or is_filler(row)


def test_xlmrs_rows_stay_and_ours_come_after_them(xlmr, corpus, prepared, tmp_path):
    assert prepare(corpus, tmp_path / "data", xlmr) == 0
    rows, theirs = read_dictionary(tmp_path / "data" / "dict.txt"), read_dictionary(xlmr / "dict.txt")
    assert rows[: len(theirs)] == theirs
    assert rows[len(theirs) :][:3] == ["__de__", "__en__", "<mask>"] and len(rows) % 8 == 0
    assert json.loads((tmp_path / "data/manifest.json").read_text())["vocabulary"]["taken_from"] == "xlmr.base"
    words = {}
    for folder in (tmp_path / "data", prepared):
        dictionary = Dictionary.load(str(folder / "dict.txt"))
        sentences = data_utils.load_indexed_dataset(str(folder / "train.de-en.de"), dictionary)
        words[folder.name] = [dictionary.string(sentences[index]) for index in range(len(sentences))]
    assert words["data"] and len(set(map(tuple, words.values()))) == 1  # the same pieces, in other rows


@pytest.mark.parametrize("spoil", ["no model", "two models", "another dictionary", "no model file", "no dictionary"])
def test_a_folder_of_others_that_does_not_fit(xlmr, corpus, tmp_path, capsys, spoil):
    model = xlmr / "sentencepiece.bpe.model"
    if spoil == "no model":
        model.unlink()
    elif spoil == "two models":
        shutil.copyfile(model, xlmr / "other.model")
    elif spoil == "another dictionary":
        (xlmr / "dict.txt").write_text("".join(f"x{number} 1\n" for number in range(300)))
    elif spoil == "no model file":
        model.write_bytes(b"not a model")
    else:
        (xlmr / "dict.txt").write_text("no counts here\n")
    assert prepare(corpus, tmp_path / "data", xlmr) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: --vocabulary") and len(error) == 2  # after "reading the corpus"

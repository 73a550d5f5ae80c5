"""``prepare --vocabulary``: another corpus under the same pieces and rows."""

import json
import shutil

import pytest

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

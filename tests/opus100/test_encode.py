"""``encode``: after fairseq-preprocess its pieces are the rows that prepare makes of the same text."""

import subprocess

import pytest

from tests.helpers import environment
from tests.opus100.corpora import corpus_file, sides_of
from tests.opus100.road import verb, verb_words


def rows_of(pieces, data):
    """As fairseq-preprocess --srcdict reads each line."""
    from fairseq.data import Dictionary

    words = Dictionary.load(str(data / "dict.txt"))
    return [words.encode_line(line, add_if_not_exist=False).tolist() for line in pieces.decode().split("\n")[:-1]]


def test_the_rows_are_those_of_prepare(prepared, tmp_path):
    texts = [corpus_file(prepared.parent / "corpus", "de-en", "train", language) for language in ("de", "en")]
    pieces = [tmp_path / path.suffix[1:] for path in texts]
    assert verb("encode", "--data", prepared, "--inputs", *texts, "--outputs", *pieces) == 0
    assert [rows_of(path.read_bytes(), prepared) for path in pieces] == list(sides_of(prepared, "train", "de-en"))


def test_lines_stay_in_step_from_standard_input(prepared):
    text = "der Hund\n\n \u4e2d\u2028der\rHund\nfor <s> the </s>".encode()
    words = verb_words("encode", "--data", prepared)
    done = subprocess.run(words, input=text, env=environment(), capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 4 == len(done.stdout.decode().splitlines())
    rows = rows_of(done.stdout, prepared)
    assert rows[1] == [2] and 3 in rows[2]  # only </s>; <unk>
    assert all(row not in (0, 1, 2) for line in rows for row in line[:-1])  # no special symbol comes out of text


@pytest.mark.parametrize(
    "words, says",
    [
        (["--inputs", "a", "b", "--outputs", "c"], "--inputs names 2 files and --outputs 1; name as many"),
        (["--inputs", "missing", "--outputs", "c"], "--inputs: missing is not a file"),
        (["--data", "nowhere"], "--data nowhere has no dict.txt; give a folder that prepare wrote"),
    ],
)
def test_bad_input_is_one_sentence(words, says, prepared, capsys):
    assert verb("encode", "--data", prepared, *words) == 2
    assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize(
    "outputs, says",
    [
        (["c", "a"], "--outputs: a is also one of --inputs; name another file"),
        (["c", "./c"], "--outputs: c is named twice; name another file"),
    ],
)
def test_no_output_is_written_over(outputs, says, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_text("text\n")
    assert verb("encode", "--data", prepared, "--inputs", "a", "b", "--outputs", *outputs) == 2
    assert capsys.readouterr().err == f"error: {says}\n"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "text\n", "b": "text\n"}


def test_text_that_is_not_utf_8_leaves_no_output(prepared, tmp_path, capsys):
    (tmp_path / "text").write_bytes(b"fine\n\xff\n")
    assert verb("encode", "--data", prepared, "--inputs", tmp_path / "text", "--outputs", tmp_path / "out") == 2
    assert "line 2 is not UTF-8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text"]

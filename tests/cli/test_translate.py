"""`python -m fairseq_plugins translate`: in order, as the lines come, with either engine."""

import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fairseq_plugins.__main__ import main
from fairseq_plugins.cli import translate
from tests.helpers import environment
from tests.opus100.corpora import WORDS
from tests.opus100.road import verb

needs_ctranslate2 = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="no ctranslate2")
LINES = [" ".join(WORDS["fr"][start : start + count]) for start, count in ((0, 4), (3, 2), (5, 7), (1, 1))]


@pytest.fixture(scope="module")
def served(road, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "served"
    words = [str(road / "run" / "checkpoint_best.pt"), "--to", "ctranslate2", "--data", str(road / "data")]
    assert main(["export", *words, "--output", str(folder)]) == 0
    return folder


def command(*words):
    return [sys.executable, "-m", "fairseq_plugins", "translate", "--cpu", "--beam", "1", "--max-len", "20",
            *map(str, words)]  # fmt: skip


def translated(text, *words):
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(command(*words), input=data, env=environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


def read(process, lines):
    """The next lines of a process that goes on, or an AssertionError after a minute."""
    found = b""
    while found.count(b"\n") < lines:
        assert select.select([process.stdout], [], [], 60)[0], "no translation came"
        block = os.read(process.stdout.fileno(), 1 << 16)
        assert block, "it ended"
        found += block
    return found.decode().split("\n")[:-1]


@pytest.mark.slow
@needs_ctranslate2
def test_both_engines_translate_as_evaluate_does(road, served, tmp_path):
    """Raw lines give what the binarised test set gives, empty and over-long lines apart."""
    words = ["--data", road / "data", "--checkpoint", served, "--output", tmp_path, "--directions", "fr-de"]
    assert verb("evaluate", *words, "--beam", 1, "--max-len", 20, "--cpu", "--workers", 1) == 0
    expected = (tmp_path / "hyp.fr-de.de").read_text().split("\n")[:-1]
    source = (road / "data" / "raw" / "test.de-fr.fr").read_text()
    assert source.split("\n")[3] == ""
    expected[3] = ""
    for model in (["--model", served], ["--model", road / "run" / "checkpoint_best.pt", "--data", road / "data"]):
        found, said = translated(source, "--tgt", "de", *model, "--batch-size", 3)
        assert found.split("\n") == [*expected, ""]
        assert said.count("notice") == 1 and "line 8: longer than the model's 40 pieces and cut (1 so far)" in said


@needs_ctranslate2
def test_a_pipe_that_stays_open_gets_its_translations(served):
    """Line after line, several at once, and half a line that is ended later; Ctrl-C is the end of it."""
    process = subprocess.Popen(command("--tgt", "de", "--model", served), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())  # fmt: skip
    try:
        alone = []
        for line in LINES:
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            alone += read(process, 1)
        begun, rest = LINES[0][:5], LINES[0][5:]
        process.stdin.write("".join(f"{line}\n" for line in ["", *LINES]).encode() + begun.encode())
        process.stdin.flush()
        assert read(process, 5) == ["", *alone] and len(set(alone)) > 1
        process.stdin.write(f"{rest}\n".encode())
        process.stdin.flush()
        assert read(process, 1) == alone[:1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@needs_ctranslate2
def test_a_reader_that_leaves_is_no_error(served):
    process = subprocess.Popen(command("--tgt", "de", "--model", served), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())  # fmt: skip
    process.stdout.close()
    process.stdin.write(f"{LINES[0]}\n".encode())
    process.stdin.close()
    assert process.wait(120) == 141 and process.stderr.read() == b""


@needs_ctranslate2
def test_what_is_no_line_of_text_is_translated_nevertheless(served):
    """The last line has no end; another is not UTF-8."""
    text = f"{LINES[0]}\n".encode() + b"\xff\xfe\n" + LINES[0].encode()
    found, said = translated(text, "--tgt", "en", "--model", served)
    first, _, last, end = found.split("\n")
    assert first == last != "" and end == "" and "line 2: not UTF-8" in said


@needs_ctranslate2
def test_source_tags_need_the_source(road, served, tmp_path, capsys):
    """The second tag scheme; the folder says which one it is."""
    folder = shutil.copytree(served, tmp_path / "folder")
    manifest = json.loads((folder / "export.json").read_text())
    manifest["facts"]["tag_scheme"] = "source+target"
    (folder / "export.json").write_text(json.dumps(manifest))
    assert main(["translate", "--tgt", "de", "--model", str(folder)]) == 2
    assert "give --src LANG: this model was trained with source tags; it knows de" in capsys.readouterr().err
    found, _ = translated(f"{LINES[0]}\n", "--src", "fr", "--tgt", "de", "--model", folder)
    assert found.count("\n") == 1 and "__de__" not in found


@needs_ctranslate2
@pytest.mark.parametrize(
    "words, says",
    [
        (["--tgt", "xx", "--model", "{s}"], "--tgt xx: the model knows de, en, fr"),
        (["--tgt", "de", "--src", "xx", "--model", "{s}"], "--src xx: the model knows de, en, fr"),
        (["--tgt", "de", "--model", "{r}/run/checkpoint_best.pt"], "give --data DATA"),
        (["--tgt", "de", "--model", "{r}/data"], "holds no export.json"),
        (["--tgt", "de", "--model", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--tgt", "de", "--model", "{s}", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(road, served, capsys, words, says):
    assert main(["translate", *(word.format(r=road, s=served) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@needs_ctranslate2
def test_a_full_disk_is_one_sentence(served):
    with open("/dev/full", "wb") as full:
        words = command("--tgt", "de", "--model", served)
        done = subprocess.run(words, input=b"a\n", stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=300)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1].startswith("error: standard output cannot be written: No space")
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_closed_input_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["translate", "--tgt", "de", "--model", "anything"]) == 2
    assert "one of them is closed" in capsys.readouterr().err


def test_lines_are_handed_on_when_a_batch_is_full_or_the_input_pauses():
    reading, writing = os.pipe()
    try:
        os.write(writing, b"a\nb\nc\nd\ne")
        groups = translate.arriving(reading, 2)
        assert [next(groups), next(groups)] == [[b"a", b"b"], [b"c", b"d"]]
        os.write(writing, b"\r\n\nf\ng")
        start = time.monotonic()
        assert [next(groups), next(groups)] == [[b"e\r", b""], [b"f"]]
        assert time.monotonic() - start < 30
        os.write(writing, b"h")
        os.close(writing)
        assert list(groups) == [[b"gh"]]
        assert list(translate.arriving(reading, 2)) == [], "an input that has ended"
    finally:
        os.close(reading)

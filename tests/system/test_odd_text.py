"""Odd text through the whole road: nothing ends a line but a newline, and no line moves against its other side.

Every line that has text begins with its own number, so that what stands beside what can be read off the binarised data.
"""

import json
import re
import sys

import pytest
import sentencepiece

from fairseq_plugins.__main__ import main as plugins
from fairseq_plugins.data.symbols import EOS_ROW, UNK_ROW, read_dictionary
from tests.hostile_support import train_here
from tests.opus100.corpora import read_all, sentences, sides_of, write_split
from tests.opus100.road import train_words, verb

ODD = {
    "line separator": "a\u2028b\u2029c",
    "next line": "a\x85b",
    "vertical tab and form feed": "a\x0bb\x0cc",
    "file, group, record and unit": "a\x1cb\x1dc\x1ed\x1fe",
    "lone carriage return": "a\rb",
    "carriage return before the end": "a b\r",
    "NUL": "a\0b",
    "long": "ab " * 33_334,  # 100,002 characters
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202bx\u202c",
    "combining": "e\u0301\u0323 \u0928\u093f Z\u0351\u036b\u0343",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "byte order mark": "\ufeffa",
    "no-break and zero width": "a\u00a0b\u3000c\u200bd\ufeff",
    "noncharacters": "\uffff \ufffe \U0010ffff \ufdd0",
    "symbols": "<s> </s> <unk> <pad> __de__ <mask> <sentinel_1> madeupword0000 \u2581",
}
BLANK = {"empty": "", "spaces": "   ", "tabs": "\t \t", "only separators": "\u2028\u2029\x85", "only a return": "\r",
         "only feeds": "\x0b\x0c\x1c", "no-break spaces": "\u00a0\u3000"}  # fmt: skip
LONG = "ab " * 33_334


def lines_with(language, count):
    """`count` plain lines, then each odd one, then each blank one, then a few more; which text is at which place."""
    texts = [*sentences(language, count, 1), *ODD.values(), *BLANK.values(), *sentences(language, 5, 2)]
    return [f"{number} {text}" if text.strip() else text for number, text in enumerate(texts)]


def sides(count):
    """Odd lines stand beside plain ones: each side has its own at places where the other has none."""
    odd = len(ODD) + len(BLANK)
    german = lines_with("de", count)
    english = [f"{number} {text}" for number, text in enumerate(sentences("en", len(german), 3))]
    more = lines_with("en", 0)[:odd]
    offset = len(german)
    german += [f"{offset + number} {text}" for number, text in enumerate(sentences("de", odd, 4))]
    english += [re.sub(r"^\d+", lambda found: str(offset + int(found[0])), text) for text in more]
    return {"de": german, "en": english}


TRAIN, HELD_OUT = sides(120), sides(3)


def number_of(text):
    found = re.match(r"\s*(\d+)(\s|$)", text)
    return int(found[1]) if found else None


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A corpus with odd lines on either side, prepared, and a model of two updates."""
    folder = tmp_path_factory.mktemp("odd")
    for split, both in (("train", TRAIN), ("dev", HELD_OUT), ("test", HELD_OUT)):
        write_split(folder / "corpus", "de-en", split, both)
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 300, "--workers", 1]
    assert verb("prepare", *words) == 0
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch, train_words(folder / "data", folder / "run", 2))
    return folder


@pytest.fixture(scope="module")
def text_of(road):
    """What makes text of a row of the binarised data again; what has no piece is `?`."""
    symbols = read_dictionary(road / "data" / "dict.txt")

    def decode(rows):
        assert rows[-1] == EOS_ROW and EOS_ROW not in rows[:-1]
        return "".join("?" if row == UNK_ROW else symbols[row] for row in rows[:-1]).replace("\u2581", " ").strip()

    return decode


def test_the_lines_are_odd_where_they_should_be():
    assert len(TRAIN["de"]) == len(TRAIN["en"]) == len({*map(number_of, TRAIN["de"] + TRAIN["en"])} - {None})
    assert sum(not line.strip() for side in TRAIN.values() for line in side) == 2 * len(BLANK)
    assert len("\n".join(TRAIN["de"]).splitlines()) > len(TRAIN["de"])  # what another reader would make of it


def test_train_keeps_what_is_neither_blank_nor_over_long_and_counts_the_rest(road, text_of):
    pairs = list(zip(TRAIN["de"], TRAIN["en"], strict=True))
    wanted = [number for number, pair in enumerate(pairs)
              if all(line.strip() for line in pair) and not any(LONG in line for line in pair)]  # fmt: skip
    rows = sides_of(road / "data", "train", "de-en")
    assert [[number_of(text_of(row)) for row in side] for side in rows] == [wanted, wanted]
    counts = json.loads((road / "data" / "manifest.json").read_text())["pairs"]["de-en"]["train"]
    assert counts == {"lines": len(pairs), "kept": len(wanted), "dropped_empty": 2 * len(BLANK), "dropped_long": 2}


def test_dev_and_test_keep_every_line_in_its_place(road, text_of):
    for split in ("valid", "test"):
        for side, language in zip(sides_of(road / "data", split, "de-en"), ("de", "en"), strict=True):
            assert len(side) == len(HELD_OUT[language])
            for row, line in zip(side, HELD_OUT[language], strict=True):
                assert number_of(text_of(row)) == number_of(line)
                if "</s>" not in line:  # SentencePiece trains on no line with its own symbols, so has no piece for /
                    assert text_of(row) == " ".join(line.replace("\0", "?").split()).replace("\u2581", "").strip()


def test_white_space_is_all_that_is_changed(road):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(road / "data" / "sentencepiece.model"))
    for name in ("right to left", "combining", "emoji", "byte order mark", "noncharacters"):
        assert pieces.decode(pieces.encode(ODD[name])) == ODD[name]


def test_the_raw_references_are_the_bytes_of_the_corpus(road):
    raw = read_all(road / "data" / "raw")
    for language, lines in HELD_OUT.items():
        assert raw[f"test.de-en.{language}"] == "".join(f"{line}\n" for line in lines).encode()


def test_audit_counts_every_line(road, tmp_path, capsys):
    assert verb("audit", "--corpus", road / "corpus", "--out", tmp_path, "--workers", 1) == 0
    found = json.loads((tmp_path / "audit.json").read_text())["pairs"]["de-en"]
    assert found["train"]["lines"] == len(TRAIN["de"]) and found["train"]["blank"] == 2 * len(BLANK)
    assert found["test"]["lines"] == len(HELD_OUT["de"]) and found["test"]["blank"] == 2 * len(BLANK)
    assert len((tmp_path / "audit.md").read_text().split("\n")) == 5  # a head, a rule, a pair, the sum, nothing


def test_show_batch_pairs_each_source_with_its_target(road, text_of):
    from fairseq_plugins.cli._batch_reader import read_batch

    words = f"{road / 'data'} --task translation -s de -t en --batch-size 500".split()
    examples = [example for number in (1, 2) for example in read_batch(words, "train", 1, number).examples]
    seen = []
    for example in examples:
        rows = {name: "".join(row).replace("\u2581", " ") for name, row in example.rows.items()}
        assert number_of(rows["source"]) == number_of(rows["target"]) is not None
        seen.append(number_of(rows["source"]))
    assert len(seen) == len(set(seen)) == len(sides_of(road / "data", "train", "de-en")[0])
    assert plugins(["show-batch", "--examples", "500", "--", *words]) == 0


@pytest.fixture(scope="module")
def evaluated(road):
    """Both directions of the test set, translated."""
    words = ["--data", road / "data", "--run", road / "run", "--output", road / "results", "--beam", 1, "--max-len", 5,
             "--workers", 1, "--identifier", "script"]  # fmt: skip
    assert verb("evaluate", *words) == 0
    return road / "results"


def test_every_reference_has_its_hypothesis(road, evaluated):
    for row in json.loads((evaluated / "results.json").read_text())["directions"]:
        source, target = row["direction"].split("-")
        lines = (evaluated / f"hyp.{row['direction']}.{target}").read_bytes().split(b"\n")
        assert len(lines) - 1 == row["hypotheses"] == len(HELD_OUT[target])
        assert row["truncated"] == sum(LONG in line for line in HELD_OUT[source])


def test_the_scores_can_be_compared_and_reported(road, evaluated, tmp_path, capsys):
    results = ["--results", evaluated, "--output"]
    assert verb("compare", "--data", road / "data", "--samples", 100, *results, tmp_path) == 0
    assert verb("report", "--runs", road / "run", *results, tmp_path / "r.html") == 0
    assert "</html>" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_references_as_hypotheses_score_100_whatever_they_hold(road, tmp_path):
    for source, target in (("de", "en"), ("en", "de")):
        references = (road / f"data/raw/test.de-en.{target}").read_bytes()
        (tmp_path / f"hyp.{source}-{target}.{target}").write_bytes(references)
    words = ["--data", road / "data", "--score-only", tmp_path, "--output", tmp_path / "out", "--workers", 1]
    assert verb("evaluate", *words, "--identifier", "script") == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["directions"]
    assert [(round(row["bleu"], 3), round(row["chrf"], 3)) for row in rows] == [(100, 100)] * 2


def test_mono_keeps_or_counts_every_line(road, tmp_path, text_of):
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    from fairseq_plugins.data.text_folders import monolingual

    texts = [*ODD.values(), *BLANK.values(), *sentences("de", 60, 9)] * 3
    lines = [f"{number} {text}" if text.strip() else text for number, text in enumerate(texts, 1000)]
    (tmp_path / "text").write_bytes("\n".join(lines).encode())
    assert verb("mono", "--data", road / "data", "--text", f"de={tmp_path / 'text'}", "--out", tmp_path / "mono",
                "--workers", 1) == 0  # fmt: skip
    of = json.loads((tmp_path / "mono" / "manifest.json").read_text())["text"]["de"]
    assert of["lines"] == len(lines) and of["blank"] == 3 * len(BLANK)
    assert of["in_dev_or_test"] == of["like_valid"] == 0
    left_out = of["blank"] + of["train"]["dropped_long"] + of["valid"]["dropped_long"]
    parts = {split: MMapIndexedDataset(str(tmp_path / "mono" / "de" / split)) for split in ("train", "valid")}
    found = {split: [number_of(text_of(row.tolist())) for row in part] for split, part in parts.items()}
    assert sum(map(len, found.values())) + left_out == len(lines)
    assert not set(found["train"]) & set(found["valid"])
    wanted = [number for number, line in enumerate(lines, 1000) if line.strip() and LONG not in line]
    assert sorted(found["train"] + found["valid"]) == wanted and found["train"] == sorted(found["train"])
    dictionary = Dictionary.load(str(tmp_path / "mono" / "dict.txt"))
    assert len(monolingual(tmp_path / "mono", "de", "train", dictionary, block=None).rows) == len(found["train"])
    words = f"{road / 'data'} --task pseudo_masked_lm --mono-data {tmp_path / 'mono'} --tokens-per-sample 64"
    assert plugins(["show-batch", "--", *words.split(), "--max-tokens", "512"]) == 0


def translate(road, tmp_path, monkeypatch, data):
    """The lines that `translate` makes of standard input."""
    (tmp_path / "in").write_bytes(data)
    words = ["--tgt", "en", "--model", road / "run" / "checkpoint_best.pt", "--data", road / "data", "--beam", 1,
             "--max-len", 4, "--cpu"]  # fmt: skip
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "w") as target, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", source)
        patch.setattr(sys, "stdout", target)
        assert plugins(["translate", *map(str, words)]) == 0
    return (tmp_path / "out").read_bytes().split(b"\n")[:-1]


def test_translate_answers_each_line_with_one(road, tmp_path, monkeypatch, capsys):
    lines = [line.encode() for line in HELD_OUT["de"]] + [b"\xff\xfe broken \xe2\x28", b"\xed\xa0\x80", b"last"]
    answers = translate(road, tmp_path, monkeypatch, b"\n".join(lines))
    assert len(answers) == len(lines)
    blank = [not line.decode("utf-8", "replace").strip() for line in lines]
    assert sum(blank) == len(BLANK) and not any(answer for answer, of in zip(answers, blank, strict=True) if of)
    said = capsys.readouterr().err
    assert f"line {len(lines) - 2}, {len(lines) - 1}: not UTF-8" in said and "pieces and cut (1 so far)" in said


@pytest.mark.parametrize(
    "data, lines", [(b"", 0), (b"\n", 1), (b"\n\n\r\n", 3), (b"a\r\nb\r\n", 2), (b"\xef\xbb\xbfa", 1), (b"a\rb", 1)]
)
def test_translate_of_short_input(road, tmp_path, monkeypatch, data, lines):
    assert len(translate(road, tmp_path, monkeypatch, data)) == lines


def test_encode_answers_each_line_with_one(road, tmp_path):
    (tmp_path / "text").write_bytes("\n".join(TRAIN["de"]).encode())
    assert verb("encode", "--data", road / "data", "--inputs", tmp_path / "text", "--outputs", tmp_path / "pieces") == 0
    pieces = (tmp_path / "pieces").read_bytes().decode().split("\n")[:-1]
    assert len(pieces) == len(TRAIN["de"]) == len("".join(f"{line}\n" for line in pieces).splitlines())
    texts = [line.replace(" ", "").replace("\u2581", " ") for line in pieces]
    assert list(map(number_of, texts)) == list(map(number_of, TRAIN["de"]))


@pytest.mark.parametrize("name", ["prepare", "audit", "mono", "encode"])
@pytest.mark.parametrize("tail", [b"\xff", b"cut \xe6\x97", b"\xed\xa0\x80", b"\xc0\xaf", b"\xff\xfea\x00"])
def test_what_is_not_utf8_is_named_by_file_and_line(road, tmp_path, capsys, name, tail):
    write_split(tmp_path, "de-en", "train", {"de": ["a", "b"], "en": ["a", "b"]})
    write_split(tmp_path, "de-en", "test", {"de": ["a"], "en": ["b"]})
    path = next(tmp_path.rglob("opus.de-en-train.en"))
    path.write_bytes(b"a\n" + tail)
    corpus, out = ["--corpus", tmp_path, "--workers", 1], tmp_path / "out"
    words = {
        "prepare": [*corpus, "--out", out],
        "audit": [*corpus, "--out", out],
        "mono": ["--data", road / "data", "--text", f"de={path}", "--out", out],
        "encode": ["--data", road / "data", "--inputs", path, "--outputs", out],
    }
    assert verb(name, *words[name]) == 2
    assert re.search(r"^error: \S+-train\.en line 2 is not UTF-8 \(.*\)$", capsys.readouterr().err, re.M)
    assert not out.exists()

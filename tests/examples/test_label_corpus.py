"""examples/plate/label_corpus.py: each source stands beside its own translation, or nothing is written."""

import importlib.util
import subprocess
import sys

import pytest

from fairseq_plugins.opus100.corpus import find_pairs
from tests.helpers import REPOSITORY
from tests.opus100.corpora import write_split

SCRIPT = REPOSITORY / "examples" / "plate" / "label_corpus.py"
GERMAN = ["ein Hund", "zwei  Hunde", "drei ￼ Hunde", "vier\u2028Hunde", "fünf"]
ENGLISH = ["a dog", "two dogs", "three dogs", "four dogs", "five"]
LEFT_OUT = "{} lines left out that were not generated or not told apart"
HELD_OUT = {"de": ["sechs"], "en": ["six"]}
# As fairseq-generate prints them, longest source first: number, source with a tag, translation
SENTENCES = [
    (2, "__en__ drei <unk> Hunde", "3 dogs"),
    (1, "__en__ zwei Hunde", "two dogs"),
    (3, "__en__ vier Hunde", "4\u2028dogs"),
    (0, "__en__ ein Hund", "1 dog"),
]


@pytest.fixture
def corpus(tmp_path):
    for split, sides in (("train", {"de": GERMAN, "en": ENGLISH}), ("dev", HELD_OUT), ("test", HELD_OUT)):
        write_split(tmp_path / "corpus", "de-en", split, sides)
    write_split(tmp_path / "corpus", "en-fr", "train", {"en": ["a"], "fr": ["b"]})
    return tmp_path / "corpus"


CLOSING = "Generate train with beam=5: BLEU4 = 1.00\n"


def printed(sentences=SENTENCES, closing=CLOSING):
    """What fairseq-generate prints for these sentences, log lines included."""
    blocks = [
        f"S-{number}\t{source}\nT-{number}\tx\nH-{number}\t-0.5\t{text}\nD-{number}\t-0.5\t{text}\nP-{number}\t-1 -1\n"
        for number, source, text in sentences
    ]
    return "2026-01-01 | INFO | D-5 is no sentence\n" + "".join(blocks) + closing


def label(corpus, text=None, *words):
    out = corpus.parent / "out"
    if text is not None:
        (corpus.parent / "generated.txt").write_text(text, encoding="utf-8")
        words = ("--generated", corpus.parent / "generated.txt", *words)
    command = [sys.executable, SCRIPT, "--corpus", corpus, "--out", out, "--direction", "de-en", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True), out


def lines_of(out, split):
    return [path.read_text(encoding="utf-8").split("\n")[:-1] for path in find_pairs(out)["de-en"].files[split]]


def test_translations_come_in_the_order_of_the_sources(corpus):
    for _ in range(2):  # once more is no error
        done, out = label(corpus, printed(), "--lines", 4)
        assert done.returncode == 0, done.stderr
    counts = f"4 labels of 2.00 words, 25.0% of them the corpus's own, 0 empty; {LEFT_OUT.format(0)}"
    assert done.stdout == f"{out}: {counts}\n"
    assert lines_of(out, "train") == [GERMAN[:4], ["1 dog", "two dogs", "3 dogs", "4\u2028dogs"]]
    assert lines_of(out, "dev") == lines_of(out, "test") == [["sechs"], ["six"]]
    assert list(find_pairs(out)) == ["de-en"]


def test_the_other_direction_labels_the_other_side(corpus):
    sentences = [(0, "__de__ a dog", "Hund"), (1, "__de__ two dogs", "")]
    done, out = label(corpus, printed(sentences), "--lines", 2, "--direction", "en-de")
    assert done.returncode == 0 and "1 empty" in done.stdout, done.stderr
    assert lines_of(out, "train") == [["Hund", ""], ENGLISH[:2]]


def test_lines_that_prepare_left_out_are_left_out_and_counted(corpus):
    """The data set numbers what is left: here lines 1, 3 and 4."""
    sentences = [(2, "__en__ fünf", "5"), (0, "__en__ zwei Hunde", "two dogs"), (1, "__en__ vier Hunde", "4")]
    done, out = label(corpus, printed(sentences))
    assert done.returncode == 0 and LEFT_OUT.format(2) in done.stdout and "33.3%" in done.stdout, done.stderr
    assert lines_of(out, "train") == [[GERMAN[1], GERMAN[3], GERMAN[4]], ["two dogs", "4", "5"]]


def test_a_sentence_that_fits_two_lines_is_left_out_unless_they_are_the_same(corpus):
    german = ["ein Hund", "☃ Hunde", "☺ Hunde", "gut", "gut", "Ende"]  # of the two pairs one line each was left out
    write_split(corpus, "de-en", "train", {"de": german, "en": ["a"] * 6})
    sentences = [(0, "ein Hund", "dog"), (1, "<unk> Hunde", "dogs"), (2, "gut", "good"), (3, "Ende", "end")]
    done, out = label(corpus, printed(sentences))
    assert done.returncode == 0 and LEFT_OUT.format(3) in done.stdout, done.stderr
    assert lines_of(out, "train") == [["ein Hund", "gut", "Ende"], ["dog", "good", "end"]]


@pytest.mark.parametrize("tag", ["", "__en__ "])
def test_one_tag_is_taken_off_where_there_are_tags(corpus, tag):
    german = ["__init__ ruft __new__", "__en__ __de__ Hund", "Hund"]
    write_split(corpus, "de-en", "train", {"de": german, "en": ["a"] * 3})
    done, out = label(corpus, printed([(number, tag + text, str(number)) for number, text in enumerate(german)]))
    assert done.returncode == 0, done.stderr
    assert lines_of(out, "train") == [german, ["0", "1", "2"]]


def test_unknown_characters_stand_for_one_or_more_and_parts_keep_their_order():
    spec = importlib.util.spec_from_file_location("label_corpus", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for parts, text, fits in (
        (["a"], "a", True),
        (["a"], "ab", False),
        (["", ""], "", False),
        (["", ""], "x", True),
        (["a", "a"], "aa", False),
        (["a", "a"], "aaa", True),
        (["ab", "ba"], "aba", False),
        (["a", "", "b"], "axb", False),
        (["a", "", "b"], "axyb", True),
        (["", "b", "c", ""], "xbycz", True),
        (["", "c", "b", ""], "xbycz", False),
        (["", "b", ""], "bb", False),
        (["", "b", "b"], "xbxb", True),
        (["x", "b", "c"], "abxc", False),
        ([""] + ["a"] * 2000 + ["c"], "a" * 20000 + "b", False),  # a pattern that tries all ways never ends
    ):
        assert module._fits(parts, text) is fits, (parts, text)


@pytest.mark.parametrize("words, count", [((), 5), (("--lines", 3), 3)])
def test_without_a_teacher_the_labels_are_the_corpus_s_own(corpus, words, count):
    done, out = label(corpus, None, *words)
    assert done.returncode == 0 and "100.0% of them the corpus's own" in done.stdout, done.stderr
    assert lines_of(out, "train") == [GERMAN[:count], ENGLISH[:count]]


@pytest.mark.parametrize(
    "text, words, says",
    [
        (printed(closing=""), ["--lines", 4], "generated.txt is truncated: fairseq-generate did not end; generate"),
        (printed([]), [], "has translations of 0 sentences, the data set at least 1; generate"),
        (printed(SENTENCES[1:]), ["--lines", 4], "has translations of 3 sentences, the data set at least 4; generate"),
        (
            printed(closing=f"2026-01-01 | INFO | x | Translated 1,005 sentences (9 tokens) in 1.0s\n{CLOSING}"),
            [],
            "has translations of 4 sentences, the data set at least 1005; generate",
        ),
        (printed(SENTENCES[:3] + [(4, "__en__ fünf", "5")]), ["--lines", 4], "has translations of 4 sentences"),
        (printed(SENTENCES + SENTENCES[:1]), ["--lines", 4], "has two translations of sentence 2; generate with"),
        (
            printed([(0, "__en__ zwei Hunde", "2"), (1, "__en__ ein Hund", "1")]),
            ["--lines", 2],
            "has a translation of '__en__ ein Hund', sentence 1, which is no line behind that of the sentence before",
        ),
        (
            printed([(0, "__en__ \u2581ein \u2581Hund", "\u25811 \u2581dog")]),
            ["--lines", 1],
            "holds pieces; generate with --remove-bpe sentencepiece",
        ),
        (None, ["--lines", 6], "--lines 6: de-en has train sets of 5 and 5 lines"),
        (None, ["--lines", 0], "--lines 0 must be at least 1"),
        (None, ["--direction", "de-fr"], "--direction de-fr: "),
        (None, ["--generated", "gone.txt"], "gone.txt: No such file or directory"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(corpus, text, words, says):
    done, out = label(corpus, text, *words)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr
    assert done.stderr.count("\n") == 1 and not out.exists()

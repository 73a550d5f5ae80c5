"""examples/plate/label_corpus.py: each source stands beside its own translation, or nothing is written."""

import subprocess
import sys

import pytest

from fairseq_plugins.opus100.corpus import find_pairs
from tests.helpers import REPOSITORY
from tests.opus100.corpora import write_split

SCRIPT = REPOSITORY / "examples" / "plate" / "label_corpus.py"
GERMAN = ["ein Hund", "zwei  Hunde", "drei ￼ Hunde", "vier\u2028Hunde", "fünf"]
ENGLISH = ["a dog", "two dogs", "three dogs", "four dogs", "five"]
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


def printed(sentences=SENTENCES, closing="Generate train with beam=5: BLEU4 = 1.00\n"):
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
    assert done.stdout == f"{out}: 4 labels of 2.00 words, 25.0% of them the corpus's own, 0 empty\n"
    assert lines_of(out, "train") == [GERMAN[:4], ["1 dog", "two dogs", "3 dogs", "4\u2028dogs"]]
    assert lines_of(out, "dev") == lines_of(out, "test") == [["sechs"], ["six"]]
    assert list(find_pairs(out)) == ["de-en"]


def test_the_other_direction_labels_the_other_side(corpus):
    sentences = [(0, "__de__ a dog", "Hund"), (1, "__en__ __de__ two dogs", "")]
    done, out = label(corpus, printed(sentences), "--lines", 2, "--direction", "en-de")
    assert done.returncode == 0 and "1 empty" in done.stdout, done.stderr
    assert lines_of(out, "train") == [["Hund", ""], ENGLISH[:2]]


@pytest.mark.parametrize("words, count", [((), 5), (("--lines", 3), 3)])
def test_without_a_teacher_the_labels_are_the_corpus_s_own(corpus, words, count):
    done, out = label(corpus, None, *words)
    assert done.returncode == 0 and "100.0% of them the corpus's own" in done.stdout, done.stderr
    assert lines_of(out, "train") == [GERMAN[:count], ENGLISH[:count]]


@pytest.mark.parametrize(
    "text, words, says",
    [
        (printed(closing=""), ["--lines", 4], "generated.txt is truncated: fairseq-generate did not end; generate"),
        (printed(SENTENCES[1:]), ["--lines", 4], "has translations of 3 sentences, not one of each of 4; generate"),
        (printed(), [], "has translations of 4 sentences, not one of each of 5"),
        (printed(SENTENCES[:3] + [(4, "__en__ fünf", "5")]), ["--lines", 4], "has translations of 4 sentences"),
        (printed(SENTENCES + SENTENCES[:1]), ["--lines", 4], "has two translations of sentence 2; generate with"),
        (
            printed([(0, "__en__ zwei Hunde", "2"), (1, "__en__ ein Hund", "1")]),
            ["--lines", 2],
            "has a translation of '__en__ zwei Hunde' where sentence 0 is 'ein Hund'",
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

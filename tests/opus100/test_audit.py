"""Every count of the audit against a corpus whose faults were put in by hand."""

import json

import numpy as np
import pytest

from fairseq_plugins.opus100 import audit as audit_module
from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.audit import ratio_outliers, wrong_script
from fairseq_plugins.opus100.scripts import NAMES, dominant_scripts
from tests.opus100.corpora import read_all, write_corpus, write_split

GOOD = [(f"der Satz Nummer {i} ist gut", f"sentence number {i} is good") for i in range(20)]
FAULTS = [
    ("", "no source"),  # blank
    ("nur Leerraum", "\u3000 "),  # blank
    (" OK ", "OK"),  # copy
    GOOD[3],  # duplicate
    (GOOD[4][0] + "\r", " " + GOOD[4][1]),  # duplicate but for white space
    ("kurz und gut", "this is much longer than it has any right to be, and then some more"),  # ratio
    ("это не по-немецки, совсем", "this is not German at all"),  # script
]
TEST = [
    GOOD[0],  # the pair is in train
    (GOOD[1][0], "another translation"),  # the first side is
    ("ein anderer Satz", GOOD[2][1]),  # the second side is
    ("nirgends sonst", "nowhere else"),
    ("das steht bei den Franzosen", "the French know it"),  # in another pair's train, on the English side
]


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"

    def write(pair, split, lines, kind="supervised"):
        sides = {language: [line[side] for line in lines] for side, language in enumerate(pair.split("-"))}
        write_split(root, pair, split, sides, kind)

    write("de-en", "train", GOOD + FAULTS)
    write("de-en", "dev", TEST[3:4])
    write("de-en", "test", TEST)
    write("en-fr", "train", [("the French know it", "les Français le savent"), ("a house", "une maison")])
    write("en-fr", "dev", [("one", "un")])
    write("en-fr", "test", [("two", "deux")])
    write("de-fr", "test", [("drei", "une maison"), ("vier", "quatre")], kind="zero-shot")
    return root


def report_of(root, out, *words):
    assert main(["audit", "--corpus", str(root), "--out", str(out), "--workers", "1", *words]) == 0
    return json.loads((out / "audit.json").read_text())


def test_every_fault_is_counted_once(corpus, tmp_path):
    train = report_of(corpus, tmp_path)["pairs"]["de-en"]["train"]
    assert train.pop("scripts") == {"de": {"Latin": 25, "none": 1, "Cyrillic": 1}, "en": {"Latin": 26, "none": 1}}
    assert train == {"lines": 27, "blank": 2, "copies": 1, "duplicates": 2, "ratio_outliers": 1, "wrong_script": 1}


def test_overlap_by_pair_by_side_and_across_pairs(corpus, tmp_path):
    pairs = report_of(corpus, tmp_path)["pairs"]
    assert pairs["de-en"]["test"]["in_train"] == {"pair": 1, "first": 2, "second": 2}
    assert pairs["de-en"]["test"]["any_train"] == 4
    assert pairs["de-en"]["test"]["in_dev"] == {"pair": 1, "first": 1, "second": 1}
    assert pairs["de-en"]["dev"]["in_train"] == {"pair": 0, "first": 0, "second": 0}
    assert pairs["de-fr"]["test"]["any_train"] == 1, "zero-shot tests have no train set of their own"
    assert "in_train" not in pairs["de-fr"]["test"]


def test_totals_and_table(corpus, tmp_path):
    report = report_of(corpus, tmp_path)
    assert report["total"]["lines"] == 29 and report["total"]["test_lines"] == 8
    assert report["total"]["test_in_any_train"] == 5
    table = (tmp_path / "audit.md").read_text().split("\n")
    assert table[2] == "| de-en | 27 | 2 | 3.7 | 7.4 | 3.7 | 3.7 | 1 | 0 | 0 | 0 | 5 | 1 | 2 | 2 | 80.0 |"
    assert table[4] == "| de-fr (zero-shot) | - | - | - | - | - | - | - | - | - | - | 2 | - | - | - | 50.0 |"
    assert table[5].startswith("| all | 29 | 2 |") and table[5].endswith("| 2 | 0 |  |  | 8 | 1 |  |  | 62.5 |")


def test_dev_lines_that_train_holds_are_in_the_table(corpus, tmp_path):
    sides = {"de": [GOOD[5][0], GOOD[6][0], "neu"], "en": [GOOD[5][1], "new", GOOD[7][1]]}
    write_split(corpus, "de-en", "dev", sides)
    report = report_of(corpus, tmp_path)
    assert report["pairs"]["de-en"]["dev"]["in_train"] == {"pair": 1, "first": 2, "second": 2}
    assert report["total"]["dev_lines"] == 4 and report["total"]["dev_pairs_in_train"] == 1
    table = (tmp_path / "audit.md").read_text().split("\n")
    assert "| dev | in train: pair | first | second | test |" in table[0]
    assert "| 3 | 1 | 2 | 2 | 5 | 1 | 2 | 2 |" in table[2]
    assert all(line.count("|") == table[0].count("|") for line in table[:6])


def test_without_a_folder_the_table_is_printed_and_nothing_written(corpus, tmp_path, monkeypatch, capsys):
    report_of(corpus, tmp_path / "out")
    printed = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    before = read_all(tmp_path)
    assert main(["audit", "--corpus", str(corpus), "--workers", "1"]) == 0
    assert capsys.readouterr().out == printed and printed.startswith("| pair | train |")
    assert read_all(tmp_path) == before


def test_chunks_and_processes_do_not_show(tmp_path, monkeypatch):
    root = write_corpus(tmp_path / "corpus")
    report_of(root, tmp_path / "one")
    report_of(root, tmp_path / "two", "--workers", "2")
    monkeypatch.setattr(audit_module, "_CHUNK", 7)
    report_of(root, tmp_path / "three")
    assert read_all(tmp_path / "one") == read_all(tmp_path / "two") == read_all(tmp_path / "three")


def test_a_split_with_unequal_sides_is_named(corpus, tmp_path, capsys):
    write_split(corpus, "en-fr", "dev", {"en": ["one", "more"]})
    assert main(["audit", "--corpus", str(corpus), "--out", str(tmp_path), "--workers", "1"]) == 2
    assert "has 2 lines but" in capsys.readouterr().err


def test_ratios_are_judged_against_the_pairs_own_median():
    # a language written three times as short as the other: 10:30 is normal there, 30:30 and 10:100 are not
    lengths = np.array([[10, 30]] * 20 + [[31, 30], [10, 100], [1, 12], [0, 50]])
    assert np.flatnonzero(ratio_outliers(lengths)).tolist() == [20, 21]
    assert not ratio_outliers(np.zeros((3, 2))).any()


@pytest.mark.parametrize(
    "line, script",
    [
        ("Straße", "Latin"), ("большая улица Street", "Cyrillic"), ("オーケー漢字ok", "Chinese or Japanese"),
        ("한국어", "Hangul"), ("𠀀𠀁", "Chinese or Japanese"), ("የአማርኛ", "Ethiopic"), ("ภาษาไทย", "Thai"),
        ("עברית", "Hebrew"), ("العربية", "Arabic"), ("Ελληνικά", "Greek"), ("ქართული", "Georgian"),
        ("123 ... ٣", "none"), ("", "none"),
    ],
)  # fmt: skip
def test_scripts_by_example(line, script):
    assert NAMES[dominant_scripts(["x", line, "y"])[1]] == script


def test_lines_without_letters_are_in_no_wrong_script():
    latin, cyrillic = NAMES.index("Latin"), NAMES.index("Cyrillic")
    assert wrong_script(np.array([latin, latin, 0, cyrillic])).tolist() == [False, False, False, True]
    assert not wrong_script(np.zeros(3, dtype=np.int64)).any()

import json

import numpy as np
import pytest

from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.compare import compare, markdown

REFERENCES = [f"the cat number {number} sat on the mat of size {number % 7} ." for number in range(60)]


def corrupted(share):
    """Every `share`-th sentence stays, the others lose a word."""
    return [line if number % share == 0 else line.replace("mat", "rug") for number, line in enumerate(REFERENCES)]


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "data/raw").mkdir(parents=True)
    pairs = {"de-en": {"kind": "supervised", "test": {"lines": 60}, "train": {"kept": 1}}}
    manifest = {"format": 1, "pivot": "en", "languages": ["de", "en"], "tag_scheme": "target", "pairs": pairs}
    manifest.update({"vocabulary": {}, "sha256": {}, "versions": {}})
    (tmp_path / "data/manifest.json").write_text(json.dumps(manifest))
    for language in ("de", "en"):
        (tmp_path / f"data/raw/test.de-en.{language}").write_text("".join(line + "\n" for line in REFERENCES))
    for name, share in (("dense", 10), ("sparse", 2), ("pruned", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hyp.de-en.en").write_text("".join(line + "\n" for line in corrupted(share)))
    return tmp_path


def words(folders, *more):
    results = [folders / name for name in ("dense", "sparse", "pruned")]
    return [str(word) for word in ("compare", "--data", folders / "data", "--results", *results, *more)]


def test_the_command(folders, capsys):
    more = ["--directions", "de-en", "--gain-of", "sparse", "--samples", "200", "--output", folders / "out"]
    assert main(words(folders, *more)) == 0
    printed = capsys.readouterr().out
    assert printed == (folders / "out/comparison.md").read_text()
    rows = {row["name"]: row for row in json.loads((folders / "out/comparison.json").read_text())["systems"]}
    assert "difference" not in rows["dense"] and "share" not in rows["sparse"]
    assert rows["sparse"]["difference"]["low"] > 0
    share = rows["pruned"]["share"]
    assert 0 < share["low"] < share["value"] < share["high"] <= 1
    assert "share of the gain of sparse" in printed and printed.count("\n") == 5


def test_values_by_hand():
    bleu = {"a": np.array([10.0, 9, 11]), "b": np.array([14.0, 13, 15]), "c": np.array([12.0, 11, 13])}
    rows = compare(bleu, "a", "b")
    assert rows[1]["difference"] == {"value": 4, "low": 4, "high": 4}
    assert rows[2]["share"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert "| c | 12.0 [11.1, 12.9] | +2.0 [+2.0, +2.0] | 50.0 % [50.0, 50.0] |" in markdown(rows, "a", "b")


@pytest.mark.parametrize(
    "more, message",
    [
        (["--names", "a", "b"], "give one name for each of the 3 --results"),
        (["--baseline", "other"], "--baseline other is not among the names dense, sparse, pruned"),
        (["--gain-of", "other"], "--gain-of other is not among"),
        (["--samples", "5"], "--samples 5 must be at least 100"),
        (["--directions", "en-de"], "hyp.en-de.de is missing"),
    ],
)
def test_bad_input_is_one_sentence(folders, more, message, capsys):
    assert main(words(folders, *more)) == 2
    assert message in capsys.readouterr().err

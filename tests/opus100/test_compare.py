import json

import numpy as np
import pytest

from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.compare import (
    compare,
    compare_directions,
    directions_markdown,
    markdown,
    significant,
)

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
    first, second = printed.split("\n\n")
    assert "share of the gain of sparse" in first and first.count("\n") == 4
    assert "| 1 / 0 / 0 |" in first.split("\n")[3] and first.split("\n")[2].endswith("|  |")
    assert second.count("\n") == 5 and second.split("\n")[2].startswith("| de-en | dense |")
    (direction,) = json.loads((folders / "out/comparison.json").read_text())["by_direction"].items()
    assert direction[0] == "de-en" and [row["name"] for row in direction[1]] == ["dense", "sparse", "pruned"]
    dense, sparse, _ = direction[1]
    assert "p" not in dense and sparse["p"] == 1 / 201 and sparse["bleu"] == rows["sparse"]["bleu"]


def test_values_by_hand():
    """Means over two directions; the second is 2 higher for every system."""
    one = {"a": [10.0, 9, 11], "b": [14.0, 13, 15], "c": [12.0, 11, 13]}
    bleu = {name: np.array([values, [value + 2 for value in values]]) for name, values in one.items()}
    rows = compare(bleu, "a", "b")
    assert rows[1]["difference"] == {"value": 4, "low": 4, "high": 4}
    assert rows[2]["share"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert "| c | 13.0 [12.1, 13.9] | +2.0 [+2.0, +2.0] | 50.0 % [50.0, 50.0] |" in markdown(rows, "a", "b")
    found = compare_directions(bleu, "a", ["x-y", "y-x"])
    assert found["y-x"][2]["bleu"]["value"] == 14 and found["x-y"][2]["bleu"]["value"] == 12
    assert "| y-x | c | 14.0 [13.1, 14.9] | +2.0 [+2.0, +2.0] | 0.333 |" in directions_markdown(found, "a")


def test_directions_are_better_worse_or_undecided():
    """Differences of +3 and -3 without spread, and of 0.1 among draws that scatter by 2."""
    base = np.full((3, 101), 20.0)
    scattered = 20.1 + 2 * np.sin(np.arange(101))
    scattered[0] = 20.1
    mine = np.stack([base[0] + 3, base[1] - 3, scattered])
    assert significant(mine, base) == (1, 1, 1)


def test_own_tokenizers(folders, tmp_path):
    """Thai has no spaces: as words by 13a a line is right or wrong, as characters most of it is right."""
    manifest = json.loads((folders / "data/manifest.json").read_text())
    manifest["pairs"] = {"en-th": manifest["pairs"]["de-en"]}
    (folders / "data/manifest.json").write_text(json.dumps(manifest))
    for name, text in (("data/raw/test.en-th.th", "วันนี้อากาศดี\n"), ("dense/hyp.en-th.th", "วันนี้อากาศดีมาก\n")):
        (folders / name).write_text(60 * text)
    (folders / "data/raw/test.en-th.en").write_text(60 * "fine\n")
    found = []
    for more in ([], ["--own-tokenizers"]):
        words = ["compare", "--data", folders / "data", "--results", folders / "dense", "--directions", "en-th"]
        assert main([str(word) for word in [*words, "--output", tmp_path / "out", *more]]) == 0
        record = json.loads((tmp_path / "out/comparison.json").read_text())
        found.append((record["own_tokenizers"], record["systems"][0]["bleu"]["value"] > 50))
    assert found == [(False, False), (True, True)]


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

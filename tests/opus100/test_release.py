"""The release's sizes add up, and the published table has the averages that its authors report."""

import csv

import pytest

from fairseq_plugins.data.direction_groups import size_group
from fairseq_plugins.opus100 import release
from fairseq_plugins.opus100.published import AVERAGES_ALONE, published_bleu, release_averages
from fairseq_plugins.opus100.tables import averages, groups, release_part
from fairseq_plugins.opus100.wins import count_wins
from tests.helpers import REPOSITORY

SIZES = {direction: release.train_lines(direction) for direction in release.DIRECTIONS}


def test_sizes_add_up():
    assert len(set(release.LANGUAGES)) == 94
    assert sum(release.TRAIN_LINES.values()) == 54_627_120
    assert sum(release.TEST_LINES.values()) == 185_537
    kinds = list(release.DIRECTIONS.values())
    assert (kinds.count("supervised"), kinds.count("zero-shot")) == (188, 30)
    assert release.TRAIN_LINES["si"] == 979_109 and size_group(979_109) == "high"
    assert [size_group(lines) for lines in (899_999, 100_000, 99_999)] == ["medium", "medium", "low"]


def test_groups_of_the_release():
    found = groups(release.DIRECTIONS, "en", SIZES)
    counts = {name: len(directions) for name, directions in found.items()}
    halves = {f"{half}{size}": count for half in ("x-en", "en-x")
              for size, count in {"": 94, " high": 45, " medium": 28, " low": 21, " BLEU4": 4}.items()}
    assert counts == {"supervised": 188, **halves, "zero-shot": 30}
    assert set(found["en-x BLEU4"]) == {"en-de", "en-zh", "en-br", "en-te"}
    assert "ha-en" in found["x-en low"] and "tt-en" in found["x-en medium"] and "si-en" in found["x-en high"]


def full_table(**more):
    """218 rows in which language number i has BLEU i into English and 2 i out of it; zero-shot directions have 7."""
    numbers = {language: i for i, language in enumerate(release.LANGUAGES)}
    rows = []
    for direction, kind in release.DIRECTIONS.items():
        source, target = direction.split("-")
        bleu = 7 if kind == "zero-shot" else numbers[source] if target == "en" else 2 * numbers[target]
        rows.append({"direction": direction, "kind": kind, "bleu": float(bleu), **more})
    return rows


def test_averages_over_exactly_the_94_pairs():
    """94 numbers from 0 to 93 have the mean 46.5, whatever the zero-shot directions have."""
    found = averages(full_table(off_target=3.0), release.DIRECTIONS, "en", False, SIZES)
    assert {name: found[name]["bleu"] for name in ("x-en", "en-x", "supervised", "zero-shot")} == {
        "x-en": 46.5, "en-x": 93.0, "supervised": 69.75, "zero-shot": 7.0}
    four = sum(release.LANGUAGES.index(language) for language in ("br", "de", "te", "zh")) / 4
    assert (found["x-en BLEU4"]["bleu"], found["en-x BLEU4"]["bleu"]) == (four, 2 * four)
    low = [i for i, language in enumerate(release.LANGUAGES) if release.TRAIN_LINES[language] < 100_000]
    assert found["x-en low"]["bleu"] == sum(low) / 21 and found["x-en low"]["off_target"] == 3.0


def test_one_missing_direction_takes_every_average_that_it_is_in():
    rows = [row for row in full_table() if row["direction"] != "te-en"]
    found = averages(rows, release.DIRECTIONS, "en", False, SIZES)
    refused = {name for name, value in found.items() if value["bleu"] is None}
    assert refused == {"supervised", "x-en", "x-en low", "x-en BLEU4"}
    assert all(found[name]["lacking"] == ["te-en"] and found[name]["missing"] == 1 for name in refused)
    allowed = averages(rows, release.DIRECTIONS, "en", True, SIZES)["x-en"]
    expected = (46.5 * 94 - release.LANGUAGES.index("te")) / 93
    assert allowed["bleu"] == pytest.approx(expected) and allowed["directions"] == 93


def test_another_corpus_is_not_taken_for_the_release():
    def results(subset, **lines):
        rows = [{"direction": f"en-{language}", "kind": "supervised", "hypotheses": n} for language, n in lines.items()]
        return {"subset": subset, "directions": rows}

    assert release_part(results("test", de=2000, kn=918)).startswith("2 of 188 supervised directions")
    assert release_part(results("test", de=2000, kn=2000)) is None
    assert release_part(results("test", de=2000, dz=2000)) is None  # of which the release has no test
    assert release_part(results("dev", de=2000)) is None
    full = [{"direction": direction, "kind": kind, "hypotheses": release.TEST_LINES.get(direction.split("-")[0], 2000)
             if direction.endswith("-en") else release.TEST_LINES.get(direction.split("-")[1], 2000)}
            for direction, kind in release.DIRECTIONS.items()]
    assert release_part({"subset": "test", "directions": full}) == "all 188 supervised directions, 94 pairs"


# system -> en-x: BLEU94, win ratio over the first system, high, medium, low; x-en the same; zero-shot; BLEU4 of both
REPORTED = {
    "Transformer 6L": (19.50, 0.0, 20.46, 21.19, 15.18, 27.60, 0.0, 26.83, 28.90, 27.49, 3.97, 15.35, 23.35),
    "6L + RoBT": (18.75, 4.3, 19.98, 20.19, 14.21, 27.02, 14.9, 26.69, 28.17, 26.19, 10.11, None, None),
    "6L + MATT": (18.49, 5.3, 19.50, 20.09, 14.17, 26.90, 2.1, 26.16, 28.12, 26.84, 3.49, None, None),
    "6L + MATT + LaLN + LaLT":
        (21.39, 78.7, 20.86, 23.28, 19.99, 27.50, 37.2, 26.85, 28.94, 26.97, 4.02, 18.12, 23.05),
    "6L + MATT + LaLN + LaLT + RoBT":
        (20.81, 69.1, 20.42, 22.45, 19.45, 27.22, 23.4, 26.54, 28.31, 27.21, 11.23, None, None),
    "12L + MATT": (20.77, 94.7, 21.44, 22.56, 16.95, 29.15, 98.9, 28.17, 30.65, 29.26, 4.71, None, None),
    "12L + MATT + LaLN + LaLT":
        (22.86, 97.9, 22.26, 24.81, 21.58, 29.49, 97.9, 28.43, 31.17, 29.50, 5.41, 19.25, 24.52),
    "12L + MATT + LaLN + LaLT + RoBT":
        (22.39, 97.9, 21.93, 24.11, 21.10, 29.54, 96.8, 28.47, 30.77, 30.20, 12.62, None, None),
    "24L + MATT + LaLN + LaLT":
        (23.96, 100.0, 23.45, 26.07, 22.24, 31.36, 98.9, 30.04, 33.07, 31.90, 5.24, 19.82, 26.02),
    "24L + MATT + LaLN + LaLT + RoBT":
        (23.36, 97.9, 22.94, 25.43, 21.52, 30.98, 95.7, 30.03, 32.38, 31.15, 14.08, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_the_published_table_has_the_published_averages(name):
    """Every group, and the win ratio; a number that is wrong by half a point moves some average of its column."""
    published = published_bleu()
    bleu, first = published[name], published["Transformer 6L"]
    means = release_averages(bleu)
    found = []
    for half in ("en-x", "x-en"):
        wins = count_wins(bleu, first, groups(release.DIRECTIONS, "en")[half])
        assert wins.compared == means[half]["directions"] == 94
        sizes = [means[f"{half} {size}"]["bleu"] for size in ("high", "medium", "low")]
        found += [means[half]["bleu"], pytest.approx(wins.ratio, abs=0.051), *sizes]
    found += [means["zero-shot"]["bleu"], means["en-x BLEU4"]["bleu"], means["x-en BLEU4"]["bleu"]]
    for mine, theirs in zip(found, REPORTED[name], strict=True):
        assert theirs is None or theirs == (pytest.approx(mine, abs=0.0051) if isinstance(mine, float) else mine)


def test_the_page_of_the_documentation_says_the_same():
    """The table in docs/evaluation.md is what the package computes."""
    text = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for line in text.splitlines()
            if (cells := line.strip().strip("|").split("|"))[0].strip() in {*REPORTED, *AVERAGES_ALONE}}
    assert set(rows) == {*REPORTED, *AVERAGES_ALONE}
    for name, bleu in published_bleu().items():
        means = release_averages(bleu)
        assert rows[name] == [f"{means[group]['bleu']:.2f}" for group in ("en-x", "x-en", "zero-shot")]
    for name, means in AVERAGES_ALONE.items():
        assert rows[name] == [f"{means['en-x']:.1f}", f"{means['x-en']:.1f}", "-"]


def test_the_published_table_covers_the_release():
    with open(REPOSITORY / "fairseq_plugins/opus100/zhang2020.tsv", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert {row["direction"] for row in rows} == set(release.DIRECTIONS) and len(rows) == 218
    assert list(published_bleu()) == list(REPORTED)


def test_wins_by_hand():
    mine, other = {"a-b": 10.0, "b-a": 5.0, "c-d": 7.0, "d-c": 1.0}, {"a-b": 9.9, "b-a": 5.04, "c-d": 8.0}
    wins = count_wins(mine, other, ["a-b", "b-a", "c-d", "d-c"])
    assert (wins.compared, wins.won, wins.tied, wins.lost) == (3, 1, 1, 1)
    assert wins.ratio == pytest.approx(100 / 3) and wins.difference == pytest.approx((0.1 - 0.04 - 1) / 3)
    assert count_wins(mine, other, ["d-c"]) is None

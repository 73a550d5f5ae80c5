"""The result table: which directions, which averages, what is refused."""

from fairseq_plugins.opus100.tables import (
    averages,
    evaluated_directions,
    groups,
    named,
    not_averaged,
    select_directions,
    train_lines_of,
)


def test_pairs_that_were_only_trained_on_are_never_evaluated():
    pairs = {"an-en": {"kind": "train-only", "train": {}, "dev": {}}, "de-en": {"kind": "supervised", "test": {}}}
    known = evaluated_directions({"pairs": pairs}, "test")
    assert known == {"de-en": "supervised", "en-de": "supervised"}
    assert select_directions(known, "en-de") == ["en-de"]


def test_a_supervised_pair_without_the_pivot_is_in_neither_half():
    known = dict.fromkeys(["de-en", "en-de", "de-fr", "fr-de"], "supervised")
    assert groups(known, "en") == {"supervised": list(known), "x-en": ["de-en"], "en-x": ["en-de"]}


def test_groups_by_size_where_sizes_differ():
    """Sizes are the manifest's own; where all pairs are of one group it is the whole half and left out."""
    def pair(lines):
        return {"kind": "supervised", "train": {"lines": lines, "kept": 1}, "test": {}}

    manifest = {"pairs": {"de-en": pair(900_000), "en-fr": pair(99_999), "en-ru": pair(100_000), "de-fr": pair(5)}}
    known = evaluated_directions(manifest, "test")
    found = groups(known, "en", train_lines_of(manifest))
    assert (found["en-x high"], found["en-x medium"], found["en-x low"]) == (["en-de"], ["en-ru"], ["en-fr"])
    assert found["x-en low"] == ["fr-en"] and len(found["supervised"]) == 8
    small = {name: 1_000 for name in known}
    assert list(groups(known, "en", small)) == list(groups(known, "en")) == ["supervised", "x-en", "en-x"]
    del small["en-de"]  # prepared by a version that did not count lines
    assert list(groups(known, "en", {**small, "en-fr": 100_000})) == ["supervised", "x-en", "en-x"]


def test_incomplete_groups_are_not_averaged():
    known = {"de-en": "supervised", "en-de": "supervised", "de-fr": "zero-shot", "fr-de": "zero-shot"}
    rows = [{"direction": name, "bleu": bleu, "chrf": 2 * bleu} for name, bleu in
            {"de-en": 10.0, "en-de": 20.0, "de-fr": 4.0}.items()]
    found = averages(rows, known, "en", allow_missing=False)
    unknown = {"bleu_own": None, "off_target": None}
    assert found["supervised"] == {"bleu": 15.0, "chrf": 30.0, **unknown, "directions": 2, "missing": 0, "lacking": []}
    assert found["x-en"]["bleu"] == 10.0 and found["en-x"]["bleu"] == 20.0
    missing = {"directions": 1, "missing": 1, "lacking": ["fr-de"]}
    assert found["zero-shot"] == {"bleu": None, "chrf": None, **unknown, **missing}
    assert not_averaged({"averages": found}) == ["zero-shot is not averaged: it lacks fr-de"]
    assert averages(rows, known, "en", allow_missing=True)["zero-shot"]["bleu"] == 4.0


def test_a_long_list_of_directions_is_cut():
    assert named(["a-b", "b-a"]) == "a-b, b-a"
    assert named([f"en-{number}" for number in range(14)]).endswith("en-11 and 2 more")

"""Groups of directions, by hand and for the release of OPUS-100."""

from fairseq_plugins.data.direction_groups import direction_groups, size_group
from fairseq_plugins.opus100 import release


def test_groups_by_hand():
    lines = {"de-en": 10**6, "en-de": 10**6, "en-fr": 5, "fr-en": 5}
    found = direction_groups(list(lines), lines)
    assert found == {
        "macro": ["de-en", "en-de", "en-fr", "fr-en"],
        "from_en": ["en-de", "en-fr"],
        "into_en": ["de-en", "fr-en"],
        "high": ["de-en", "en-de"],
        "low": ["en-fr", "fr-en"],
    }


def test_groups_that_would_say_nothing_new_are_left_out():
    assert list(direction_groups(["de-en"], {"de-en": 5})) == ["macro"]
    assert list(direction_groups(["en-de", "en-fr"])) == ["macro"], "all are from English"
    assert list(direction_groups(["en-de", "de-fr", "fr-cs"])) == ["macro"], "no language is in all"
    assert list(direction_groups(["de-en", "en-de"])) == ["macro"], "two languages are in all"
    assert list(direction_groups(["en-de", "fr-en"], {"en-de": 5})) == ["macro", "from_en", "into_en"], "no size of one"


def test_groups_of_the_release():
    supervised = [name for name, kind in release.DIRECTIONS.items() if kind == "supervised"]
    found = direction_groups(supervised, {name: release.train_lines(name) for name in supervised})
    counts = {name: len(names) for name, names in found.items()}
    assert counts == {"macro": 188, "from_en": 94, "into_en": 94, "high": 90, "medium": 56, "low": 42}


def test_sizes_at_their_bounds():
    assert [size_group(lines) for lines in (900_000, 899_999, 100_000, 99_999)] == ["high", "medium", "medium", "low"]

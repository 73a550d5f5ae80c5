"""What encoder and decoder get: one golden example of each objective, and what holds for every seed."""

import numpy as np
import pytest

from fairseq_plugins.data.pretraining_objectives import OBJECTIVES, SpanCorruption
from fairseq_plugins.data.span_corruption import SpanNoise

from .span_texts import ENGLISH, EOS, FRENCH, figure, read, rebuilt, rows, symbols, text

HALF = SpanNoise(0.5, 3)
PAIR = {"en": [*rows(ENGLISH), EOS], "fr": [*rows(FRENCH), EOS]}


def example(name, seed, tags=False, groups=1, of=None):
    return OBJECTIVES[name](symbols(tags), HALF, groups).example(of or figure(), 0, np.random.default_rng(seed))


def english():
    return text(en=[rows(ENGLISH)])


@pytest.mark.parametrize(
    "name, source, target",
    [
        ("sc", "Thank you for your [M1] </s>", "[M1] invitation last week . </s>"),
        (
            "mt",
            "Merci pour votre invitation la semaine dernière . </s>",
            "Thank you for your invitation last week . </s>",
        ),
        (
            "tpsc",
            "Merci [M1] semaine dernière . </s> Thank [M2] for [M3] week . </s>",
            "[M1] pour votre invitation la [M2] you [M3] your invitation last [M4] </s>",
        ),
        (
            "tsc",
            "Merci [M1] semaine dernière . </s> Thank you for your invitation last week . </s>",
            "[M1] pour votre invitation la [M2] </s>",
        ),
    ],
)
def test_golden(name, source, target):
    made = example(name, 3, of=english() if name == "sc" else None)
    assert (read(made.source), read(made.target)) == (source, target)


@pytest.mark.parametrize("name", ["sc", "mt", "tpsc", "tsc"])
def test_nothing_is_lost_and_sizes_are_never_too_small(name):
    of = english() if name == "sc" else figure()
    most_source, most_target = OBJECTIVES[name](symbols(True), HALF).sizes(of)
    for seed in range(200):
        made = example(name, seed, tags=True, groups=3, of=of)
        assert made.target[-1] == EOS
        assert len(made.source) <= most_source[0] and len(made.target) <= most_target[0]
        text = read(made.source if name == "mt" else rebuilt(made.source, made.target))
        if name == "sc":
            assert text == f"__en__ {' '.join(ENGLISH)} </s>"
        elif name == "mt":
            source, target = (ENGLISH, FRENCH) if "Thank" in text else (FRENCH, ENGLISH)
            tag = "__fr__" if source is ENGLISH else "__en__"
            assert text == " ".join([tag, *source, "</s>"])
            assert read(made.target) == " ".join([*target, "</s>"])
        else:
            both = [f"__en__ {' '.join(ENGLISH)} </s>", f"__fr__ {' '.join(FRENCH)} </s>"]
            assert text in (" ".join(both), " ".join(reversed(both)))


def test_tsc_leaves_one_language_whole_and_either_may_be_masked():
    seen = set()
    for seed in range(100):
        source = read(example("tsc", seed).source)
        first, second = source.split(" </s>")[:2]
        whole = [part for part in (first.strip(), second.strip()) if "[M" not in part]
        assert len(whole) == 1 and whole[0] in (" ".join(ENGLISH), " ".join(FRENCH))
        seen.add((whole[0] == " ".join(ENGLISH), "[M" in first))
    assert len(seen) == 4  # which language, and whether it comes first


def test_tpsc_numbers_its_sentinels_on_over_the_pair():
    both = 0
    for seed in range(100):
        made = example("tpsc", seed)
        of_source = made.source[made.source >= 100]
        assert of_source.tolist() == list(range(100, 100 + len(of_source)))
        of_target = made.target[made.target >= 100]
        assert (np.diff(of_target) == 1).all() and of_target[0] == 100
        both += all("[M" in part for part in read(made.source).split(" </s>")[:2])
    assert both > 50


def test_density_1_is_translation_with_sentinels():
    whole = OBJECTIVES["tsc"](symbols(), SpanNoise(1.0, 3))
    for seed in range(20):
        made = whole.example(figure(), 0, np.random.default_rng(seed))
        assert read(made.target) in (f"[M1] {' '.join(ENGLISH)} </s>", f"[M1] {' '.join(FRENCH)} </s>")


def test_groups_of_an_example():
    block = text(en=[[5] * 30])
    made = SpanCorruption(symbols(), HALF, 3).example(block, 0, np.random.default_rng(0))
    assert made.group_T.tolist() == sorted(made.group_T.tolist()) and set(made.group_T) == {0, 1, 2}
    starts = [0, *(np.flatnonzero(np.diff(made.group_T)) + 1)]
    assert (made.previous[starts] == EOS).all() and (made.target[starts] >= 100).all()
    others = np.setdiff1d(np.arange(len(made.target)), starts)
    assert (made.previous[others] == made.target[others - 1]).all()
    assert made.group_T[-1] == 2  # the end symbol is of the last group


@pytest.mark.parametrize("name, groups, tokens", [("mt", 3, 8), ("sc", 1, 30), ("sc", 3, 2)])
def test_ordinary_decoding_has_no_groups(name, groups, tokens):
    of = text(en=[[5] * tokens]) if name == "sc" else figure()
    assert example(name, 0, groups=groups, of=of).group_T is None


def test_a_block_of_sentences_keeps_its_separators():
    block = text(en=[[5, 6, 7, EOS, 8, 9, EOS, EOS, 5, 6, 7, 8]])
    for seed in range(200):
        made = example("sc", seed, of=block)
        assert (made.source == EOS).sum() == 4 and made.source[-1] == EOS


@pytest.mark.parametrize("density", [0.15, 0.5, 0.7])
def test_the_longest_text_fits_and_one_more_token_might_not(density):
    objective = OBJECTIVES["sc"](symbols(True), SpanNoise(density, 3))
    longest = objective.longest_text(100)
    assert objective.fitting(text(en=[[5] * (longest - 1)]), 100) is not None
    assert objective.fitting(text(en=[[5] * longest]), 100) is None


def test_what_might_be_too_long_is_left_out():
    both = text(en=[[5] * 3, [5] * 9], fr=[[5] * 3, [5] * 9])
    for name, most, left in (("tsc", 12, [0]), ("mt", 11, [0, 1]), ("mt", 10, [0])):
        assert OBJECTIVES[name](symbols(), HALF).fitting(both, most).rows.tolist() == left
    assert OBJECTIVES["tpsc"](symbols(), HALF).fitting(both, 5) is None

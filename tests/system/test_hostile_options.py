"""Every option of every verb with a value that it cannot have: one sentence names the option, and nothing happens."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile_support import FIXED, GOOD, options

EVERY = options()
NUMBERS = [option for option in EVERY if option.action.type in (int, float) or option.flag.endswith("-lines")]
PATHS = [option for option in EVERY if option.action.type is Path]
WHOLE = [option for option in NUMBERS if option.action.type is not float]
BROKEN = [option for option in NUMBERS if option.action.type is float]
CHOICES = [option for option in EVERY if option.action.choices]

# options for which these numbers mean something
NEGATIVE_MEANS = {("sample", "--seed"), ("translate", "--lenpen"), ("evaluate", "--lenpen")}
ZERO_MEANS = NEGATIVE_MEANS | {
    ("train", "--valid-lines"),
    ("moe-inspect", "--batches"), ("depth-study", "--seed"), ("depth-study", "--warmup-updates"),
    ("depth-study", "--dropout"), ("prepare", "--seed"), ("mono", "--seed"), ("add-symbols", "--seed"),
    ("train", "--dropout"), ("train", "--workers"), ("train", "--label-smoothing"), ("train", "--seed"),
    ("train", "--save-interval-updates"), ("train", "--keep-checkpoints"),
}  # fmt: skip


def name_of(option):
    return f"{option.verb} {option.flag}"


def not_a_number(text):
    try:
        float(text)
    except ValueError:
        return True
    return False


ODD = ["", " ", "1e", "0x10", "1,5", "--", "\u0661\u200b", "\x00", "\ud800", "\n", "-5", "../x"]
WORDS = st.one_of(st.text(max_size=8), st.sampled_from(ODD))
NO_NUMBERS = WORDS.filter(not_a_number)


def test_every_verb_is_here():
    from fairseq_plugins.__main__ import VERBS as ours
    from fairseq_plugins.opus100.__main__ import VERBS as road

    assert set(GOOD) == {*ours, *road} - {"path", "doctor"}
    assert len(NUMBERS) > 50 and len(PATHS) > 40 and len(CHOICES) > 10


@pytest.mark.parametrize("option", NUMBERS, ids=name_of)
@settings(max_examples=4, **FIXED)
@given(word=NO_NUMBERS)
def test_what_is_no_number(world, option, word):
    said = world.refused(option.verb, world.with_value(option, word))
    assert option.flag in said or "holds a NUL" in said


@pytest.mark.parametrize("option", WHOLE, ids=name_of)
@settings(max_examples=2, **FIXED)
@given(number=st.sampled_from(["nan", "inf", "1.0", "1e3", "1_0_"]) | st.floats(allow_nan=True).map(str))
def test_what_is_no_whole_number(world, option, number):
    assert option.flag in world.refused(option.verb, world.with_value(option, number))


@pytest.mark.parametrize("option", BROKEN, ids=name_of)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "-Infinity", "9" * 400])
def test_what_is_no_finite_number(world, option, number):
    assert option.flag in world.refused(option.verb, world.with_value(option, number))


@pytest.mark.parametrize("option", WHOLE, ids=name_of)
@settings(max_examples=2, **FIXED)
@given(number=st.integers(min_value=2**31, max_value=10**40))
def test_numbers_beyond_all_proportion(world, option, number):
    assert option.flag in world.refused(option.verb, world.with_value(option, str(number)))


@pytest.mark.parametrize("option", NUMBERS, ids=name_of)
@settings(max_examples=2, **FIXED)
@given(number=st.integers(min_value=-(10**12), max_value=-1))
def test_numbers_below_the_range(world, option, number):
    if (option.verb, option.flag) not in NEGATIVE_MEANS:
        assert option.flag in world.refused(option.verb, world.with_value(option, str(number)))
    if (option.verb, option.flag) not in ZERO_MEANS:
        assert option.flag in world.refused(option.verb, world.with_value(option, "0"))


@pytest.mark.parametrize("option", CHOICES, ids=name_of)
@settings(max_examples=2, **FIXED)
@given(word=WORDS)
def test_words_that_are_no_choice(world, option, word):
    said = world.refused(option.verb, world.with_value(option, word))
    assert option.flag in said or "holds a NUL" in said


@pytest.mark.parametrize("option", PATHS, ids=name_of)
@pytest.mark.parametrize(
    "path", ["", "x" * 300, "y/" * 3000, "a\0b", "\udcff"], ids=["empty", "long", "deep", "NUL", "bytes"]
)
def test_what_is_no_path(world, option, path):
    said = world.refused(option.verb, world.with_value(option, path))
    named = option.flag in said or option.action.metavar in said
    assert named or "holds a NUL" in said


@settings(max_examples=100, **FIXED)
@given(name=st.sampled_from(sorted(GOOD)), words=st.lists(WORDS, min_size=1, max_size=3))
def test_words_that_nobody_asked_for(world, name, words):
    if name in ("average", "merge-experts", "show-batch", "train"):  # which take any number of words
        words = [f"--no-such-option={word.replace(' ', '')}" for word in words]  # with one it would be no option
    else:
        words = [f"\u2028{word}" for word in words]
    cut = world.words(name)
    world.refused(name, [*cut, *words] if "--" not in cut else [*words, *cut])


def test_types_of_options_are_those_that_the_frame_knows():
    """int, float and Path get their checks from the frame; another type would go without."""
    kinds = {option.action.type for option in EVERY}
    assert {kind.__name__ for kind in kinds if kind} == {"int", "float", "Path", "_count"}
    assert not any(isinstance(option.action, argparse._HelpAction) for option in EVERY)

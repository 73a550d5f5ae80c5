"""ELECTRA's masking: how many places exactly, which, and what stands there."""

import numpy as np
import pytest
import torch

from fairseq_plugins.data.electra_masking import ElectraNoise, ElectraText
from fairseq_plugins.data.joined_text import maskable

from .joined_lines import LONG, PIECES, WORDS, text, without, words

ALL = 0.999  # masks whatever may be masked


def maker(share=0.15, itself=0.15, longest=512):
    return ElectraText(WORDS, ElectraNoise(share, itself), longest)


def example(of, made=None, seed=0, row=0):
    return (made or maker()).example(of, row, np.random.default_rng(seed))


def places(made):
    return np.flatnonzero(made.target_T != WORDS.pad())


def rebuilt(made):
    return np.where(made.target_T == WORDS.pad(), made.text_T, made.target_T)


@pytest.mark.parametrize(
    "length, share, longest, count",
    [
        (3, 0.15, 512, 1),  # at least one: 0.45
        (10, 0.15, 512, 2),  # 1.5 to the even number
        (30, 0.15, 512, 4),  # 4.5 too
        (31, 0.15, 512, 5),  # 4.65
        (128, 0.15, 128, 19),  # 19.2 and 19.84, cut
        (512, 0.15, 512, 77),  # 76.8 and 79.36, cut
        (512, 0.25, 512, 128),
        (512, 0.15, 128, 19),  # no more than the longest line
        (10, 0.0001, 50, 1),
    ],
)
def test_how_many_are_masked(length, share, longest, count):
    assert ElectraNoise(share).masked(length, longest) == count


@pytest.mark.parametrize("pieces", [1, 5, 8, 19, 30])
def test_exactly_so_many_different_places_have_targets(pieces):
    source = text(de=[" ".join(PIECES[:pieces])])
    for seed in range(50):
        made = example(source, seed=seed)
        assert len(places(made)) == ElectraNoise().masked(pieces + 2, 512), "the line has <s> and </s> too"


def test_all_that_may_be_masked_where_that_is_less():
    made = example(text(de=["x1 <unk> x2"]), maker(ALL))
    assert words(made.target_T) == "- x1 - x2 -"


def test_nothing_but_pieces_is_masked_and_the_text_can_be_told_again_over_200_seeds():
    source, made = text(de=[LONG], en=["x1 <unk> x3"]), maker(0.5)
    made.tags.update(de=WORDS.index("__de__"), en=WORDS.index("__en__"))
    lines = {f"<s> __de__ {LONG} </s> __en__ x1 <unk> x3 </s>", f"<s> __en__ x1 <unk> x3 </s> __de__ {LONG} </s>"}
    found = set()
    for seed in range(200):
        one = example(source, made, seed)
        line = rebuilt(one)
        found.add(words(line))
        assert maskable(WORDS)[line[places(one)]].all()
        assert set(one.text_T[places(one)][one.text_T[places(one)] != line[places(one)]]) <= {WORDS.index("<mask>")}
    assert found == lines
    assert made.sizes(source)[0][0] == len(line)


def test_85_of_100_become_a_mask_and_the_others_stay():
    source, masks, stay = text(de=[LONG]), 0, 0
    for seed in range(1500):
        made = example(source, seed=seed)
        at = places(made)
        masks += int((made.text_T[at] == WORDS.index("<mask>")).sum())
        stay += int((made.text_T[at] == made.target_T[at]).sum())
    assert masks + stay == 1500 * 5, "no random tokens"
    assert stay / (masks + stay) == pytest.approx(0.15, abs=0.015)


@pytest.mark.parametrize("itself, masked", [(0.0, 5), (1.0, 0)])
def test_none_stays_or_all(itself, masked):
    for seed in range(20):
        made = example(text(de=[LONG]), maker(itself=itself), seed)
        assert (made.text_T == WORDS.index("<mask>")).sum() == masked and len(places(made)) == 5


def test_every_place_is_as_likely_as_any_other():
    counts = np.zeros(32)
    for seed in range(3000):
        counts[places(example(text(de=[LONG]), seed=seed))] += 1
    assert counts[[0, -1]].sum() == 0
    assert counts[1:-1] / 3000 == pytest.approx(5 / 30, abs=0.03)


def test_the_same_dice_make_the_same_example_and_others_another():
    source = text(de=[LONG])
    one, again, other = (example(source, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(*pair) for pair in zip(one, again, strict=True))
    assert not np.array_equal(places(one), places(other))


def test_the_sentences_of_a_pair_come_in_an_order_of_chance():
    pair = text(de=["x1"], en=["x2"])
    assert {words(example(pair, maker(ALL), seed).target_T) for seed in range(20)} == {"- x1 - x2 -", "- x2 - x1 -"}


def test_one_batch():
    made = maker(ALL, itself=0.0)
    batch = made.collate([example(text(de=["x1 x2 x3 x4"]), made), example(text(de=["x9"], en=["x9"]), made)])
    tokens = [words(row) for row in batch["net_input"]["src_tokens"]]
    assert tokens == ["<s> <mask> <mask> <mask> <mask> </s>", "<s> <mask> </s> <mask> </s> -"]
    assert [words(row) for row in batch["target"]] == ["- x1 x2 x3 x4 -", "- x9 - x9 - -"]
    assert batch["net_input"]["segments"].tolist() == [[0] * 6, [0, 0, 0, 1, 1, 0]]
    assert batch["net_input"]["src_lengths"].tolist() == [6, 5]
    assert set(batch["net_input"]) == {"src_tokens", "src_lengths", "segments"}
    assert (batch["ntokens"], batch["nsentences"]) == (11, 2)
    assert all(value.dtype == torch.long for value in [*batch["net_input"].values(), batch["target"]])


def test_a_text_without_anything_to_mask():
    batch = maker().collate([example(text(de=["<unk> <unk>"]))])
    assert words(batch["net_input"]["src_tokens"][0]) == "<s> <unk> <unk> </s>"
    assert words(batch["target"][0]) == "- - - -"


def test_a_dictionary_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="the dictionary has no <mask>; add it with opus100 add-symbols"):
        ElectraText(without("<mask>"), ElectraNoise(), 512)
    ElectraText(without("<pseudo_mask>"), ElectraNoise(), 512)


@pytest.mark.parametrize(
    "share, itself, named",
    [
        (0, 0, "--share 0 must be above 0 and below 1"),
        (1, 0, "--share 1 must"),
        (-0.1, 0, "--share -0.1 must"),
        (float("nan"), 0, "--share nan must"),
        (0.1, 1, "--itself 1 must be at least 0 and below 1"),
        (0.1, -0.5, "--itself -0.5 must"),
    ],
)
def test_noise_out_of_range_is_named(share, itself, named):
    with pytest.raises(ValueError, match=named):
        ElectraNoise(share, itself).checked("--share", "--itself")

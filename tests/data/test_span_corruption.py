"""Spans: how many, where they may be, what source and target become, and who decodes with whom."""

import numpy as np
import pytest

from fairseq_plugins.data.span_corruption import (
    SpanNoise,
    corrupt,
    draw_spans,
    group_of_span,
    noise_spans,
    noise_tokens,
    replace_spans,
    shifted,
)

from .span_texts import ENGLISH, EOS, FRENCH, SENTINELS, read, rebuilt, rows

HALF = SpanNoise(0.5, 3)


def masked(spans, length):
    """Which tokens the spans cover."""
    inside = np.zeros(length, dtype=bool)
    for start, size in zip(*spans, strict=True):
        inside[start : start + size] = True
    return inside


@pytest.mark.parametrize(
    "length, density, mean, tokens, spans",
    [(100, 0.15, 3, 15, 5), (512, 0.15, 3, 77, 26), (766, 0.5, 3, 383, 99), (10, 0.5, 3, 5, 2), (2, 0.15, 3, 1, 1),
     (10, 0.9, 1, 9, 1), (1, 0.5, 3, 1, 1), (7, 1, 3, 7, 1)],
)  # fmt: skip
def test_counts_by_hand(length, density, mean, tokens, spans):
    noise = SpanNoise(density, mean)
    assert noise_tokens(length, noise) == tokens
    assert noise_spans(length, noise, 99) == spans


@pytest.mark.parametrize("density", [0.15, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("stretches", [[(0, 40)], [(1, 21), (23, 43)], [(0, 9), (10, 31), (32, 36), (37, 60)]])
def test_exact_counts_and_no_touching_spans_over_200_seeds(density, stretches):
    length = sum(end - start for start, end in stretches)
    noise = SpanNoise(density, 3)
    for seed in range(200):
        start, size = draw_spans(stretches, noise, 99, np.random.default_rng(seed))
        if density <= 0.5 or len(stretches) == 1:
            assert size.sum() == noise_tokens(length, noise) and len(size) == noise_spans(length, noise, 99), seed
        else:  # so many do not always fit between separators
            assert 0.8 * noise_tokens(length, noise) <= size.sum() <= noise_tokens(length, noise)
        assert (start[1:] > (start + size)[:-1]).all(), "spans touch or overlap"
        allowed = np.zeros(60, dtype=bool)
        for begin, end in stretches:
            allowed[begin + 1 : end] = True  # the first token of each stretch stays
        assert not (masked((start, size), 60) & ~allowed).any()


def test_every_place_and_every_length_happens():
    starts, lengths = set(), set()
    for seed in range(500):
        start, size = draw_spans([(0, 14)], HALF, 99, np.random.default_rng(seed))  # 7 tokens in 2 spans
        starts.update(start.tolist())
        lengths.update(size.tolist())
    assert starts == set(range(1, 14))
    assert lengths == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("density, words", [(0.15, 3), (0.15, 5), (0.3, 4), (0.5, 4), (0.5, 8)])
def test_the_density_of_short_sentences_is_that_of_long_ones(density, words):
    stretches = [(start, start + words) for start in range(0, 40 * (words + 1), words + 1)]
    counts = [draw_spans(stretches, SpanNoise(density, 3), 99, np.random.default_rng(seed))[1] for seed in range(200)]
    wanted = noise_tokens(40 * words, SpanNoise(density, 3))
    assert np.mean([sizes.sum() for sizes in counts]) == pytest.approx(wanted, rel=0.03)
    spans = noise_spans(40 * words, SpanNoise(density, 3), 99)
    assert all(len(sizes) <= 2 * spans for sizes in counts)


def test_text_too_dense_for_its_separators_is_still_masked_where_it_can_be():
    for seed in range(200):
        text = np.arange(10, 21)
        stretches = [(0, 1), (2, 4), (5, 6), (7, 11)]
        corrupted = corrupt(text, stretches, SpanNoise(0.9, 1), SENTINELS, np.random.default_rng(seed))
        assert rebuilt(corrupted.source, corrupted.target) == text.tolist()
        assert {11, 14, 16} <= set(corrupted.source.tolist())  # what stands between the stretches
        assert {10, 12, 15, 17} <= set(corrupted.source.tolist())  # and each one's first token
        assert (corrupted.target < 100).sum() >= 3


def test_words_that_stand_alone_are_masked_too():
    for seed in range(20):
        corrupted = corrupt(np.arange(10, 17), [(0, 1), (2, 3), (4, 5)], HALF, SENTINELS, np.random.default_rng(seed))
        assert corrupted.spans == 1 and rebuilt(corrupted.source, corrupted.target) == list(range(10, 17))


def test_the_sequences_of_the_papers_figure():
    text = np.array([*rows(ENGLISH), EOS, *rows(FRENCH), EOS])
    english = (np.array([2, 5]), np.array([2, 2]))
    done = replace_spans(text[:9], english, 8, SENTINELS)
    assert read(done.source) == "Thank you [M1] invitation [M2] . </s>"
    assert read(done.target) == "[M1] for your [M2] last week [M3]"
    assert done.span_of_target.tolist() == [0, 0, 0, 1, 1, 1, 1]

    done = replace_spans(text, (np.array([10, 15]), np.array([3, 2])), 17, SENTINELS)
    assert read(done.source) == ("Thank you for your invitation last week . </s> Merci [M1] la semaine [M2] </s>")
    assert read(done.target) == "[M1] pour votre invitation [M2] dernière ."  # ends in a span: nothing to close

    done = replace_spans(text, (np.array([2, 5, 12]), np.array([2, 2, 1])), 17, SENTINELS)
    assert read(done.source) == "Thank you [M1] invitation [M2] . </s> Merci pour votre [M3] la semaine dernière . </s>"
    assert read(done.target) == "[M1] for your [M2] last week [M3] invitation [M4]"


def test_groups_are_contiguous_and_the_first_ones_larger():
    assert group_of_span(3, 2).tolist() == [0, 0, 1]
    assert group_of_span(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert group_of_span(2, 3).tolist() == [0, 1]  # no more groups than spans
    assert group_of_span(5, 1).tolist() == [0] * 5


def test_the_decoder_reads_the_start_symbol_at_each_group():
    target = np.array([100, 5, 6, 101, 7, 102, 8, EOS])
    assert shifted(target, EOS).tolist() == [EOS, 100, 5, 6, 101, 7, 102, 8]
    groups = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert shifted(target, EOS, groups).tolist() == [EOS, 100, 5, 6, 101, EOS, 102, 8]


def test_no_more_spans_than_sentinels():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        corrupted = corrupt(np.arange(10, 90), [(0, 80)], SpanNoise(0.5, 1), SENTINELS[:5], rng)
        assert corrupted.spans == 4 and set(corrupted.target[corrupted.target >= 100]) <= set(SENTINELS[:5])


@pytest.mark.parametrize("density", [0, 1, -0.1, 1.5, float("nan")])
def test_a_density_out_of_range_is_named(density):
    with pytest.raises(ValueError, match="--sc-noise-density .* must be above 0"):
        SpanNoise(density, 3).checked("--sc-noise-density", "--sc-span-length")


def test_only_where_it_makes_sense_all_of_a_text_may_go():
    assert SpanNoise(1, 3).checked("--tsc-noise-density", "--tsc-span-length", whole=True).density == 1
    with pytest.raises(ValueError, match="--x 0.5 must be at least 1"):
        SpanNoise(0.5, 0.5).checked("--d", "--x")

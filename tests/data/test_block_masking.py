"""Blocks: bounds of what is masked, where they may be, how long they are, in which order they come."""

import numpy as np
import pytest

from fairseq_plugins.data.block_masking import BlockNoise, draw_blocks

NOISE = BlockNoise()


def places(count, special=()):
    maskable = np.ones(count, dtype=bool)
    maskable[list(special)] = False
    return maskable


@pytest.mark.parametrize("length, special", [(1, ()), (7, (0, 6)), (40, (0, 13, 14, 39)), (512, range(0, 512, 9))])
@pytest.mark.parametrize("ratio", [0.15, 0.5])
def test_bounds_and_places_over_200_seeds(length, special, ratio):
    noise, maskable = BlockNoise(ratio), places(length, special)
    for seed in range(200):
        blocks = draw_blocks(maskable, noise, np.random.default_rng(seed))
        masked = np.concatenate(blocks)
        wanted = ratio * maskable.sum()
        assert len(set(masked)) == len(masked) and maskable[masked].all()
        assert wanted <= len(masked) < wanted + len(blocks[-1]), "the last block reaches the ratio, none before"
        assert len(masked) <= min(np.ceil(wanted) + noise.longest - 1, maskable.sum())
        for block in blocks:
            assert 1 <= len(block) <= 6 and (np.diff(block) == 1).all()


def test_lengths_are_drawn_as_the_paper_says():
    """Where nothing is in the way: a single token with probability 0.6, and 2 to 6 with 0.08 each."""
    lengths = []
    for seed in range(400):
        blocks = draw_blocks(places(5000), BlockNoise(0.004), np.random.default_rng(seed))
        lengths += [len(block) for block in blocks[:5]]
    shares = np.bincount(lengths, minlength=7) / len(lengths)
    assert shares[1] == pytest.approx(0.6, abs=0.04)
    assert shares[2:7] == pytest.approx(np.full(5, 0.08), abs=0.02)


def test_starts_and_order_are_of_chance():
    firsts = [draw_blocks(places(6), NOISE, np.random.default_rng(seed))[0][0] for seed in range(300)]
    assert np.bincount(firsts).min() > 20
    rises = [
        blocks[0][0] < blocks[1][0]
        for blocks in (draw_blocks(places(60), NOISE, np.random.default_rng(seed)) for seed in range(300))
    ]
    assert 0.4 < np.mean(rises) < 0.6


def test_single_tokens_alone():
    blocks = draw_blocks(places(300), BlockNoise(block_probability=0.0), np.random.default_rng(1))
    assert len(blocks) == 45 and all(len(block) == 1 for block in blocks)


def test_everything_may_be_masked():
    blocks = draw_blocks(places(30, [3]), BlockNoise(1.0), np.random.default_rng(1))
    assert sorted(np.concatenate(blocks)) == [place for place in range(30) if place != 3]


def test_nothing_to_mask():
    assert draw_blocks(places(3, [0, 1, 2]), NOISE, np.random.default_rng(1)) == []


@pytest.mark.parametrize(
    "noise, words",
    [((0.0, 0.4, 6), "--ratio 0 must be above 0"), ((1.1, 0.4, 6), "--ratio 1.1"),
     ((float("nan"), 0.4, 6), "--ratio nan"), ((0.2, 1.0, 6), "--often 1 must be at least 0 and below 1"),
     ((0.2, -0.1, 6), "--often -0.1"), ((0.2, 0.4, 1), "--longest 1 must be at least 2")],
)  # fmt: skip
def test_values_out_of_range_are_named(noise, words):
    with pytest.raises(ValueError, match=words):
        BlockNoise(*noise).checked("--ratio", "--often", "--longest")

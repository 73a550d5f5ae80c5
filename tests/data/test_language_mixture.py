"""Sampling over languages: shares, exact counts, fair turns."""

import numpy as np
import pytest

from fairseq_plugins.data.language_mixture import epoch_plan, every_row, probabilities

from .span_texts import text


def test_shares_by_hand():
    assert probabilities([1, 3], 1.0) == pytest.approx([0.25, 0.75])
    assert probabilities([1, 3], 0.0) == pytest.approx([0.5, 0.5])
    small, large = 0.1**0.7, 0.9**0.7
    assert probabilities([100, 900], 0.7) == pytest.approx([small / (small + large), large / (small + large)])


def texts():
    return [text(de=[[5]] * 10), text(fr=[[5]] * 90)]


def test_each_text_has_its_share_of_the_epoch():
    expected = probabilities([10, 90], 0.7) * 1000
    for seed in range(50):
        plan = epoch_plan(texts(), 1000, 0.7, np.random.default_rng(seed))
        counts = np.bincount(plan.text_N)
        assert counts.sum() == len(plan.row_N) == 1000
        assert (abs(counts - expected) <= 1).all()


def test_no_sentence_comes_again_before_all_have_come():
    plan = epoch_plan(texts(), 300, 0.7, np.random.default_rng(0))
    for number, size in ((0, 10), (1, 90)):
        times = np.bincount(plan.row_N[plan.text_N == number], minlength=size)
        assert times.max() - times.min() <= 1


def test_validation_takes_every_row_once():
    plan = every_row(texts())
    assert plan.text_N.tolist() == [0] * 10 + [1] * 90
    assert plan.row_N.tolist() == [*range(10), *range(90)]

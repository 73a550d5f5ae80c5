import numpy as np
import pytest
import sacrebleu

from fairseq_plugins.opus100.bootstrap import interval, resampled_bleu

REFERENCES = [f"the cat number {number} sat on the mat of size {number % 7} ." for number in range(60)]
GOOD = [reference.replace("mat", "rug") if number % 3 else reference for number, reference in enumerate(REFERENCES)]
POOR = [reference.replace("cat", "dog").replace("sat", "lay") for reference in REFERENCES]


def test_the_first_value_is_sacrebleu_s():
    for system in (GOOD, POOR, REFERENCES):
        expected = sacrebleu.corpus_bleu(system, [REFERENCES]).score
        assert resampled_bleu(system, REFERENCES, samples=2)[0] == pytest.approx(expected)


def test_systems_are_resampled_alike():
    good, poor = (resampled_bleu(system, REFERENCES, samples=200) for system in (GOOD, POOR))
    assert np.array_equal(good, resampled_bleu(GOOD, REFERENCES, samples=200))
    difference = interval(good - poor)
    assert 0 < difference.low < difference.value < difference.high
    alone = interval(good)
    assert alone.low < alone.value < alone.high and interval(good - good) == (0, 0, 0)


def test_a_perfect_system_has_no_spread():
    assert interval(resampled_bleu(REFERENCES, REFERENCES, samples=5)) == pytest.approx((100, 100, 100))

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from fairseq_plugins.opus100.bootstrap import interval, p_value, resampled_bleu

REFERENCES = [f"the cat number {number} sat on the mat of size {number % 7} ." for number in range(60)]
GOOD = [reference.replace("mat", "rug") if number % 3 else reference for number, reference in enumerate(REFERENCES)]
POOR = [reference.replace("cat", "dog").replace("sat", "lay") for reference in REFERENCES]


def test_the_first_value_is_sacrebleu_s():
    for system in (GOOD, POOR, REFERENCES):
        expected = sacrebleu.corpus_bleu(system, [REFERENCES]).score
        assert resampled_bleu(system, REFERENCES, samples=2)[0] == pytest.approx(expected)


def test_a_value_without_matches_is_smoothed_as_sacrebleu_smooths():
    """No common 4-gram, in the test set or in many draws: 0 without smoothing."""
    hypotheses, references = ["a b c x y", "d e f p q"], ["a b c d e", "d e f g h"]
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    values = resampled_bleu(hypotheses, references, samples=20)
    assert expected > 0 and values[0] == expected and (values > 0).all()


@pytest.mark.parametrize("tokenizer", ["zh", "char"])
def test_other_tokenizers(tokenizer):
    hypotheses, references = ["今天天气好。", "我 在看书"], ["今天天气很好。", "我在看书"]
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer).score
    assert resampled_bleu(hypotheses, references, 0, tokenizer).tolist() == [expected]
    assert expected != sacrebleu.corpus_bleu(hypotheses, [references]).score


def test_draws_and_probabilities_are_sacrebleu_s():
    """Its paired bootstrap test, on systems far from each other and close; its scores are in single precision."""
    close = [line.replace("rug", "mat") if number % 20 == 1 else line for number, line in enumerate(GOOD)]
    systems = {"good": GOOD, "poor": POOR, "close": close}
    test = PairedTest(list(systems.items()), {"BLEU": BLEU()}, [REFERENCES], test_type="bs", n_samples=300)
    theirs = test()[1]["BLEU"]
    values = {name: resampled_bleu(lines, REFERENCES, samples=300) for name, lines in systems.items()}
    for (name, mine), their in zip(values.items(), theirs, strict=True):
        assert mine[0] == their.score and mine[1:].mean() == pytest.approx(their.mean, abs=1e-6)
        if name != "good":
            assert p_value(mine, values["good"]) == their.p_value
    assert theirs[1].p_value < 0.01 and theirs[2].p_value > 0.01
    assert p_value(values["good"], values["good"]) == 1


def test_systems_are_resampled_alike():
    good, poor = (resampled_bleu(system, REFERENCES, samples=200) for system in (GOOD, POOR))
    assert np.array_equal(good, resampled_bleu(GOOD, REFERENCES, samples=200))
    difference = interval(good - poor)
    assert 0 < difference.low < difference.value < difference.high
    alone = interval(good)
    assert alone.low < alone.value < alone.high and interval(good - good) == (0, 0, 0)


def test_a_perfect_system_has_no_spread():
    assert interval(resampled_bleu(REFERENCES, REFERENCES, samples=5)) == pytest.approx((100, 100, 100))

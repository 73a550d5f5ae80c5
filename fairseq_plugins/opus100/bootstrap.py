"""Confidence intervals of BLEU by resampling sentences (Koehn 2004), paired between systems.

Draws, and the probability that a difference is chance, are those of sacreBLEU's paired bootstrap test; here the draws
are kept, so that means over directions have intervals too.
"""

from typing import Callable, NamedTuple, Sequence

import numpy as np

from fairseq_plugins.data.bleu_counts import bleu_metric, corpus_bleu, sentence_counts

SAMPLES = 1000
SEED = 12345  # sacreBLEU's


class Interval(NamedTuple):
    """A value on the whole test set, and where 95 % of the resampled values lie."""

    value: float
    low: float
    high: float


def resampled_bleu(
    hypotheses: Sequence[str], references: Sequence[str], samples: int = SAMPLES, tokenizer: str = "13a"
) -> np.ndarray:
    """Corpus BLEU of the test set, then of `samples` draws of as many sentences with replacement.

    Draws depend on the number of sentences and the seed alone, so systems on one test set are resampled alike and their
    results can be compared draw by draw.

    Args:
        hypotheses, references: one string a sentence.
        samples: number of draws S.
        tokenizer: one of sacreBLEU's.
    Returns:
        (1 + S,) float64, on the scale of 0 to 100.
    """
    metric = bleu_metric(tokenizer)
    counts = sentence_counts(hypotheses, references, metric)
    draws = np.random.default_rng(SEED).integers(len(counts), size=(samples, len(counts)))
    sums = [counts.sum(axis=0), *(counts[draw].sum(axis=0) for draw in draws)]
    return np.array([corpus_bleu(row.tolist(), metric) for row in sums])


def interval(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> Interval:
    """The first value, and the 2.5th and 97.5th percentile of the others, of any function of the draws."""
    values = of(values)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """How likely chance alone makes two systems differ as much as they do: sacreBLEU's two-sided paired bootstrap test.

    It is 1 for systems that never differ, of which sacreBLEU says 1 / (S + 1).

    Args:
        first, second: (1 + S,), from ``resampled_bleu``.
    """
    differences = np.abs(first - second)
    if not differences.any():
        return 1.0
    spread = differences[1:] - differences[1:].mean()
    return (int((spread > differences[0]).sum()) + 1) / len(differences)

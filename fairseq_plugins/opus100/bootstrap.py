"""Confidence intervals of BLEU by resampling sentences (Koehn 2004), paired between systems."""

from typing import Callable, NamedTuple, Sequence

import numpy as np
from sacrebleu.metrics import BLEU

SAMPLES = 1000
SEED = 12345  # sacreBLEU's


class Interval(NamedTuple):
    """A value on the whole test set, and where 95 % of the resampled values lie."""

    value: float
    low: float
    high: float


def resampled_bleu(hypotheses: Sequence[str], references: Sequence[str], samples: int = SAMPLES) -> np.ndarray:
    """Corpus BLEU (13a) of the test set, then of `samples` draws of as many sentences with replacement.

    Draws depend on the number of sentences and the seed alone, so systems on one test set are resampled alike and their
    results can be compared draw by draw.

    Args:
        hypotheses, references: one string a sentence.
        samples: number of draws S.
    Returns:
        (1 + S,) float64, on the scale of 0 to 100.
    """
    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(hyp, [ref]) for hyp, ref in zip(hypotheses, references, strict=True)]
    counts = np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores])
    draws = np.random.default_rng(SEED).integers(len(counts), size=(samples, len(counts)))
    sums = [counts.sum(axis=0), *(counts[draw].sum(axis=0) for draw in draws)]
    orders = BLEU().max_ngram_order
    return np.array(
        [
            BLEU.compute_bleu(
                list(map(int, row[:orders])), list(map(int, row[orders : 2 * orders])), int(row[-2]), int(row[-1])
            ).score
            for row in sums
        ]
    )


def interval(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> Interval:
    """The first value, and the 2.5th and 97.5th percentile of the others, of any function of the draws."""
    values = of(values)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))

"""BLEU of sets of sentences from counts of each, which add up (over draws, batches, workers)."""

from typing import List, Sequence

import numpy as np
from sacrebleu.metrics import BLEU


def bleu_metric(tokenizer: str = "13a") -> BLEU:
    """Whose `sentence_score` counts; it says nothing of short sentences."""
    return BLEU(effective_order=True, tokenize=tokenizer)


def sentence_counts(hypotheses: Sequence[str], references: Sequence[str], metric: BLEU) -> np.ndarray:
    """What BLEU counts in each of N sentences.

    Args:
        hypotheses, references: one string a sentence.
        metric: see ``bleu_metric``.
    Returns:
        (N, 2 * orders + 2) int64: n-grams that match, n-grams, length of the hypothesis and of the reference.
    """
    scores = [metric.sentence_score(hyp, [ref]) for hyp, ref in zip(hypotheses, references, strict=True)]
    return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores])


def corpus_bleu(sums: Sequence[int], metric: BLEU) -> float:
    """BLEU as sacreBLEU smooths it, 0 to 100, from the sums of a set of sentences."""
    orders = metric.max_ngram_order
    row: List[int] = list(sums)
    counts, totals, (length, wanted) = row[:orders], row[orders : 2 * orders], row[2 * orders :]
    return BLEU.compute_bleu(counts, totals, length, wanted, metric.smooth_method, metric.smooth_value).score

"""Which sentence of which language comes next: sampling by size with an exponent, planned per epoch."""

from typing import NamedTuple, Sequence, Tuple

import numpy as np
from fairseq.data import FairseqDataset

# N examples of an epoch, K texts (languages or pairs)


class Text(NamedTuple):
    """Sentences of one language, or of one pair in two aligned sets."""

    languages: Tuple[str, ...]
    sentences: Tuple[FairseqDataset, ...]  # one set for each language, each item a row of tokens and the end symbol
    rows: np.ndarray  # those that are used, int64
    sizes: Tuple[np.ndarray, ...]  # tokens of every row of each set, end symbols included

    @property
    def name(self) -> str:
        """`de`, or `de-en`."""
        return "-".join(self.languages)

    def tokens(self, row: int) -> Tuple[np.ndarray, ...]:
        """Row `row` of each set, int64."""
        return tuple(sentences[row].numpy() for sentences in self.sentences)


class EpochPlan(NamedTuple):
    """The examples of one epoch, text by text."""

    text_N: np.ndarray
    row_N: np.ndarray


def probabilities(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """Share of each text: (n / sum n)^alpha, normalised (XLM, arXiv 1901.07291, Section 3.1)."""
    weights = (np.asarray(sizes, dtype=np.float64) / sum(sizes)) ** alpha
    return weights / weights.sum()


def epoch_plan(texts: Sequence[Text], examples: int, alpha: float, rng: np.random.Generator) -> EpochPlan:
    """`examples` examples of `texts`: each text has its share, rounded up or down by chance.

    No sentence comes again before all of its text have come.
    """
    upto = np.cumsum(probabilities([len(text.rows) for text in texts], alpha)) * examples
    upto = np.floor(upto + rng.random() + 1e-9).astype(int).clip(max=examples)
    upto[-1] = examples
    counts = np.diff(upto, prepend=0)
    rows = [_rounds(text.rows, int(count), rng) for text, count in zip(texts, counts, strict=True)]
    return EpochPlan(_numbers(counts.tolist()), np.concatenate(rows))


def every_row(texts: Sequence[Text]) -> EpochPlan:
    """Every sentence once, in order: for validation."""
    counts = [len(text.rows) for text in texts]
    return EpochPlan(_numbers(counts), np.concatenate([text.rows for text in texts]))


def _numbers(counts: Sequence[int]) -> np.ndarray:
    """0 as often as the first count says, then 1, ...; small, for there may be hundreds of millions."""
    return np.repeat(np.arange(len(counts), dtype=np.uint16), counts)


def _rounds(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `rows` in whole rounds of fresh order, the last one cut."""
    rounds = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)] or [rows[:0]])[:count]

"""A small grammar of five languages: meanings, and how English, German, French, Russian and Turkish write them.

Everything here belongs to this package; no sentence comes from elsewhere. `generate` draws meanings and decides which
word combinations only dev and test may hold, `meaning` is what a sentence says, `concepts` which words go together,
and one module per language holds its lexicon and its rules.
"""

from .generate import PIVOT, WRITERS, MeaningSource, split_of, split_of_sentence
from .meaning import combinations

__all__ = ["PIVOT", "WRITERS", "MeaningSource", "combinations", "split_of", "split_of_sentence"]

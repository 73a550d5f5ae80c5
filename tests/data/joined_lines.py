"""A dictionary with every symbol, texts and pairs of its pieces, and rows as words: for what reads joined lines."""

from typing import Sequence

import numpy as np
from fairseq.data import Dictionary

from fairseq_plugins.data.language_mixture import Text
from fairseq_plugins.data.symbols import dictionary_rows

from .span_texts import Sentences

PIECES = [f"x{number}" for number in range(1, 31)]
LONG = " ".join(PIECES)
WORDS = Dictionary()
for symbol in dictionary_rows(PIECES, ["de", "en"])[4:]:
    WORDS.add_symbol(symbol)


def text(**sentences: Sequence[str]) -> Text:
    """A text for each language, or a pair of two."""
    sets = tuple(Sentences([[WORDS.index(word) for word in each.split()] for each in of]) for of in sentences.values())
    return Text(tuple(sentences), sets, np.arange(len(sets[0])), tuple(one.sizes for one in sets))


def words(rows: Sequence[int]) -> str:
    """Rows as symbols; padding is -, a pseudo-mask <pmask>."""
    return " ".join("-" if row == WORDS.pad() else WORDS[row] for row in rows).replace("pseudo_", "p")


def without(symbol: str) -> Dictionary:
    """The dictionary, one symbol left out."""
    lacking = Dictionary()
    for word in WORDS.symbols[4:]:
        if word != symbol:
            lacking.add_symbol(word)
    return lacking

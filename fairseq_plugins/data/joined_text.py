"""What masked language models read: a text, or the two sentences of a pair one after the other, in one line."""

from typing import Any, Dict, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary

from .language_mixture import Text
from .objective import Objective, padded
from .symbols import MASK, PSEUDO_MASK, SENTINEL_COUNT, is_filler, is_language_tag, sentinel

# T tokens of a line, V symbols, B examples of a batch


class JoinedExample(NamedTuple):
    """Rows of the dictionary and numbers of segments, (T,) int64 each."""

    text_T: np.ndarray
    segment_T: np.ndarray


class JoinedText(Objective):
    """`<s> text </s>`, or a pair as `<s> one </s> other </s>`."""

    name = "joined"

    def __init__(self, dictionary: Dictionary):
        self.pad, self.bos, self.eos = dictionary.pad(), dictionary.bos(), dictionary.eos()
        self.tags: Dict[str, int] = {}

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Any:
        """The example of row `row` under the dice of `rng`."""
        line_T = self.line(text, row, rng)
        return JoinedExample(line_T, self.segments(line_T))

    def line(self, text: Text, row: int, rng: np.random.Generator) -> np.ndarray:
        """Row `row`, (T,) int64; which sentence of a pair comes first is chance."""
        parts = [self.tagged(*part) for part in zip(text.languages, text.tokens(row), strict=True)]
        if len(parts) == 2 and rng.integers(2):
            parts.reverse()
        return np.concatenate([[self.bos], *parts])

    def segments(self, line_T: np.ndarray) -> np.ndarray:
        """0, and 1 after the end symbol nearest to the middle: a pair's second sentence, or about half of many."""
        ends = np.flatnonzero(line_T[:-1] == self.eos) + 1
        if not len(ends):
            return np.zeros(len(line_T), dtype=np.int64)
        second = ends[np.abs(2 * ends - len(line_T)).argmin()]
        return (np.arange(len(line_T)) >= second).astype(np.int64)

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        """Tokens of the line alone: what an objective reads beside it takes no positions of its own."""
        length = np.sum(text.sizes, axis=0) + 1 + len(text.sizes) * bool(self.tags)
        return length, length

    def collate(self, examples: Sequence[Any]) -> Dict[str, Any]:
        """`net_input` for `transformer_mlm` of examples that have `text_T` and `segment_T`."""
        return {
            "net_input": {
                "src_tokens": padded([each.text_T for each in examples], self.pad),
                "src_lengths": torch.tensor([len(each.text_T) for each in examples]),
                "segments": padded([each.segment_T for each in examples], 0),
            },
            "ntokens": sum(len(each.text_T) for each in examples),
            "nsentences": len(examples),
        }


class MaskedText(JoinedText):
    """A text or a pair in one line, some of it masked: how, subclasses say in `example`.

    Args:
        dictionary: with `<mask>`.
    Raises:
        ValueError: the dictionary lacks it.
    """

    def __init__(self, dictionary: Dictionary):
        super().__init__(dictionary)
        self.mask = row_of(dictionary, MASK)
        self.maskable_V = maskable(dictionary)

    def collate(self, examples: Sequence[Any]) -> Dict[str, Any]:
        """Beside `net_input`, `target` (B, T) of examples that have a `target_T`; padding in it is not predicted."""
        return {**super().collate(examples), "target": padded([each.target_T for each in examples], self.pad)}


def maskable(dictionary: Dictionary) -> np.ndarray:
    """Which rows are pieces of text, (V,) bool: not fairseq's specials, tags, masks, sentinels or fillers."""
    special = {MASK, PSEUDO_MASK, *(sentinel(number) for number in range(1, SENTINEL_COUNT + 1))}
    piece_V = np.array(
        [not (symbol in special or is_filler(symbol) or is_language_tag(symbol)) for symbol in dictionary.symbols]
    )
    piece_V[: dictionary.nspecial] = False
    return piece_V


def row_of(dictionary: Dictionary, symbol: str) -> int:
    """The row of a symbol that must be there.

    Raises:
        ValueError: it is not.
    """
    row = dictionary.index(symbol)
    if row == dictionary.unk():
        raise ValueError(f"the dictionary has no {symbol}; add it with opus100 add-symbols")
    return row

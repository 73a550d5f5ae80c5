"""mT6's objectives (arXiv 2104.08692, Section 2): from a text to what encoder and decoder read and predict."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np
import torch

from .language_mixture import Text
from .objective import Objective, padded
from .span_corruption import SpanNoise, Stretch, corrupt, group_of_span, noise_spans, noise_tokens, shifted

# B examples of a batch, T target tokens

PADDING_GROUP = -1  # no group of the text: such a place sees itself alone


class Symbols(NamedTuple):
    """Rows of the dictionary that objectives add to text."""

    pad: int
    eos: int  # ends each sentence and parts two of them; the decoder's start
    sentinels: np.ndarray
    tags: Dict[str, int]  # language -> its tag; empty where sentences carry none


class Example(NamedTuple):
    """Rows of the dictionary, int64, without padding."""

    source: np.ndarray
    previous: np.ndarray  # what the decoder reads
    target: np.ndarray  # ends in the end symbol
    group_T: Optional[np.ndarray]  # group of each target token; None where decoding is ordinary


class _Spans(Objective):
    """An objective of mT6's.

    Args:
        symbols: rows of the dictionary.
        noise: of span corruption; None for plain translation.
        groups: at most how many independent groups of spans a target is decoded in; 1 is ordinary training.
    """

    sentences = 2  # a text has

    def __init__(self, symbols: Symbols, noise: Optional[SpanNoise] = None, groups: int = 1):
        self.symbols, self.noise, self.groups = symbols, noise, groups
        self.pad, self.tags = symbols.pad, symbols.tags

    def collate(self, examples: Sequence[Example]) -> Dict[str, Any]:
        """A batch as the engine's translation has it, with `groups` (B, T) where some target has several."""
        sources, previous, targets, groups = zip(*examples, strict=True)
        net_input = {
            "src_tokens": padded(sources, self.pad),
            "src_lengths": torch.tensor([len(source) for source in sources]),
            "prev_output_tokens": padded(previous, self.pad),
        }
        if any(group_T is not None for group_T in groups):
            whole = [
                np.zeros(len(target), dtype=np.int64) if group_T is None else group_T
                for group_T, target in zip(groups, targets, strict=True)
            ]
            net_input["groups"] = padded(whole, PADDING_GROUP)
        return {
            "net_input": net_input,
            "target": padded(targets, self.pad),
            "ntokens": sum(len(target) for target in targets),
            "nsentences": len(examples),
        }

    def _spans(self, text_L: np.ndarray, stretches: Sequence[Stretch], rng: np.random.Generator) -> Example:
        """Corrupt `stretches` of `text_L` and group what the decoder has to say."""
        assert self.noise is not None
        corrupted = corrupt(text_L, stretches, self.noise, self.symbols.sentinels, rng)
        target = np.append(corrupted.target, self.symbols.eos)
        group_T = None
        if self.groups > 1 and corrupted.spans > 1:
            span_of_target = np.append(corrupted.span_of_target, corrupted.spans - 1)  # the end is of the last group
            group_T = group_of_span(corrupted.spans, self.groups)[span_of_target]
        return Example(corrupted.source, shifted(target, self.symbols.eos, group_T), target, group_T)

    def _target_sizes(self, maskable: np.ndarray, stretches: int = 1) -> np.ndarray:
        """Masked tokens, their sentinels, the closing one and the end, for each number of tokens in `stretches`."""
        assert self.noise is not None
        most, more = len(self.symbols.sentinels) - 1, min(stretches, 2)  # short stretches: up to twice as many spans
        table = [0] + [
            noise_tokens(length, self.noise) + min(more * noise_spans(length, self.noise, most), most)
            for length in range(1, int(maskable.max()) + 1)
        ]
        return np.asarray(table)[maskable] + 2


class SpanCorruption(_Spans):
    """SC: spans of a text of one language, which may be several sentences."""

    name = "sc"
    sentences = 1

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Example:
        (tokens,) = text.tokens(row)
        source = self.tagged(text.languages[0], tokens)
        return self._spans(source, _between(source, len(source) - len(tokens), self.symbols.eos), rng)

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        return text.sizes[0] + 1, self._target_sizes(text.sizes[0], stretches=2)

    def longest_text(self, most: int) -> int:
        """Tokens of the longest text whose source and target surely have at most `most`."""
        lengths = np.arange(most)
        return int(lengths[np.maximum(lengths + 1, self._target_sizes(lengths, stretches=2)) <= most].max(initial=0))


class Translation(_Spans):
    """MT: one sentence of a pair from the other, which is chance; a tag is that of the target's language."""

    name = "mt"

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Example:
        source, target = _order(rng)
        tokens = text.tokens(row)
        tagged = self.tagged(text.languages[target], tokens[source])
        return Example(tagged, shifted(tokens[target], self.symbols.eos), tokens[target], None)

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        longest = np.maximum(*text.sizes)
        return longest + 1, longest


class _Pair(_Spans):
    """Two sentences of a pair as one text, `s1 </s> s2 </s>`, in an order of chance (separator and order are ours)."""

    def _pair(self, text: Text, row: int, rng: np.random.Generator) -> Tuple[np.ndarray, List[Stretch]]:
        order, tokens = _order(rng), text.tokens(row)
        parts = [self.tagged(text.languages[side], tokens[side]) for side in order]
        ends = np.cumsum([len(part) for part in parts])
        stretches = [(int(end - len(tokens[side])), int(end - 1)) for end, side in zip(ends, order, strict=True)]
        return np.concatenate(parts), stretches


class TranslationPairSpanCorruption(_Pair):
    """TPSC: spans of both sentences, sentinels numbered on over the pair."""

    name = "tpsc"

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Example:
        return self._spans(*self._pair(text, row, rng), rng)

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        both = text.sizes[0] + text.sizes[1]
        return both + 2, self._target_sizes(both, stretches=2)


class TranslationSpanCorruption(_Pair):
    """TSC: spans of one sentence, which is chance; the other stays whole."""

    name = "tsc"

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Example:
        tokens, stretches = self._pair(text, row, rng)
        return self._spans(tokens, [stretches[int(rng.integers(2))]], rng)

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        return text.sizes[0] + text.sizes[1] + 2, self._target_sizes(np.maximum(*text.sizes))


OBJECTIVES: Dict[str, Type[_Spans]] = {
    objective.name: objective
    for objective in (SpanCorruption, Translation, TranslationPairSpanCorruption, TranslationSpanCorruption)
}


def _order(rng: np.random.Generator) -> Tuple[int, int]:
    """Which sentence of a pair comes first, and which second."""
    first = int(rng.integers(2))
    return first, 1 - first


def _between(tokens: np.ndarray, start: int, eos: int) -> List[Stretch]:
    """Stretches from `start` on without end symbols."""
    stretches = []
    for end in np.flatnonzero(tokens == eos):
        if end > start:
            stretches.append((start, int(end)))
        start = int(end) + 1
    return stretches

"""Span corruption: spans of a text become sentinels, and the target spells the spans out.

T5 (arXiv 1910.10683, Section 3.1.4) and mT6 (arXiv 2104.08692, Section 2), whose figures have a closing sentinel where
the text does not end in a span, and whose partially non-autoregressive decoding splits the spans into groups.
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

# L tokens of a text, T tokens of a target
Stretch = Tuple[int, int]  # start and end of tokens that may be masked; what lies between two stretches never is


class SpanNoise(NamedTuple):
    """How much is masked.

    Raises:
        ValueError: from `checked`.
    """

    density: float  # share of the tokens
    mean_length: float  # of a span, in tokens

    def checked(self, density: str, length: str, whole: bool = False) -> "SpanNoise":
        """Itself, if its values are sensible; `density` and `length` are the flags they came from.

        Args:
            whole: 1 is a density too: all of the text is one span.
        """
        if not (0 < self.density < 1 or (whole and self.density == 1)):
            raise ValueError(f"{density} {self.density:g} must be above 0 and {'at most' if whole else 'below'} 1")
        if not 1 <= self.mean_length < math.inf:
            raise ValueError(f"{length} {self.mean_length:g} must be at least 1, and finite")
        return self


class Corrupted(NamedTuple):
    """A text after span corruption; all rows of the dictionary, int64."""

    source: np.ndarray
    target: np.ndarray  # sentinel, span, sentinel, span, ..., perhaps a closing sentinel; no end symbol
    span_of_target: np.ndarray  # which span each token of `target` belongs to; the closing sentinel to the last
    spans: int


def noise_tokens(length: int, noise: SpanNoise) -> int:
    """Tokens of `length` that are masked: T5's rule, at least one stays and one goes; all of them with density 1."""
    if noise.density == 1:
        return length
    return max(1, min(round(length * noise.density), length - 1))


def noise_spans(length: int, noise: SpanNoise, most: int) -> int:
    """Spans in `length` tokens: T5's rule, and no more than there are kept tokens to part them, nor than `most`."""
    masked = noise_tokens(length, noise)
    return max(1, min(round(masked / noise.mean_length), length - masked, most))


def corrupt(
    text_L: np.ndarray,
    stretches: Sequence[Stretch],
    noise: SpanNoise,
    sentinels: np.ndarray,
    rng: np.random.Generator,
) -> Corrupted:
    """Replace spans of `text_L`, drawn by `draw_spans`, by sentinels.

    Args:
        text_L: rows of the dictionary, int64.
        stretches: (start, end) of what may be masked, in order, apart, at least one of them not empty.
        noise: density and mean length of spans.
        sentinels: rows of the sentinels, in order; the last is left for closing.
        rng: the only source of chance.
    """
    spans = draw_spans(stretches, noise, len(sentinels) - 1, rng)
    return replace_spans(text_L, spans, max(end for begin, end in stretches if end > begin), sentinels)


def draw_spans(
    stretches: Sequence[Stretch], noise: SpanNoise, most: int, rng: np.random.Generator
) -> Tuple[np.ndarray, np.ndarray]:
    """Start and length of each span, in order, `most` of them at most.

    The number of masked tokens and of spans is T5's for all stretches together. Stretches too short for that have up to
    twice as many, shorter spans, and less is masked where even those do not fit. A span begins after a kept token of
    its own stretch, so no two touch and none covers what parts the stretches; all such places are equally likely.
    """
    lengths = [end - start for start, end in stretches]
    starts, sizes = [], []
    for (begin, end), spans in zip(stretches, _span_lengths(lengths, noise, most, rng), strict=True):
        if len(spans):
            places = _slots(end - begin - int(spans.sum()), len(spans), rng)
            starts.append(begin + places + np.cumsum(spans) - spans)
            sizes.append(spans)
    return np.concatenate(starts), np.concatenate(sizes)


def replace_spans(
    text_L: np.ndarray, spans: Tuple[np.ndarray, np.ndarray], end: int, sentinels: np.ndarray
) -> Corrupted:
    """`text_L` with a sentinel for each span, numbered in order of appearance, and the target that spells them out.

    Args:
        text_L: rows of the dictionary, int64.
        spans: start and length of each, in order, apart.
        end: of the last text that could be masked; if no span reaches it, a closing sentinel says that text goes on.
        sentinels: rows of the sentinels, more than there are spans.
    """
    start, size = spans
    # +1 where a span begins, -1 after its end: the running sum is 1 inside
    edges = np.zeros(len(text_L) + 1, dtype=np.int64)
    edges[start] += 1
    edges[start + size] -= 1
    masked = np.cumsum(edges[:-1]).astype(bool)
    source = text_L.copy()
    source[start] = sentinels[: len(start)]
    kept = ~masked
    kept[start] = True

    target = np.insert(text_L[masked], np.cumsum(size) - size, sentinels[: len(start)])
    span_of_target = np.repeat(np.arange(len(start)), size + 1)
    if start[-1] + size[-1] != end:
        target = np.append(target, sentinels[len(start)])
        span_of_target = np.append(span_of_target, len(start) - 1)
    return Corrupted(source[kept], target, span_of_target, len(start))


def group_of_span(spans: int, groups: int) -> np.ndarray:
    """Group of each span: contiguous, as equal as can be, the first ones larger; never more groups than spans.

    mT6, Section 2.3; which groups are larger is ours.
    """
    groups = min(groups, spans)
    size, larger = divmod(spans, groups)
    return np.repeat(np.arange(groups), [size + (number < larger) for number in range(groups)])


def shifted(target_T: np.ndarray, start: int, group_T: Optional[np.ndarray] = None) -> np.ndarray:
    """What the decoder reads: the target moved by one, beginning with `start`, and again at each new group.

    Without the second part the last token of a group would leak into the next one.
    """
    previous = np.concatenate(([start], target_T[:-1]))
    if group_T is not None:
        previous[1:][np.diff(group_T) != 0] = start
    return previous


def _span_lengths(lengths: Sequence[int], noise: SpanNoise, most: int, rng: np.random.Generator) -> List[np.ndarray]:
    """Lengths of the spans in each stretch."""
    total = sum(lengths)
    masked, spans = noise_tokens(total, noise), noise_spans(total, noise, most)
    if len(lengths) == 1:
        return [_composition(masked, spans, rng)]
    length, shares, offset = np.array(lengths), np.cumsum(lengths) / total, rng.random()
    counts, room = np.zeros_like(length), np.zeros_like(length)
    for number in range(spans, min(2 * spans, most) + 1):
        # systematic sampling: a stretch has its share of the spans, rounded up or down by chance, and the sum is exact
        each = np.diff(np.floor(shares * number + offset + 1e-9).astype(int), prepend=0)
        each = np.minimum(each, length // 2)  # each span after a kept token of its own
        left = np.where(each > 0, length - 2 * each, 0)  # tokens beyond one for each span
        if left.sum() + each.sum() > room.sum() + counts.sum():
            counts, room = each, left
        if room.sum() + counts.sum() >= masked:
            break
    if not counts.any():  # words that stand alone: one of them goes
        counts[int(np.argmax(length))] = 1
    more = min(max(masked - int(counts.sum()), 0), int(room.sum()))
    tokens = counts + rng.multivariate_hypergeometric(room, more, method="marginals")
    return [_composition(int(own), int(count), rng) for own, count in zip(tokens, counts, strict=True)]


def _composition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`parts` positive integers of sum `total`, all such lists equally likely."""
    if not parts:
        return np.zeros(0, dtype=np.int64)
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.zeros(0, dtype=np.int64)
    return np.diff(np.concatenate(([0], cuts, [total])))


def _slots(kept: int, spans: int, rng: np.random.Generator) -> np.ndarray:
    """Kept tokens before each of `spans` spans: different numbers from 1 to `kept`, in order; 0 where none is kept."""
    if kept == 0:
        return np.zeros(1, dtype=np.int64)
    return np.sort(rng.choice(kept, spans, replace=False)) + 1

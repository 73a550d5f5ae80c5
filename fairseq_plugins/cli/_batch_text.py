"""A batch of `show-batch` as text for a terminal: aligned rows of words, and masks as grids of blocks."""

import unicodedata
from typing import Any, Dict, Iterator, List, Tuple

from fairseq_plugins.data.readable_batch import ReadableExample

NAME = 15  # columns for the names of rows
SEEN, UNSEEN = "\u2588", "\u00b7"
LABEL = 14  # columns for the word beside a line of a grid


def text(batch: Any, width: int, blocks: bool = True) -> str:
    """Title, rows and grids.

    Args:
        batch: a `_batch_reader.Batch`.
        width: columns.
        blocks: whether block characters can be printed; otherwise # and .
    """
    lines = [batch.title]
    for number, example in enumerate(batch.examples, 1):
        title = f"-- example {number} of {batch.count}" + (f", {example.title} " if example.title else " ")
        lines += ["", title.ljust(width, "-")]
        for block in aligned_rows(example.rows):
            lines += _block(block, width)
        if example.sees_TT is not None:
            lines += _grid(example, width, *((SEEN, UNSEEN) if blocks else ("#", ".")))
    return "\n".join(line.rstrip() for line in lines)


def aligned_rows(rows: Dict[str, List[str]]) -> List[Dict[str, List[str]]]:
    """Rows that follow each other and have the same length, together."""
    blocks: List[Dict[str, List[str]]] = []
    for name, words in rows.items():
        if blocks and len(next(iter(blocks[-1].values()))) == len(words) and name != "decoder input":
            blocks[-1][name] = words
        else:
            blocks.append({name: words})
    return blocks


def columns_of(word: str) -> int:
    """Columns that a word takes in a terminal: two for wide characters, none for marks that combine."""
    wide = sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in word)
    return wide - sum(1 for character in word if unicodedata.combining(character))


def padded(word: str, columns: int, right: bool = False) -> str:
    space = " " * (columns - columns_of(word))
    return space + word if right else word + space


def _block(block: Dict[str, List[str]], width: int) -> Iterator[str]:
    places = list(zip(*block.values(), strict=True))
    for start, end, columns in _chunks(places, width - NAME):
        for name, words in block.items():
            cells = [padded(word, wide) for word, wide in zip(words[start:end], columns, strict=True)]
            yield padded(name if start == 0 else "", NAME) + " ".join(cells)
        if len(block) > 1 and end < len(places):
            yield ""


def _chunks(places: List[Tuple[str, ...]], room: int) -> Iterator[Tuple[int, int, List[int]]]:
    """(first, end, columns of each) of the places that fit into a line."""
    start, columns, used = 0, [], 0
    for number, words in enumerate(places):
        wide = max(map(columns_of, words))
        if columns and used + wide > room:
            yield start, number, columns
            start, columns, used = number, [], 0
        columns.append(wide)
        used += wide + 1
    if columns:
        yield start, len(places), columns


def _grid(example: ReadableExample, width: int, seen: str, unseen: str) -> Iterator[str]:
    """A line for each place: its word, and a block for each place that it may look at."""
    sees_TT = example.sees_TT
    most = min(len(sees_TT), width - LABEL - 2)
    cut = "" if most == len(sees_TT) else f" (the first {most} of {len(sees_TT)} places)"
    yield f"who sees whom: {example.of}{cut}"
    for word, row in zip(example.rows[example.of][:most], sees_TT[:most], strict=True):
        while columns_of(word) > LABEL:
            word = word[:-1]
        yield f"{padded(word, LABEL, right=True)}  " + "".join(seen if looks else unseen for looks in row[:most])

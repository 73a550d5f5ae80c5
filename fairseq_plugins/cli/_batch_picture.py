"""A batch of `show-batch` as one SVG: the rows of every example, and its mask as a grid coloured by group."""

import html
from typing import Any, List, Tuple

from fairseq_plugins.cli._batch_text import aligned_rows, columns_of
from fairseq_plugins.data.readable_batch import ReadableExample

WIDTH, LEFT, NAME = 1000, 20, 130
CELL, LINE, COLUMN = 13, 18, 7.3  # a place of the grid, a line of text, a character of it
MOST = 60  # places of a grid
COLOURS = ("#1f4fbf", "#dc6912", "#109618", "#990099", "#b82e2e", "#0099c6")
STYLE = (
    "text { font-family: ui-monospace, monospace; font-size: 12px; fill: #222; white-space: pre } "
    ".title { font-family: system-ui, sans-serif; font-size: 14px; font-weight: 600 } .name { fill: #777 } "
    ".unseen { fill: #f1f1f1 } .small { font-size: 10px }"
)


def picture(batch: Any) -> str:
    """One SVG file that needs nothing else.

    Args:
        batch: a `_batch_reader.Batch`.
    """
    parts, top = [_text(LEFT, 26, batch.title, "title")], 50.0
    for number, example in enumerate(batch.examples, 1):
        title = f"example {number} of {batch.count}" + (f", {example.title}" if example.title else "")
        parts.append(_text(LEFT, top + 12, title, "title"))
        more, top = _rows(example, top + 2 * LINE)
        parts += more
        if example.sees_TT is not None:
            more, top = _grid(example, top + LINE)
            parts += more
        top += 2 * LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" width="{WIDTH}" height="{top:g}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _rows(example: ReadableExample, top: float) -> Tuple[List[str], float]:
    """Every word in its place; rows of one block are aligned."""
    parts = []
    for block in aligned_rows(example.rows):
        x = float(LEFT + NAME)
        for place, words in enumerate(zip(*block.values(), strict=True)):
            wide = (max(map(columns_of, words)) + 1) * COLUMN
            if x + wide > WIDTH - LEFT and x > LEFT + NAME:
                x, top = float(LEFT + NAME), top + len(block) * LINE + 4
            for line, (name, word) in enumerate(zip(block, words, strict=True)):
                if place == 0:
                    parts.append(_text(LEFT, top + line * LINE, name, "name"))
                parts.append(_text(x, top + line * LINE, word))
            x += wide
        top += len(block) * LINE + 6
    return parts, top


def _grid(example: ReadableExample, top: float) -> Tuple[List[str], float]:
    """Queries from top to bottom with their words, keys from left to right, what is predicted at the right."""
    sees_TT, words = example.sees_TT[:MOST, :MOST], example.rows[example.of][:MOST]
    groups = example.rows[example.groups] if example.groups else ["1"] * len(words)
    kinds = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    left, parts = LEFT + NAME, []
    cut = "" if len(sees_TT) == len(example.sees_TT) else f", the first {MOST} of {len(example.sees_TT)} places"
    parts.append(_text(LEFT, top, f"who sees whom: {example.of}{cut}", "name"))
    top += 8
    for query, row in enumerate(sees_TT):
        y = top + query * CELL
        label = html.escape(words[query][:16])
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{y + 10:g}">{label}</text>')
        colour = COLOURS[kinds[groups[query]] % len(COLOURS)]
        for key, seen in enumerate(row):
            fill = f'fill="{colour}"' if seen else 'class="unseen"'
            parts.append(f'<rect {fill} x="{left + key * CELL}" y="{y:g}" width="{CELL - 1}" height="{CELL - 1}"/>')
        if example.predicts:
            said = f"\u2192 {example.rows[example.predicts][query][:24]}"
            parts.append(_text(left + len(row) * CELL + 8, y + 10, said, "small"))
    return parts, top + len(sees_TT) * CELL


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:g}" y="{y:g}">{html.escape(words)}</text>'

"""The picture of variance.py's tables: how many times p_G's variance p_S has, over the updates of checkpoints.

    python variance_picture.py sampled.csv exact.csv --output picture.svg

A panel for each way of drawing: all masked places, one of each text, and one with every symbol read (--exact). Below
the line at 1 p_S varies less than p_G.
"""

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.charts import HEIGHT, WIDTH, colour, line_chart
from fairseq_plugins.opus100.files import plain_os_errors, write_whole

HEAD, GAP = 62, 14  # above the panels, between them
TITLES = {
    "all": "all masked places, loss of the batch",
    "one": "one place of each text, its loss",
    "exact": "one place, exactly, small vocabulary",
}
# the table's quantity, by panel, and the legend's word
DRAWN = {
    ("all", "variance of loss, batch"): "loss",
    ("all", "variance of gradient"): "gradient",
    ("one", "variance of loss, places"): "loss",
    ("one", "variance of gradient"): "gradient",
}
STYLE = (
    "text { font-family: system-ui, sans-serif; font-size: 11px; fill: #222 } .grid { stroke: #ddd } "
    ".title { font-size: 13px; font-weight: 600 }"
)
Lines = Dict[str, List[Tuple[int, float]]]


def read(path: Path) -> List[Dict[str, str]]:
    """The rows of a table.

    Raises:
        UserError: it is missing, or none of variance.py.
    """
    with plain_os_errors(path), path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"updates", "hardness"} <= set(rows[0]):
        raise UserError(f"{path} is no table that variance.py wrote")
    return rows


def panels(rows: Sequence[Dict[str, str]]) -> Dict[str, Lines]:
    """Panel -> line -> (updates, log2 of p_S's variance over p_G's)."""
    found: Dict[str, Lines] = {}

    def add(panel: str, row: Dict[str, str], what: str, ratio: str) -> None:
        line = found.setdefault(panel, {}).setdefault(f"HP_{row['hardness'].capitalize()}, {what}", [])
        line.append((int(row["updates"]), math.log2(float(ratio))))

    for row in rows:
        if row.get("drawn_from") == "p_S":
            add("exact", row, "loss", row["loss_ratio"])
            add("exact", row, "gradient", row["gradient_ratio"])
        elif (row.get("drawn"), row.get("quantity")) in DRAWN:
            add(row["drawn"], row, DRAWN[row["drawn"], row["quantity"]], row["value"])
    return {panel: {name: sorted(found[panel][name]) for name in sorted(found[panel])} for panel in TITLES
            if panel in found}  # fmt: skip


def picture(found: Dict[str, Lines]) -> str:
    """One SVG file that needs nothing else."""
    names = sorted({name for lines in found.values() for name in lines})
    width = len(found) * (WIDTH + GAP)
    parts = ['<text class="title" x="10" y="18">log2 (variance under p_S / variance under p_G); 0: the same, '
             "1: twice as much, -1: half</text>"]  # fmt: skip
    for number, name in enumerate(names):
        x = 10 + 130 * number
        parts.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{colour(number)}"/>')
        parts.append(f'<text x="{x + 14}" y="37">{name}</text>')
    for number, (panel, lines) in enumerate(found.items()):
        x = number * (WIDTH + GAP)
        chart = line_chart(TITLES[panel], {name: lines.get(name, []) for name in names})  # one order of colours
        parts.append(f'<text x="{x + 50}" y="{HEAD - 4}">{TITLES[panel]}</text>')
        parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEAD + HEIGHT}" width="{width}" '
        f'height="{HEAD + HEIGHT}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def main(words: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE", help="CSV files of variance.py")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="receives the picture, as SVG")
    args = parser.parse_args(words)
    found = panels([row for path in args.tables for row in read(path)])
    with plain_os_errors(args.output):
        write_whole(args.output, picture(found).encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

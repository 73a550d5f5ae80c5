"""Published results on OPUS-100 as facts, and averages of any table over exactly the same directions.

zhang2020.tsv holds BLEU of ten many-to-many systems of Zhang et al. (2020, arXiv 2004.11867) for 188 supervised and 30
zero-shot directions, one decimal, from the authors' table per language. Of DeepNet (arXiv 2203.00555, Table 2) averages
alone are known.
"""

import csv
from pathlib import Path
from typing import Any, Dict

from fairseq_plugins.opus100 import release
from fairseq_plugins.opus100.tables import averages

# system -> group -> mean BLEU; the paper's baselines of 12, 24 and 48 layers are Zhang et al.'s 6L, 12L and 24L with
# MATT, LaLN and LaLT, to the digit
AVERAGES_ALONE = {
    "DeepNet, 200 layers, 863M": {"x-en": 33.2, "en-x": 29.0},
    "DeepNet, 1,000 layers, 3.8B": {"x-en": 33.9, "en-x": 30.2},
}


def published_bleu() -> Dict[str, Dict[str, float]]:
    """System -> direction -> BLEU. Layers (L) are those of the encoder, and as many of the decoder."""
    with open(Path(__file__).with_name("zhang2020.tsv"), encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {name: {row["direction"]: float(row[name]) for row in rows} for name in rows[0] if name != "direction"}


def release_averages(bleu: Dict[str, float]) -> Dict[str, Any]:
    """``tables.averages`` over the release's groups: all 94 pairs, or no average.

    Args:
        bleu: direction -> BLEU on the release's test sets.
    """
    rows = [{"direction": direction, "bleu": value} for direction, value in bleu.items()]
    sizes = {direction: release.train_lines(direction) for direction in release.DIRECTIONS}
    return averages(rows, release.DIRECTIONS, release.PIVOT, False, sizes)

"""How often the generator puts the original token back, over the course of trainings of `--arch electra`.

    python sampled_originals.py electra.log hp_loss.log hp_dist.log --output results

Each log is what `--log-format json --log-file` wrote; its name is the arm's, and `arm.2.log` is another seed of `arm`.
The first arm is what the others are compared with. Writes, for every tenth of training, the share of replacements that
equal the original, mean over seeds, with its difference to the first arm (sampled_originals.csv), and a picture
(sampled_originals.svg). Intervals hold 95 % of the means of 2,000 bootstrap samples of the log's lines of that tenth,
each seed's own, taken as independent: they speak of the noise of batches, not of other seeds.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.charts import colour, line_chart
from fairseq_plugins.opus100.files import plain_os_errors, write_whole

TENTHS = 10
SAMPLES = 2000
Points = List[Tuple[int, float]]  # (update, percent)


def read_points(path: Path) -> Points:
    """The share at every line of a log; of updates that were made twice, after a restart, the later line.

    Raises:
        UserError: no such file, or no line that tells the share.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the --log-file of a training") from None
    found: Dict[int, float] = {}
    for words in text.splitlines():
        try:
            line = json.loads(words)
            found[int(line["num_updates"])] = float(line["sampled_original"])
        except (ValueError, KeyError, TypeError):  # other lines, and the last one of a training that was killed
            continue
    if not found:
        raise UserError(f"{path}: has no line with sampled_original; give the --log-file of --arch electra, in json")
    return sorted(found.items())


def tenths(points: Points, updates: int) -> List[np.ndarray]:
    """The shares of each tenth of training."""
    which = [min(TENTHS - 1, (update - 1) * TENTHS // updates) for update, _ in points]
    shares = np.array([share for _, share in points])
    return [shares[np.equal(which, number)] for number in range(TENTHS)]


def bootstrap(parts: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means of each part, averaged over parts, of `SAMPLES` samples."""
    means = [part[rng.integers(len(part), size=(SAMPLES, len(part)))].mean(axis=1) for part in parts]
    return np.mean(means, axis=0)


def compare(arms: Dict[str, List[Points]]) -> List[Dict[str, Any]]:
    """One row for each arm and tenth.

    Raises:
        UserError: a tenth of a training has no line in its log.
    """
    updates = max(points[-1][0] for logs in arms.values() for points in logs)
    rng = np.random.default_rng(1)
    first: List[Tuple[float, np.ndarray]] = []
    rows = []
    for arm, logs in arms.items():
        for number in range(TENTHS):
            parts = [tenths(points, updates)[number] for points in logs]
            if any(len(part) == 0 for part in parts):
                raise UserError(f"{arm}: nothing logged in tenth {number + 1} of {updates} updates; is it finished?")
            mean, samples = float(np.mean([part.mean() for part in parts])), bootstrap(parts, rng)
            row: Dict[str, Any] = {"arm": arm, "seeds": len(logs), "updates_to": (number + 1) * updates // TENTHS}
            row.update(sampled_original=mean, **interval("", samples))
            if len(first) > number and arm != next(iter(arms)):
                row.update(difference=mean - first[number][0], **interval("difference_", samples - first[number][1]))
            else:
                first.append((mean, samples))
            rows.append(row)
    return rows


def interval(name: str, samples: np.ndarray) -> Dict[str, float]:
    """What holds 95 % of the samples."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return {f"{name}low": float(low), f"{name}high": float(high)}


def write(rows: List[Dict[str, Any]], folder: Path) -> None:
    """Table and picture."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.2f}" if isinstance(value, float) else value for key, value in row.items()})
    lines: Dict[str, Points] = defaultdict(list)
    for row in rows:
        lines[row["arm"]].append((row["updates_to"], row["sampled_original"]))
    with plain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "sampled_originals.csv", table.getvalue().encode())
        write_whole(folder / "sampled_originals.svg", picture(dict(lines)).encode())


def picture(lines: Dict[str, Points]) -> str:
    """A picture that stands alone: frame, legend and style."""
    chart = line_chart("replacements that equal the original, in percent, by updates", lines)
    legend = "".join(
        f'<text x="60" y="{20 + 14 * number}" fill="{colour(number)}">{arm}</text>' for number, arm in enumerate(lines)
    )
    style = "<style>text{font:11px sans-serif}.grid{stroke:#ddd}</style>"
    chart = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return chart.replace("</title>", f"</title>{style}", 1).replace("</svg>", f"{legend}</svg>") + "\n"


def main(words: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="arm.log, or arm.SEED.log")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    args = parser.parse_args(words)
    arms: Dict[str, List[Points]] = defaultdict(list)
    try:
        for path in args.logs:
            arms[re.sub(r"\.\d+$", "", path.stem)].append(read_points(path))
        rows = compare(arms)
        write(rows, args.output)
    except UserError as error:
        sys.exit(f"error: {error}")
    for row in rows:
        change = "difference" in row and f", {row['difference']:+.1f} [{row['difference_low']:+.1f}, {row['difference_high']:+.1f}]"
        print(f"{row['arm']} to update {row['updates_to']}: {row['sampled_original']:.1f} %"
              f"{change or ''}")  # fmt: skip


if __name__ == "__main__":
    main()

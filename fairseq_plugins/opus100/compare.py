"""Compare systems on the same test sets: BLEU, differences and shares of a gain, each with its 95 % interval.

Sentences of every direction are resampled (paired bootstrap, Koehn 2004), the same ones for all systems; a value is the
mean over directions. --gain-of NAME adds how much of that system's gain over the baseline each system keeps: what is
asked of a pruned or distilled model. An interval says how much a difference owes to the choice of test sentences, and
nothing about another training seed.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.bootstrap import SAMPLES, Interval, interval, resampled_bleu
from fairseq_plugins.opus100.files import plain_os_errors, write_json, write_whole
from fairseq_plugins.opus100.run_folder import make_folder, read_manifest
from fairseq_plugins.opus100.scoring import hypothesis_path, read_pair, reference_path
from fairseq_plugins.opus100.tables import evaluated_directions, select_directions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``compare``."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA", help="folder written by prepare")
    add("--results", type=Path, nargs="+", required=True, metavar="DIR", help="folders written by evaluate")
    add("--names", nargs="+", metavar="NAME", help="in the order of --results (default: the folders' names)")
    add("--baseline", metavar="NAME", help="differences are to this system (default: the first)")
    add("--gain-of", metavar="NAME", help="also the share of this system's gain over the baseline that others keep")
    add("--subset", choices=["dev", "test"], default="test", help="default: %(default)s")
    add("--directions", default="supervised", metavar="A-B,...",
        help="these, or supervised, or zero-shot (default: %(default)s)")  # fmt: skip
    add("--samples", type=int, default=SAMPLES, metavar="N", help="resampled test sets (default: %(default)s)")
    add("--output", type=Path, metavar="DIR", help="folder for comparison.json and comparison.md")


def run(args: argparse.Namespace) -> None:
    """Resample, print the table, write it.

    Raises:
        UserError: names that do not fit, a missing or shorter hypothesis file.
    """
    names = args.names or [path.name for path in args.results]
    if len(names) != len(args.results) or len(set(names)) != len(names):
        raise UserError(
            f"--names {' '.join(names)}: give one name for each of the {len(args.results)} --results, all different"
        )
    for flag, name in (("--baseline", args.baseline), ("--gain-of", args.gain_of)):
        if name is not None and name not in names:
            raise UserError(f"{flag} {name} is not among the names {', '.join(names)}")
    if args.samples < 100:
        raise UserError(f"--samples {args.samples} must be at least 100")
    baseline = args.baseline or names[0]
    directions = select_directions(evaluated_directions(read_manifest(args.data), args.subset), args.directions)
    bleu = {name: mean_bleu(args, folder, directions) for name, folder in zip(names, args.results, strict=True)}
    rows = compare(bleu, baseline, args.gain_of)
    table = markdown(rows, baseline, args.gain_of)
    print(table, end="")
    if args.output:
        with plain_os_errors(args.output):
            make_folder(args.output, "--output")
            record = {"baseline": baseline, "gain_of": args.gain_of, "subset": args.subset, "directions": directions}
            write_json(args.output / "comparison.json", {**record, "samples": args.samples, "systems": rows})
            write_whole(args.output / "comparison.md", table.encode())


def mean_bleu(args: argparse.Namespace, folder: Path, directions: List[str]) -> np.ndarray:
    """(1 + S,) mean over the directions of each draw's BLEU."""
    return np.mean([direction_bleu(args, folder, direction) for direction in directions], axis=0)


def direction_bleu(args: argparse.Namespace, folder: Path, direction: str) -> np.ndarray:
    """(1 + S,) BLEU of one direction."""
    path, reference = hypothesis_path(folder, direction), reference_path(args.data, args.subset, direction)
    return resampled_bleu(*read_pair(path, reference), args.samples)


def compare(bleu: Dict[str, np.ndarray], baseline: str, gain_of: Any) -> List[Dict[str, Any]]:
    """One row per system.

    Args:
        bleu: name -> (1 + S,) BLEU, draws paired.
        baseline: name.
        gain_of: name, or None.
    """
    rows = []
    for name, values in bleu.items():
        row: Dict[str, Any] = {"name": name, "bleu": interval(values)._asdict()}
        if name != baseline:
            row["difference"] = interval(values - bleu[baseline])._asdict()
            if gain_of is not None and name != gain_of:
                # where a draw shows hardly any gain its share is huge, either way: the interval says so
                gain = bleu[gain_of] - bleu[baseline]
                row["share"] = interval((values - bleu[baseline]) / np.where(gain == 0, np.inf, gain))._asdict()
        rows.append(row)
    return rows


def markdown(rows: List[Dict[str, Any]], baseline: str, gain_of: Any) -> str:
    """The table, with 95 % intervals in brackets."""
    heads = ["system", "BLEU", f"difference to {baseline}", *([f"share of the gain of {gain_of}"] if gain_of else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [row["name"], shown(row["bleu"]), shown(row.get("difference"), signed=True)]
        if gain_of:
            cells.append(shown(row.get("share"), factor=100, unit=" %"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(values: Any, *, signed: bool = False, factor: float = 1, unit: str = "") -> str:
    """`value [low, high]`, or nothing."""
    if values is None:
        return ""
    found = Interval(**values)
    value, low, high = (f"{factor * number:{'+' if signed else ''}.1f}" for number in found)
    return f"{value}{unit} [{low}, {high}]"

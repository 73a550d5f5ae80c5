"""Compare systems on the same test sets: BLEU, differences and shares of a gain, each with its 95 % interval.

Sentences of every direction are resampled (paired bootstrap, Koehn 2004), the same ones for all systems. The first
table has means over directions, and how many directions are better or worse beyond chance (p < 0.05); the second has
every direction with its p. --gain-of NAME adds how much of that system's gain over the baseline each system keeps: what
is asked of a pruned or distilled model. An interval says how much a difference owes to the choice of test sentences,
and nothing about another training seed.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.bootstrap import SAMPLES, Interval, interval, p_value, resampled_bleu
from fairseq_plugins.opus100.files import plain_os_errors, write_json, write_whole
from fairseq_plugins.opus100.run_folder import make_folder, read_manifest
from fairseq_plugins.opus100.scoring import hypothesis_path, own_tokenizer, read_pair, reference_path
from fairseq_plugins.opus100.tables import evaluated_directions, select_directions

SIGNIFICANT = 0.05  # of p


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
    add("--own-tokenizers", action="store_true",
        help="BLEU with the words of each language, as in evaluate's column BLEU own (default: 13a)")  # fmt: skip
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
    if not 100 <= args.samples <= 1_000_000:
        raise UserError(f"--samples {args.samples} must be at least 100 and at most 1,000,000")
    baseline = args.baseline or names[0]
    directions = select_directions(evaluated_directions(read_manifest(args.data), args.subset), args.directions)
    bleu = {name: resample(args, folder, directions) for name, folder in zip(names, args.results, strict=True)}
    rows = compare(bleu, baseline, args.gain_of)
    by_direction = compare_directions(bleu, baseline, directions)
    table = markdown(rows, baseline, args.gain_of) + "\n" + directions_markdown(by_direction, baseline)
    print(table, end="")
    if args.output:
        with plain_os_errors(args.output):
            make_folder(args.output, "--output")
            record = {"baseline": baseline, "gain_of": args.gain_of, "subset": args.subset, "directions": directions,
                      "samples": args.samples, "own_tokenizers": args.own_tokenizers}  # fmt: skip
            write_json(args.output / "comparison.json", {**record, "systems": rows, "by_direction": by_direction})
            write_whole(args.output / "comparison.md", table.encode())


def resample(args: argparse.Namespace, folder: Path, directions: List[str]) -> np.ndarray:
    """(directions, 1 + S) BLEU of one system: of each direction's test set, then of the draws from it."""
    return np.stack([direction_bleu(args, folder, direction) for direction in directions])


def direction_bleu(args: argparse.Namespace, folder: Path, direction: str) -> np.ndarray:
    """(1 + S,) BLEU of one direction."""
    path, reference = hypothesis_path(folder, direction), reference_path(args.data, args.subset, direction)
    tokenizer = own_tokenizer(direction.split("-")[1]) if args.own_tokenizers else "13a"
    return resampled_bleu(*read_pair(path, reference), args.samples, tokenizer)


def compare(bleu: Dict[str, np.ndarray], baseline: str, gain_of: Any) -> List[Dict[str, Any]]:
    """One row per system.

    Args:
        bleu: name -> (directions, 1 + S) BLEU, draws paired.
        baseline: name.
        gain_of: name, or None.
    """
    rows = []
    means = {name: values.mean(axis=0) for name, values in bleu.items()}
    for name, mean in means.items():
        row: Dict[str, Any] = {"name": name, "bleu": interval(mean)._asdict()}
        if name != baseline:
            row["difference"] = interval(mean - means[baseline])._asdict()
            row["directions"] = significant(bleu[name], bleu[baseline])._asdict()
            if gain_of is not None and name != gain_of:
                # where a draw shows hardly any gain its share is huge, either way: the interval says so
                gain = means[gain_of] - means[baseline]
                row["share"] = interval((mean - means[baseline]) / np.where(gain == 0, np.inf, gain))._asdict()
        rows.append(row)
    return rows


class Significant(NamedTuple):
    """Directions in which a system differs from the baseline beyond chance, and all others."""

    better: int
    worse: int
    undecided: int


def significant(bleu: np.ndarray, baseline: np.ndarray) -> Significant:
    """Count directions, each tested for itself: of 20 that are equal, one is expected to look different.

    Args:
        bleu, baseline: (directions, 1 + S).
    """
    signs = [np.sign(mine[0] - other[0]) * (p_value(mine, other) < SIGNIFICANT)
             for mine, other in zip(bleu, baseline, strict=True)]  # fmt: skip
    return Significant(signs.count(1), signs.count(-1), signs.count(0))


def compare_directions(
    bleu: Dict[str, np.ndarray], baseline: str, directions: Sequence[str]
) -> Dict[str, List[Dict[str, Any]]]:
    """Direction -> one row per system with its BLEU and, but for the baseline, difference and p; intervals of 95 %."""
    found: Dict[str, List[Dict[str, Any]]] = {}
    for number, direction in enumerate(directions):
        other = bleu[baseline][number]
        found[direction] = []
        for name, values in bleu.items():
            row: Dict[str, Any] = {"name": name, "bleu": interval(values[number])._asdict()}
            if name != baseline:
                row["difference"] = interval(values[number] - other)._asdict()
                row["p"] = p_value(values[number], other)
            found[direction].append(row)
    return found


def markdown(rows: List[Dict[str, Any]], baseline: str, gain_of: Any) -> str:
    """The table of means, with 95 % intervals in brackets."""
    heads = ["system", "BLEU", f"difference to {baseline}", *([f"share of the gain of {gain_of}"] if gain_of else [])]
    lines = []
    for row in rows:
        cells = [row["name"], shown(row["bleu"]), shown(row.get("difference"), signed=True)]
        if gain_of:
            cells.append(shown(row.get("share"), factor=100, unit=" %"))
        counts = row.get("directions")
        cells.append("{better} / {worse} / {undecided}".format(**counts) if counts else "")
        lines.append(cells)
    return _table([*heads, "directions better / worse / undecided"], lines)


def directions_markdown(by_direction: Dict[str, List[Dict[str, Any]]], baseline: str) -> str:
    """The table of directions, with 95 % intervals in brackets."""
    lines = []
    for direction, rows in by_direction.items():
        for row in rows:
            p = f"{row['p']:.3f}" if "p" in row else ""
            lines.append([direction, row["name"], shown(row["bleu"]), shown(row.get("difference"), signed=True), p])
    return _table(["direction", "system", "BLEU", f"difference to {baseline}", "p"], lines)


def _table(heads: List[str], rows: List[List[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def shown(values: Any, *, signed: bool = False, factor: float = 1, unit: str = "") -> str:
    """`value [low, high]`, or nothing."""
    if values is None:
        return ""
    found = Interval(**values)
    value, low, high = (f"{factor * number:{'+' if signed else ''}.1f}" for number in found)
    return f"{value}{unit} [{low}, {high}]"

"""The result table: one row per direction, averages by group, and the same numbers as JSON, CSV and Markdown."""

import csv
import io
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import SUPERVISED, ZERO_SHOT
from fairseq_plugins.opus100.files import write_json, write_whole

COLUMNS = ("direction", "kind", "bleu", "chrf", "hypotheses", "truncated", "seconds")


def evaluated_directions(manifest: Dict[str, Any], subset: str) -> Dict[str, str]:
    """Every direction that has references -> its kind. Pairs that were only trained on are never evaluated."""
    return {
        direction: pair["kind"]
        for name, pair in sorted(manifest["pairs"].items())
        if pair["kind"] in (SUPERVISED, ZERO_SHOT) and subset in pair
        for direction in (name, "-".join(reversed(name.split("-"))))
    }


def select_directions(known: Dict[str, str], chosen: Optional[str]) -> List[str]:
    """The directions the user named: a comma separated list, or ``supervised``, ``zero-shot``; None for all.

    Raises:
        UserError: an unknown direction, or nothing to evaluate.
    """
    words = chosen.replace(",", " ").split() if chosen is not None else [SUPERVISED, ZERO_SHOT]
    wanted = set()
    for word in words:
        if word not in known and word not in (SUPERVISED, ZERO_SHOT):
            raise UserError(f"--directions: no references for '{word}'; known are {SUPERVISED}, {ZERO_SHOT} and "
                            f"{', '.join(list(known)[:12])}{', ...' * (len(known) > 12)}")
        wanted.update([word] if word in known else [name for name, kind in known.items() if kind == word])
    if not wanted:
        raise UserError(f"--directions {chosen or 'all'}: the data has no such directions to evaluate")
    return [direction for direction in known if direction in wanted]


def groups(known: Dict[str, str], pivot: str) -> Dict[str, List[str]]:
    """Which directions each average is over; groups without directions are left out.

    A supervised pair without the pivot is in the average of all supervised directions and in neither half.
    """
    into, out_of = f"x-{pivot}", f"{pivot}-x"
    found: Dict[str, List[str]] = {SUPERVISED: [], into: [], out_of: [], ZERO_SHOT: []}
    for direction, kind in known.items():
        found[kind].append(direction)
        source, target = direction.split("-")
        if kind == SUPERVISED and pivot in (source, target):
            found[into if target == pivot else out_of].append(direction)
    return {name: directions for name, directions in found.items() if directions}


def averages(rows: Sequence[Dict[str, Any]], known: Dict[str, str], pivot: str, allow_missing: bool) -> Dict[str, Any]:
    """Mean BLEU and chrF of every group that is complete.

    Args:
        rows: of the table.
        known: every direction with references -> kind; a group is complete when all of its directions have a row.
        pivot: language of the supervised pairs.
        allow_missing: average incomplete groups too; how many are missing stays in the result.
    Returns:
        group -> {"bleu", "chrf", "directions", "missing"}; bleu and chrf are None for an incomplete group.
    """
    by_name = {row["direction"]: row for row in rows}
    result: Dict[str, Any] = {}
    for name, directions in groups(known, pivot).items():
        there = [by_name[direction] for direction in directions if direction in by_name]
        missing = len(directions) - len(there)
        counted = there if allow_missing or not missing else []
        result[name] = {
            metric: sum(row[metric] for row in counted) / len(counted) if counted else None
            for metric in ("bleu", "chrf")
        } | {"directions": len(there), "missing": missing}
    return result


def write_tables(folder: Path, results: Dict[str, Any]) -> None:
    """results.json, results.csv and results.md in ``folder``, each whole or not at all."""
    write_json(folder / "results.json", results)
    write_whole(folder / "results.csv", csv_table(results).encode())
    write_whole(folder / "results.md", markdown_table(results).encode())


def csv_table(results: Dict[str, Any]) -> str:
    """One line per direction, with what is needed to compare it with another system's line."""
    out = io.StringIO()
    constant = [results["signatures"]["bleu"], results["signatures"]["chrf"], results["tag_scheme"],
                results.get("sampling") or "", results["subset"]]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, "bleu_signature", "chrf_signature", "tag_scheme", "sampling", "subset"])
    for row in results["directions"]:
        writer.writerow(["" if row[name] is None else _rounded(row[name]) for name in COLUMNS] + constant)
    return out.getvalue()


def _rounded(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def markdown_table(results: Dict[str, Any]) -> str:
    """Averages first, then every direction, then how the numbers came about."""
    lines = [f"# Translation of {len(results['directions'])} directions, {results['subset']} set", ""]
    lines += ["| average | BLEU | chrF | directions |", "|---|---:|---:|---:|"]
    for name, value in results["averages"].items():
        lines.append(f"| {name} | {_cell(value['bleu'])} | {_cell(value['chrf'])} | {count_of(value)} |")
    if any(value["bleu"] is None for value in results["averages"].values()):
        lines += ["", "Groups with missing directions are not averaged."]
    lines += ["", "| direction | kind | BLEU | chrF | hypotheses | truncated | seconds |",
              "|---|---|---:|---:|---:|---:|---:|"]
    for row in results["directions"]:
        cells = [row["direction"], row["kind"]] + [_cell(row[name]) for name in COLUMNS[2:]]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: {value}" for name, value in description(results).items()), ""]
    return "\n".join(lines)


def count_of(average: Dict[str, Any]) -> str:
    """``6``, or ``4 of 6`` where directions are missing."""
    every = average["directions"] + average["missing"]
    return f"{average['directions']} of {every}" if average["missing"] else f"{every}"


def _cell(value: Any) -> str:
    return "-" if value is None else str(_rounded(value))


def description(results: Dict[str, Any]) -> Dict[str, str]:
    """What a reader must know beside the numbers, as name -> text."""
    model, search, checkpoint, speed = (results.get(name) for name in ("model", "search", "checkpoint", "speed"))
    said = {
        "BLEU": results["signatures"]["bleu"],
        "chrF": results["signatures"]["chrf"],
        "language tags": results["tag_scheme"],
        "training data": results.get("sampling"),
        "model": model and "{arch}, {parameters:,} parameters, {updates:,} updates".format(**model),
        "engine": results.get("engine"),
        "search": search
        and "beam {beam}, length penalty {lenpen:g}, at most {max_len} pieces, {precision}".format(**search),
        "checkpoint": checkpoint and "{file}, sha256 {sha256}".format(**checkpoint),
        "speed": speed
        and "{sentences_per_second:.1f} sentences/s on {device}, {processes} process(es)".format(**speed),
        "machine": results.get("machine"),
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "command": results.get("command"),
    }
    return {name: text for name, text in said.items() if text}

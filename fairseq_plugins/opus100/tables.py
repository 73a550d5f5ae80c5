"""The result table: one row per direction, averages by group, and the same numbers as JSON, CSV and Markdown."""

import csv
import io
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.direction_groups import size_group
from fairseq_plugins.opus100 import release
from fairseq_plugins.opus100.corpus import SUPERVISED, ZERO_SHOT
from fairseq_plugins.opus100.files import number, number_or_none, whole_number, write_json, write_whole

# column of a row -> heading; rows of older results have some of them alone
HEADINGS = {
    "direction": "direction",
    "kind": "kind",
    "bleu": "BLEU",
    "bleu_low": "low",
    "bleu_high": "high",
    "chrf": "chrF",
    "bleu_own": "BLEU own",
    "tokenizer": "tokenizer",
    "off_target": "off-target %",
    "off_target_references": "references %",
    "identifier": "seen by",
    "hypotheses": "hypotheses",
    "truncated": "truncated",
    "seconds": "seconds",
}
COLUMNS = tuple(HEADINGS)
AVERAGED = ("bleu", "chrf", "bleu_own", "off_target")
_WORDS = ("direction", "kind", "tokenizer", "identifier")
_NAMED = 12  # missing directions at most that a sentence names


def _is_direction(value: Any) -> bool:
    return isinstance(value, str) and len(codes := value.split("-")) == 2 and all(codes)


# what is read of results.json, also of those of earlier versions, which have less; files.misfit says how to read this
RESULTS_SHAPE = {
    "directions": [{"direction": _is_direction, "kind": str, "bleu": number, "hypotheses": whole_number,
                    "truncated": number_or_none}
                   | {f"{name}?": number_or_none for name in ("bleu_low", "bleu_high", "chrf", "bleu_own", "off_target",
                                                              "off_target_references", "seconds")}
                   | {f"{name}?": (str, type(None)) for name in ("tokenizer", "identifier")}],
    "averages": {str: {f"{name}?": number_or_none for name in AVERAGED}
                 | {"bleu": number_or_none, "directions": whole_number, "missing": whole_number, "lacking?": [str]}},
    "pivot": str,
    "subset": str,
    "signatures": {"bleu": str, "chrf": str, "bleu_own?": {str: str}},
    "tag_scheme": str,
    "versions": {str: str},
    "model?": {"arch": str, "parameters": whole_number, "updates": whole_number},
    "search?": {"beam": whole_number, "lenpen": number, "max_len": whole_number, "precision": str},
    "checkpoint?": {"file": str, "sha256": str},
    "speed?": {"sentences_per_second": number, "device": str, "processes": whole_number},
} | {f"{name}?": (str, type(None)) for name in ("sampling", "identifier", "engine", "machine", "command")}  # fmt: skip


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


def train_lines_of(manifest: Dict[str, Any]) -> Dict[str, int]:
    """Supervised direction -> train lines of its pair, as the corpus had them."""
    return {
        direction: pair["train"]["lines"]
        for name, pair in manifest["pairs"].items()
        if pair["kind"] == SUPERVISED and "lines" in pair.get("train", {})
        for direction in (name, "-".join(reversed(name.split("-"))))
    }


def groups(known: Dict[str, str], pivot: str, train_lines: Optional[Dict[str, int]] = None) -> Dict[str, List[str]]:
    """Which directions each average is over; groups without directions are left out.

    A supervised pair without the pivot is in the average of all supervised directions and in neither half. Each half
    has groups by train lines (Zhang et al. 2020) where its directions are not all of one size, and BLEU4
    where English goes into, or comes from, the paper's four languages.

    Args:
        known: every direction with references -> kind.
        pivot: language of the supervised pairs.
        train_lines: direction -> train lines of its pair; groups by size need them for all directions of a half.
    """
    found: Dict[str, List[str]] = {SUPERVISED: [name for name, kind in known.items() if kind == SUPERVISED]}
    for half, place in ((f"x-{pivot}", 1), (f"{pivot}-x", 0)):
        found[half] = [name for name in found[SUPERVISED] if name.split("-")[place] == pivot]
        by_size: Dict[str, List[str]] = {"high": [], "medium": [], "low": []}
        for name in found[half]:
            if train_lines and name in train_lines:
                by_size[size_group(train_lines[name])].append(name)
        if sum(map(len, by_size.values())) == len(found[half]) > max(map(len, by_size.values())):
            found.update({f"{half} {size}": names for size, names in by_size.items()})
        four = [name for name in found[half] if name.split("-")[1 - place] in release.BLEU4]
        if pivot == release.PIVOT and len(four) == len(release.BLEU4):
            found[f"{half} BLEU4"] = four
    found[ZERO_SHOT] = [name for name, kind in known.items() if kind == ZERO_SHOT]
    return {name: directions for name, directions in found.items() if directions}


def averages(
    rows: Sequence[Dict[str, Any]],
    known: Dict[str, str],
    pivot: str,
    allow_missing: bool,
    train_lines: Optional[Dict[str, int]] = None,
) -> Dict[str, Any]:
    """Mean of BLEU, chrF, BLEU with own tokenisers and off-target share over every group that is complete.

    Args:
        rows: of the table.
        known: every direction with references -> kind; a group is complete when all of its directions have a row.
        pivot: language of the supervised pairs.
        allow_missing: average incomplete groups too; how many are missing stays in the result.
        train_lines: see ``groups``.
    Returns:
        group -> {name of ``AVERAGED``: mean, "directions": count, "missing": count, "lacking": their names}; means of
        an incomplete group are None.
    """
    by_name = {row["direction"]: row for row in rows}
    result: Dict[str, Any] = {}
    for name, directions in groups(known, pivot, train_lines).items():
        there = [by_name[direction] for direction in directions if direction in by_name]
        lacking = [direction for direction in directions if direction not in by_name]
        counted = there if allow_missing or not lacking else []
        result[name] = {metric: _mean([row.get(metric) for row in counted]) for metric in AVERAGED}
        result[name] |= {"directions": len(there), "missing": len(lacking), "lacking": lacking}
    return result


def _mean(values: List[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]  # lines without a letter are in no language
    return sum(known) / len(known) if known else None


def named(directions: Sequence[str]) -> str:
    """Directions in a sentence: the first dozen, and how many there are in all."""
    more = len(directions) - _NAMED
    return ", ".join(directions[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def not_averaged(results: Dict[str, Any]) -> List[str]:
    """One sentence for each group without an average, naming what it lacks (older results have counts alone)."""
    return [
        f"{name} is not averaged: it lacks {named(value.get('lacking') or [str(value['missing'])])}"
        for name, value in results["averages"].items()
        if value["bleu"] is None and value["missing"]
    ]


def release_part(results: Dict[str, Any]) -> Optional[str]:
    """How much of OPUS-100's release a table covers, in words; None for another corpus in its layout."""
    supervised = [row for row in results["directions"] if row["kind"] == SUPERVISED]
    released = [row for row in supervised if release.is_released_test(row["direction"], row["hypotheses"])]
    if results["subset"] != "test" or not supervised or len(released) < len(supervised):
        return None
    every = 2 * len(release.LANGUAGES)
    if len(supervised) == every:
        return f"all {every} supervised directions, 94 pairs"
    return f"{len(supervised)} of {every} supervised directions: averages do not compare with those over all 94 pairs"


def write_tables(folder: Path, results: Dict[str, Any]) -> None:
    """results.json, results.csv and results.md in ``folder``, each whole or not at all."""
    write_json(folder / "results.json", results)
    write_whole(folder / "results.csv", csv_table(results).encode())
    write_whole(folder / "results.md", markdown_table(results).encode())


def csv_table(results: Dict[str, Any]) -> str:
    """One line per direction, with what is needed to compare it with another system's line."""
    out = io.StringIO()
    signatures = results["signatures"]
    writer = csv.writer(out, lineterminator="\n")
    more = ("bleu_signature", "chrf_signature", "bleu_own_signature", "tag_scheme", "sampling", "subset")
    writer.writerow([*COLUMNS, *more])
    for row in results["directions"]:
        writer.writerow([
            *("" if row[name] is None else _rounded(row[name]) for name in COLUMNS),
            signatures["bleu"], signatures["chrf"], signatures["bleu_own"][row["tokenizer"]],
            results["tag_scheme"], results.get("sampling") or "", results["subset"],
        ])  # fmt: skip
    return out.getvalue()


def _rounded(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def markdown_table(results: Dict[str, Any]) -> str:
    """Averages first, then every direction, then how the numbers came about."""
    lines = [f"# Translation of {len(results['directions'])} directions, {results['subset']} set", ""]
    heads = ["average", *(HEADINGS[name] for name in AVERAGED), "directions"]
    lines += [_line(heads), "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name, value in results["averages"].items():
        lines.append(_line([name, *(_cell(value[metric]) for metric in AVERAGED), count_of(value)]))
    lines += [f"\n{sentence}." for sentence in not_averaged(results)]
    lines += ["", _line(list(HEADINGS.values())),
              "".join("|---" if name in _WORDS else "|---:" for name in COLUMNS) + "|"]  # fmt: skip
    lines += [_line([_cell(row[name]) for name in COLUMNS]) for row in results["directions"]]
    lines += ["", *(f"- {name}: {value}" for name, value in description(results).items()), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
        "BLEU own": ", ".join(results["signatures"].get("bleu_own", {}).values()),
        "off-target": results.get("identifier"),
        "OPUS-100": release_part(results),
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

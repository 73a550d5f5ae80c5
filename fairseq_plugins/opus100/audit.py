"""Count what is wrong with a corpus, pair by pair; prints a table, and with --out writes it and all numbers to files.

Lines are compared after stripping white space at both ends, by 64-bit hashes. "Pair" means both sides together.

  blank       train lines with nothing on one side at least
  copies      train lines whose two sides are equal
  duplicates  train pairs that occurred before in the same train set
  in train    dev or test lines that train holds too: as a pair, by the first side, by the second side
  any train   test lines with a side that the train set of some pair holds in that language (what a multilingual model
              has seen)
  ratio       train lines whose length ratio is 3 times off the pair's median (longer side of 20 characters at least)
  script      train lines, either side, mostly in another script than most lines of that side
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_plugins._verbs import check_at_least
from fairseq_plugins.opus100.corpus import (
    Pair,
    check_same_length,
    find_pairs,
    read_pairs,
    scan_file,
    select_pairs,
    split_list,
)
from fairseq_plugins.opus100.files import Progress, plain_os_errors, write_json, write_whole
from fairseq_plugins.opus100.scripts import NAMES, dominant_scripts
from fairseq_plugins.opus100.workers import Report, run_all, usable_cores

RATIO = 3.0  # times off the median
RATIO_LENGTH = 20  # characters; shorter lines have any ratio
_CHUNK = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``audit``."""
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="ROOT", help="folder that holds opus-100-corpus/ or supervised/")
    add("--out", type=Path, metavar="DIR", help="folder for audit.json and audit.md (default: only print the table)")
    add("--pivot", default="en", metavar="LANG", help="language of every supervised pair (default: %(default)s)")
    add("--pairs", metavar="A-B,...", help="only these pairs, and zero-shot pairs of their languages")
    add("--languages", metavar="A,B,...", help="only pairs of these languages (and the pivot)")
    add("--workers", type=int, default=usable_cores(), metavar="N", help="processes (default: cores, %(default)s)")


class SplitFacts(NamedTuple):
    """One pass over one split of one pair; a hash per line and side, a few bytes per line."""

    first: np.ndarray  # (lines,) uint64
    second: np.ndarray
    blank: np.ndarray  # (lines,) bool
    lengths: np.ndarray  # (lines, 2) characters
    scripts: np.ndarray  # (lines, 2) indices into scripts.NAMES

    @property
    def both(self) -> np.ndarray:
        """(lines,) uint64, a hash of the pair."""
        with np.errstate(over="ignore"):
            return self.first * np.uint64(0x9E3779B97F4A7C15) ^ self.second


def run(args: argparse.Namespace) -> None:
    """Print the audit, and write it where ``--out`` says."""
    check_at_least(args, workers=1)
    names = None if args.pairs is None else split_list(args.pairs)
    languages = None if args.languages is None else split_list(args.languages)
    with plain_os_errors(args.corpus):
        pairs = select_pairs(find_pairs(args.corpus.resolve(), args.pivot), names, languages, args.pivot)
        report = audit(pairs, args.workers)
    table = markdown(report)
    print(table)
    if args.out is not None:
        with plain_os_errors(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
            write_json(args.out / "audit.json", report)
            write_whole(args.out / "audit.md", table.encode())
        print(f"written: {args.out / 'audit.json'} and audit.md", file=sys.stderr)


def audit(pairs: Dict[str, Pair], workers: int) -> Dict[str, Any]:
    """All counts: {"pairs": {name: {...}}, "total": {...}}.

    Raises:
        UserError: a file is not UTF-8 or the sides of a split differ in length.
    """
    tests = {name: _read(pair.files["test"]) for name, pair in pairs.items() if "test" in pair.files}
    spoken: Dict[str, List[np.ndarray]] = {}
    for name, facts in tests.items():
        for language, hashes in zip(pairs[name].languages, facts[:2], strict=True):
            spoken.setdefault(language, []).append(hashes)
    known = {language: np.unique(np.concatenate(hashes)) for language, hashes in spoken.items()}
    seen = {language: np.zeros(len(hashes), dtype=bool) for language, hashes in known.items()}

    size = sum(path.stat().st_size for pair in pairs.values() for files in pair.files.values() for path in files)
    progress = Progress("audit", size, "bytes")
    jobs = sorted(pairs.values(), key=_size, reverse=True)
    counts: Dict[str, Dict[str, Any]] = {}
    for pair, (facts, hits) in run_all(audit_job, jobs, workers, progress, (_remember, (known,))):
        counts[pair.name] = facts
        for language, rows in hits.items():
            seen[language][rows] = True
    progress.finish()
    for name, facts in tests.items():
        sides = zip(pairs[name].languages, facts[:2], strict=True)
        in_some_train = [seen[language][np.searchsorted(known[language], hashes)] for language, hashes in sides]
        counts[name]["test"]["any_train"] = int((in_some_train[0] | in_some_train[1]).sum())
    counts = {name: counts[name] for name in pairs}
    return {"pairs": counts, "total": _total(counts), "ratio_limit": RATIO, "ratio_length": RATIO_LENGTH}


def _size(pair: Pair) -> int:
    return sum(path.stat().st_size for files in pair.files.values() for path in files)


_known: Dict[str, np.ndarray] = {}  # in a worker: language -> hashes of all test lines, sorted


def _remember(known: Dict[str, np.ndarray]) -> None:
    _known.update(known)


def audit_job(pair: Pair, report: Report) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """The counts of one pair, and which of all test lines its train set holds (language -> indices)."""
    result: Dict[str, Any] = {"kind": pair.kind}
    facts: Dict[str, SplitFacts] = {}
    for split, files in pair.files.items():
        check_same_length(files, (scan_file(files[0]), scan_file(files[1])))
        facts[split] = _read(files)
        report(sum(path.stat().st_size for path in files))
        result[split] = split_counts(facts[split])
    hits = {}
    train = facts.get("train")
    if train is not None:
        result["train"]["scripts"] = {
            language: script_counts(train.scripts[:, side]) for side, language in enumerate(pair.languages)
        }
        for split in ("dev", "test"):
            if split in facts:
                result[split]["in_train"] = overlap(facts[split], train)
        for language, hashes in zip(pair.languages, train[:2], strict=True):
            if language in _known:
                hits[language] = np.flatnonzero(np.isin(_known[language], hashes))
    if "dev" in facts and "test" in facts:
        result["test"]["in_dev"] = overlap(facts["test"], facts["dev"])
    return result, hits


def _read(files: Tuple[Path, Path]) -> SplitFacts:
    """Hash and measure a split, chunk by chunk; blank lines hash like any other text."""
    chunks: List[Tuple[np.ndarray, ...]] = []
    sides: Tuple[List[str], List[str]] = ([], [])

    def close() -> None:
        lengths = np.array([[len(line) for line in side] for side in sides], dtype=np.int32).T
        hashes = [np.array([_hash(line) for line in side], dtype=np.uint64) for side in sides]
        scripts = np.stack([dominant_scripts(side) for side in sides], 1).astype(np.uint8)
        chunks.append((*hashes, (lengths == 0).any(1), lengths, scripts))
        for side in sides:
            side.clear()

    for pair in read_pairs(files):
        for side, line in zip(sides, pair, strict=True):
            side.append(line.strip())
        if len(sides[0]) == _CHUNK:
            close()
    if sides[0] or not chunks:
        close()
    return SplitFacts(*map(np.concatenate, zip(*chunks, strict=True)))


def _hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "little")


def split_counts(facts: SplitFacts) -> Dict[str, int]:
    """What can be said about one split alone."""
    lines = len(facts.first)
    return {
        "lines": lines,
        "blank": int(facts.blank.sum()),
        "copies": int(((facts.first == facts.second) & ~facts.blank).sum()),
        "duplicates": lines - len(np.unique(facts.both)),
        "ratio_outliers": int(ratio_outliers(facts.lengths).sum()),
        "wrong_script": int((wrong_script(facts.scripts[:, 0]) | wrong_script(facts.scripts[:, 1])).sum()),
    }


def ratio_outliers(lengths: np.ndarray) -> np.ndarray:
    """(lines,) bool: the ratio of the two lengths is RATIO times off the median ratio of all lines.

    Args:
        lengths: (lines, 2) characters.
    """
    measured = (lengths > 0).all(1)
    if not measured.any():
        return np.zeros(len(lengths), dtype=bool)
    ratio = np.log(np.maximum(lengths[:, 0], 1) / np.maximum(lengths[:, 1], 1))
    off = np.abs(ratio - np.median(ratio[measured])) > np.log(RATIO)
    return off & measured & (lengths.max(1) >= RATIO_LENGTH)


def wrong_script(scripts: np.ndarray) -> np.ndarray:
    """(lines,) bool: the line has letters, mostly of another script than most lines."""
    written = scripts[scripts > 0]
    if not len(written):
        return np.zeros(len(scripts), dtype=bool)
    return (scripts > 0) & (scripts != np.bincount(written).argmax())


def script_counts(scripts: np.ndarray) -> Dict[str, int]:
    """Script name -> lines, the most frequent first."""
    counts = np.bincount(scripts, minlength=len(NAMES))
    return {NAMES[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}


def overlap(held_out: SplitFacts, train: SplitFacts) -> Dict[str, int]:
    """How many held-out lines are in train: as pairs, by each side."""
    return {
        "pair": int(np.isin(held_out.both, train.both).sum()),
        "first": int(np.isin(held_out.first, train.first).sum()),
        "second": int(np.isin(held_out.second, train.second).sum()),
    }


def _total(counts: Dict[str, Dict[str, Any]]) -> Dict[str, int]:
    trains = [facts["train"] for facts in counts.values() if "train" in facts]
    devs = [facts["dev"] for facts in counts.values() if "dev" in facts]
    tests = [facts["test"] for facts in counts.values() if "test" in facts]
    keys = ("lines", "blank", "copies", "duplicates", "ratio_outliers", "wrong_script")
    total = {key: sum(train[key] for train in trains) for key in keys}
    for split, all_facts in (("dev", devs), ("test", tests)):
        total[f"{split}_lines"] = sum(facts["lines"] for facts in all_facts)
        total[f"{split}_pairs_in_train"] = sum(facts["in_train"]["pair"] for facts in all_facts if "in_train" in facts)
    total["test_in_any_train"] = sum(test["any_train"] for test in tests)
    return total


def markdown(report: Dict[str, Any]) -> str:
    """The table of the report, one row per pair; shares of the lines in per cent where a count says little."""
    inside = ["in train: pair", "first", "second"]
    head = ["pair", "train", "blank", "copies %", "duplicates %", "ratio %", "script %", "dev", *inside,
            "test", *inside, "any train %"]  # fmt: skip
    rows = []
    for name, facts in report["pairs"].items():
        train, test = facts.get("train"), facts.get("test")
        row = [name if "train" in facts else f"{name} ({facts['kind']})"]
        row += _train_cells(train) if train else ["-"] * 6
        row += _held_out_cells(facts.get("dev")) + _held_out_cells(test)
        row += [_share(test["any_train"], test["lines"])] if test else ["-"]
        rows.append(row)
    total = report["total"]
    both = [[f"{total[f'{of}_lines']:,}", f"{total[f'{of}_pairs_in_train']:,}", "", ""] for of in ("dev", "test")]
    rows.append(["all", *_train_cells(total), *both[0], *both[1],
                 _share(total["test_in_any_train"], total["test_lines"])])  # fmt: skip
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _train_cells(train: Dict[str, int]) -> List[str]:
    keys = ("copies", "duplicates", "ratio_outliers", "wrong_script")
    return [f"{train['lines']:,}", f"{train['blank']:,}", *(_share(train[key], train["lines"]) for key in keys)]


def _held_out_cells(facts: Optional[Dict[str, Any]]) -> List[str]:
    """Lines of dev or test and how many of them train holds."""
    if facts is None:
        return ["-"] * 4
    inside = facts.get("in_train")
    counts = [f"{inside[key]:,}" for key in ("pair", "first", "second")] if inside else ["-"] * 3
    return [f"{facts['lines']:,}", *counts]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"

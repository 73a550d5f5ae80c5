"""What ``prepare`` will make of a corpus, settled before anything is written."""

import dataclasses
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import (
    SPLITS,
    SUPERVISED,
    ZERO_SHOT,
    FileScan,
    Pair,
    check_same_length,
    find_pairs,
    scan_file,
    select_pairs,
)
from fairseq_plugins.opus100.files import Progress
from fairseq_plugins.opus100.workers import Report, run_all

TRAIN_ONLY = "train-only"  # trained on, never evaluated: the corpus has no test for it
HOLD_OUT = 200  # train pairs, at most, that become the dev set of a pair that has none
WORTH_PROCESSES = 1 << 28  # bytes; processes take a second to start


class Plan(NamedTuple):
    """The pairs and what becomes of each."""

    pairs: Dict[str, Pair]  # with the files that are used, no others
    kinds: Dict[str, str]  # pair -> SUPERVISED, ZERO_SHOT or TRAIN_ONLY
    scans: Dict[Path, FileScan]
    notices: List[str]  # what was left out

    @property
    def languages(self) -> List[str]:
        """All language codes, sorted."""
        return sorted({language for pair in self.pairs.values() for language in pair.languages})

    def hold_out(self, name: str) -> int:
        """How many train pairs may become the dev set of a pair; 0 if it has one or needs none."""
        return HOLD_OUT if self.kinds[name] != ZERO_SHOT and "dev" not in self.pairs[name].files else 0

    def lines(self, name: str, split: str) -> int:
        """Lines of one split of one pair, 0 if it has none."""
        files = self.pairs[name].files.get(split)
        return self.scans[files[0]].lines if files else 0

    def train_files(self) -> Dict[str, Dict[Path, int]]:
        """Language -> train file -> lines."""
        files: Dict[str, Dict[Path, int]] = {}
        for pair in self.pairs.values():
            for language, path in zip(pair.languages, pair.files.get("train", ()), strict=False):
                files.setdefault(language, {})[path] = self.scans[path].lines
        return files

    def directions(self, zero_shot: bool) -> List[str]:
        """Both directions of every trained pair, or of every zero-shot pair."""
        names = sorted(name for name, kind in self.kinds.items() if (kind == ZERO_SHOT) == zero_shot)
        return [direction for name in names for direction in self.pairs[name].directions]


def make_plan(
    root: Path,
    pivot: str,
    names: Optional[List[str]],
    languages: Optional[List[str]],
    keep_untested: bool,
    workers: int,
) -> Plan:
    """Find the pairs, read every file once, decide what becomes of each pair.

    Args:
        root, pivot: see ``find_pairs``.
        names, languages: see ``select_pairs``.
        keep_untested: train on pairs without test.
    Raises:
        UserError: anything wrong with the corpus or with the choice of pairs.
    """
    notices: List[str] = []
    pairs = select_pairs(find_pairs(root, pivot), names, languages, pivot)
    kinds = {name: _kind(pair) for name, pair in pairs.items()}
    untested = [name for name, kind in kinds.items() if kind == TRAIN_ONLY]
    if untested and not keep_untested:
        notices.append(f"without test, left out (--keep-untested trains on them): {' '.join(untested)}")
        kinds = {name: kind for name, kind in kinds.items() if kind != TRAIN_ONLY}
    no_dev = [name for name, kind in kinds.items() if kind != ZERO_SHOT and "dev" not in pairs[name].files]
    if no_dev:
        notices.append(f"without dev, up to {HOLD_OUT} of their train pairs become it: {' '.join(no_dev)}")
    aside = [name for name, kind in kinds.items() if kind == SUPERVISED and pivot not in pairs[name].languages]
    if aside:
        notices.append(f"without the pivot {pivot}, in no average from or into it: {' '.join(aside)}")
    trained = {language for name, kind in kinds.items() if kind != ZERO_SHOT for language in pairs[name].languages}
    if not trained:
        raise UserError("no pair has train and test; --keep-untested trains on pairs without test")
    mute = [name for name, kind in kinds.items() if kind == ZERO_SHOT and not trained.issuperset(pairs[name].languages)]
    if mute:
        notices.append(f"zero-shot pairs of a language without training data, left out: {' '.join(mute)}")
    kinds = {name: kind for name, kind in kinds.items() if name not in mute}
    pairs = {name: _used_files(pairs[name], kind) for name, kind in kinds.items()}

    scans = scan_files([path for pair in pairs.values() for files in pair.files.values() for path in files], workers)
    for pair in pairs.values():
        for split, files in pair.files.items():
            if check_same_length(files, (scans[files[0]], scans[files[1]])) == 0:
                raise UserError(f"{files[0]} has no lines; remove the files of that {split} set or leave the pair out")
    return Plan(pairs, kinds, scans, notices)


def _kind(pair: Pair) -> str:
    if pair.kind == ZERO_SHOT:
        return ZERO_SHOT
    return SUPERVISED if {"train", "test"} <= set(pair.files) else TRAIN_ONLY


def _used_files(pair: Pair, kind: str) -> Pair:
    splits = {SUPERVISED: SPLITS, ZERO_SHOT: ("test",), TRAIN_ONLY: ("train", "dev")}[kind]
    needed = "test" if kind == ZERO_SHOT else "train"
    if needed not in pair.files:
        raise UserError(f"the {kind} pair {pair.name} has no {needed} files; leave it out with --pairs")
    return dataclasses.replace(pair, files={split: files for split, files in pair.files.items() if split in splits})


def scan_files(paths: List[Path], workers: int) -> Dict[Path, FileScan]:
    """Count, hash and check every file, with a progress line.

    Raises:
        UserError: one is not UTF-8.
    """
    size = sum(path.stat().st_size for path in paths)
    progress = Progress("reading the corpus", size, "bytes")
    scans = dict(run_all(scan_job, paths, workers if size >= WORTH_PROCESSES else 1, progress))
    progress.finish()
    return scans


def scan_job(path: Path, report: Report) -> FileScan:
    """One file, for a worker."""
    scan = scan_file(path)
    report(scan.size)
    return scan


def print_plan(plan: Plan) -> None:
    """The pairs and their lines, as a table on stdout."""
    print(f"{len(plan.languages)} languages: {' '.join(plan.languages)}")
    print(f"{'pair':<12}{'kind':<12}" + "".join(f"{split:>12}" for split in SPLITS))
    for name in sorted(plan.pairs):
        print(f"{name:<12}{plan.kinds[name]:<12}" + "".join(f"{plan.lines(name, split):>12,}" for split in SPLITS))

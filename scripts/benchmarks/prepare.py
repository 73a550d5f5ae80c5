#!/usr/bin/env python
"""How fast does `opus100 prepare` work, what memory does it take, and what follows for all of OPUS-100?

    python scripts/benchmarks/prepare.py ROOT [ROOT ...] [--pivot en] [--vocab-size 32000] [--lines 25000 50000 100000]

ROOT is what prepare takes as --corpus; texts of several are put together. Each row is a fresh process. SentencePiece is
trained on so many lines, all different ones; encoding turns the train pairs into shards, with hashes, in one process.
Seconds are CPU time. What is said of 54.6 million pairs is extrapolated: a straight line through the rows, and cores
that do not hinder each other.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
from _report import Report
from _turns import MIB, Variant, Worker, resident, serve, spread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside this script, whatever is installed

from fairseq_plugins.opus100 import binarise  # noqa: E402
from fairseq_plugins.opus100.corpus import read_pairs  # noqa: E402
from fairseq_plugins.opus100.files import read_symbols, write_whole  # noqa: E402
from fairseq_plugins.opus100.plan import make_plan  # noqa: E402
from fairseq_plugins.opus100.release import TRAIN_LINES  # noqa: E402
from fairseq_plugins.opus100.subwords import SubwordOptions, train_subwords  # noqa: E402
from fairseq_plugins.opus100.vocabulary import train_vocabulary  # noqa: E402

SAMPLE = 10_000_000  # lines that prepare gives SentencePiece at most, by default
CORES = (2, 16, 64)


class Text(Variant):
    """The train text of some corpora."""

    def __init__(self, roots: List[str], pivots: List[str], pieces: int):
        corpora = zip(roots, pivots, strict=True)
        self.plans = [make_plan(Path(root), pivot, None, None, True, 1) for root, pivot in corpora]
        self.pieces = pieces
        self.work = tempfile.TemporaryDirectory()

    def options(self, lines: int) -> SubwordOptions:
        """prepare's defaults."""
        return SubwordOptions("bpe", self.pieces, 1.0, "identity", 5.0, lines, 1, False)


class Training(Text):
    """Trains SentencePiece on lines that occur once."""

    def __init__(self, lines: int, **case: Any):
        super().__init__(**case)
        self.lines = lines
        found = {}
        for plan in self.plans:
            for pair in plan.pairs.values():
                for files in [pair.files["train"]] if "train" in pair.files else []:
                    for sides in read_pairs(files):
                        found.update(dict.fromkeys(line for line in sides if line.strip()))
        self.found = min(lines, len(found))
        chosen = np.random.default_rng(1).permutation(len(found))[: self.found]
        texts = list(found)
        self.path = Path(self.work.name) / "text"
        write_whole(self.path, "".join(texts[row] + "\n" for row in chosen).encode())
        self.bytes = self.path.stat().st_size

    def step(self) -> None:
        train_subwords(Path(self.work.name), [(self.path, self.found, self.found)], self.options(self.lines))

    def warm_up(self) -> None:
        """None: a process trains once."""

    def facts(self) -> Tuple[int, int]:
        """Lines, and their bytes."""
        return self.found, self.bytes

    def peak_memory(self) -> float:
        """MiB at the highest, all text that this process holds with it."""
        return resident("VmHWM") / MIB

    def timed_step(self) -> Any:
        """One training; the peak starts anew."""
        Path("/proc/self/clear_refs").write_text("5")
        return super().timed_step()


class Encoding(Text):
    """Encodes and writes all train pairs."""

    def __init__(self, **case: Any):
        super().__init__(**case)
        folder = Path(self.work.name)
        vocabulary = train_vocabulary(folder, self.plans[0], self.options(SAMPLE))
        for name, data in vocabulary.files():
            write_whole(folder / name, data)
        self.rows = len(read_symbols(folder / "dict.txt"))
        self.encoder = binarise.Encoder(folder / "sentencepiece.model", vocabulary.rows)
        self.done = 0

    def step(self) -> None:
        self.done = 0
        for plan in self.plans:
            for name, pair in plan.pairs.items():
                if "train" in pair.files:
                    prefixes = tuple(Path(self.work.name) / f"train.{name}.{side}" for side in pair.languages)
                    dtype = binarise.token_dtype(self.rows)
                    count = binarise.binarise(self.encoder, read_pairs(pair.files["train"]), prefixes, dtype, {}, 256)
                    self.done += count.lines

    def facts(self) -> int:
        """Pairs of a step."""
        return self.done


def make(name: str, **case: Any) -> Text:
    """For `_turns.serve`."""
    return {"training": Training, "encoding": Encoding}[name](**case)


class Cost(NamedTuple):
    """Of one SentencePiece training."""

    lines: int
    bytes: int
    seconds: float
    peak: float  # MiB


def line_through(costs: List[Cost], name: str) -> Tuple[float, float]:
    """Of a field over the lines: (at none, for each line)."""
    slope, start = np.polyfit([cost.lines for cost in costs], [getattr(cost, name) for cost in costs], 1)
    return float(start), float(slope)


def train_once(case: Dict[str, Any], lines: int) -> Cost:
    """SentencePiece in a process of its own."""
    worker = Worker(sys.executable, Path(__file__), "training", {**case, "lines": lines})
    try:
        found, size = worker.ask("facts")
        return Cost(found, size, worker.step().cpu, worker.ask("peak_memory"))
    finally:
        worker.close()


def encode(case: Dict[str, Any], rounds: int) -> Tuple[int, List[float]]:
    """Pairs, and pairs per CPU second in each round."""
    worker = Worker(sys.executable, Path(__file__), "encoding", case)
    try:
        seconds = [worker.step().cpu for _ in range(rounds)]
        pairs = worker.ask("facts")
        return pairs, [pairs / of for of in seconds]
    finally:
        worker.close()


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="corpora")
    parser.add_argument("--pivot", nargs="+", default=["en"], help="of each corpus (default: en)")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="pieces (default: %(default)s)")
    parser.add_argument("--lines", type=int, nargs="+", default=[25_000, 50_000, 100_000], help="for SentencePiece")
    parser.add_argument("--rounds", type=int, default=3, help="of encoding (default: %(default)s)")
    parser.add_argument("--no-file", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    case = {"roots": [str(root.resolve()) for root in asked.roots], "pivots": asked.pivot, "pieces": asked.vocab_size}
    report = Report("Preparing text", "prepare", arguments, out=asked.out, write=not asked.no_file)
    report.header(["SentencePiece, lines", "bytes per line", "CPU seconds", "peak, MiB"])
    costs = []
    for lines in asked.lines:
        cost = train_once(case, lines)
        costs.append(cost)
        report.row(f"{cost.lines:,}", f"{cost.bytes / cost.lines:.0f}", f"{cost.seconds:.1f}", f"{cost.peak:,.0f}")
    if len(costs) > 1:
        (start, slope), (first, more) = line_through(costs, "peak"), line_through(costs, "seconds")
        report.add("", f"Extrapolated to {SAMPLE:,} lines: {(start + slope * SAMPLE) / 1024:.1f} GiB and "
                   f"{(first + more * SAMPLE) / 60:.0f} minutes of CPU time.", "")  # fmt: skip
    pairs, rates = encode(case, asked.rounds)
    report.add(f"Encoding {pairs:,} train pairs: {spread(rates)} pairs per second of one core.", "")
    total, rate = sum(TRAIN_LINES.values()), spread(rates).median
    hours = ", ".join(f"{total / rate / cores / 60:.0f} minutes on {cores} cores" for cores in CORES)
    report.add(f"Extrapolated to OPUS-100's {total:,} train pairs: {hours}. One pair is one job, so no more than "
               "94 cores help, and the longest job is a million pairs: "
               f"{max(TRAIN_LINES.values()) / rate / 60:.1f} minutes.")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

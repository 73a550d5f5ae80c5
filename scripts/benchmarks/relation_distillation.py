#!/usr/bin/env python
"""What do MiniLM's relations cost in blocks of rows, against all heads' softmaxes at once?

    python scripts/benchmarks/relation_distillation.py [--rounds N] [--relations 1 3] [--lengths 128 512 2048]
        [--only cpu gpu] [--out FILE.md]

Forward and backward pass of the loss alone, from random projections of a teacher of width 768 and a student of width
384, with 48 relation heads. Losses and gradients are compared in float64 and with padding first, and once more as they
are measured. The variants, each a process of its own, take turns. On the CPU times are CPU times of one thread, which
other work on the machine disturbs least; on a GPU wall times, the teacher in bf16.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import torch
from _relations import BLOCKS, INPUTS, LOSSES, PLAIN, Case, exact, make
from _report import Report
from _turns import Spread, Worker, machine, ratio, serve, spread, take_turns

TOKENS, TOKENS_GPU = 2048, 16384  # of a batch
EXACT, FLOAT32 = 1e-10, 1e-4  # of the largest number
TABLES = ("cpu", "gpu")


def compare(found: Dict[str, Any], wanted: Dict[str, Any], tolerance: float) -> None:
    """Losses and gradients of the blocks against the plain formula's.

    Raises:
        ValueError: they are others.
    """
    for what, right in wanted.items():
        right, other = (torch.as_tensor(x) if not isinstance(x, list) else torch.stack(x) for x in (right, found[what]))
        apart, largest = float((other - right).abs().max()), float(right.abs().max())
        if not apart <= tolerance * largest:  # false for what is no number, too
            raise ValueError(f"{what} in blocks are {apart:.3g} from the plain formula's, of at most {largest:.3g}")


def measure(case: Case, rounds: int, report: Report) -> None:
    """Two rows of the table."""
    script = Path(__file__).resolve()

    def worker(name: str) -> Worker:
        return Worker(sys.executable, script, name, case._asdict())

    workers: Dict[str, Worker] = {}
    peaks: Dict[str, float] = {}
    try:
        for name in (INPUTS, *LOSSES):
            workers[name] = worker(name)
            peaks[name] = workers[name].ask("peak")  # while it is fresh
        workers.pop(INPUTS).close()
        turns = take_turns(workers, rounds)
        with tempfile.TemporaryDirectory() as folder:
            for name, each in workers.items():
                each.ask("save", f"{folder}/{name}.pt")
            results = {name: torch.load(f"{folder}/{name}.pt") for name in LOSSES}
    finally:
        for each in workers.values():
            each.close()
    compare(results[BLOCKS], results[PLAIN], FLOAT32)
    seconds = {name: [step.cpu if case.device == "cpu" else step.wall for step in turns[name]] for name in LOSSES}
    memory = {name: peaks[name] - peaks[INPUTS] for name in LOSSES}
    for name in LOSSES:
        report.row(
            case.length, case.examples, case.relations, name, milliseconds(spread(seconds[name])),
            ratio(seconds[PLAIN], seconds[name]), f"{memory[name]:.1f}",
            f"{memory[PLAIN] / max(memory[name], 1):.1f}",
        )  # fmt: skip


def milliseconds(time: Spread) -> str:
    return f"{1000 * time.median:.0f} ({1000 * time.low:.0f}-{1000 * time.high:.0f})"


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every variant and case")
    parser.add_argument("--relations", type=int, nargs="+", default=[1, 3], choices=(1, 2, 3), metavar="N",
                        help="how many of Q-Q, K-K, V-V a step has; the plain formula holds all until its backward "
                             "pass")  # fmt: skip
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048], help="tokens of an example")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE",
                        help=f"of {', '.join(TABLES)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: does the benchmark work?")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    report = Report("MiniLM's relation loss in blocks of rows", "relation_distillation", arguments, out=asked.out,
                    write=asked.out is not None or not asked.quick, where=f"{machine()}; one thread")  # fmt: skip
    sizes = dict(heads=4, teacher_dim=32, student_dim=16) if asked.quick else {}
    lengths = [24] if asked.quick else asked.lengths
    checked = Case(length=min(128, *lengths), examples=4, **sizes)
    compare(exact(BLOCKS, checked), exact(PLAIN, checked), EXACT)
    report.add("Forward and backward pass, float32: median of the rounds (lowest-highest). MiB: a fresh process's peak "
               "with one step, less that of a process that only holds the projections. Losses and gradients were found "
               "equal, in float64 with padding too.")  # fmt: skip
    for device in asked.only:
        if device == "gpu" and not torch.cuda.is_available():
            continue
        report.add("", f"## {'One CPU thread' if device == 'cpu' else torch.cuda.get_device_name()}", "")
        report.header(["tokens", "examples", "relations", "variant", "ms", "plain / variant", "MiB", "plain / variant"])
        for length in lengths:
            for relations in asked.relations:
                batch = max(1, (TOKENS if device == "cpu" else TOKENS_GPU) // length)
                where = dict(device="cpu" if device == "cpu" else "cuda", relations=relations, **sizes)
                examples = 2 if asked.quick else batch
                measure(Case(length, examples, **where), 1 if asked.quick else asked.rounds, report)
    if report.out is not None:
        print(f"wrote {report.out}")


if __name__ == "__main__":
    main(sys.argv[1:])

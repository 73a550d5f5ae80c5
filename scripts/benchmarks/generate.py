#!/usr/bin/env python
"""How fast is a step of beam search against stock fairseq with the same weights?

    python scripts/benchmarks/generate.py [--rounds N] [--out FILE.md]

Both variants run under fairseq's own SequenceGenerator, each in a process of its own, and take turns; every hypothesis
of every beam must be the same. Times are CPU times of one thread.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from _decoding import ARCHS, Case, make
from _report import Report
from _turns import Worker, ratio, serve, spread, take_turns

CASES = [
    Case(),
    Case(source=64),
    Case(vocabulary=64000, sentences=16),
    Case(sentences=1),
    Case(beam=1, sentences=64, source=64),
    Case(layers=3, dim=192, hidden_dim=768, heads=4, beam=1, sentences=64, source=64),
    Case(layers=3, dim=192, hidden_dim=768, heads=4),
    Case(layers=3, dim=192, hidden_dim=768, heads=4, sentences=1),
]


def check(workers: Dict[str, Worker]) -> None:
    """Give both the same weights and input and compare what they find.

    Raises:
        ValueError: a hypothesis differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers["stock"].ask("save", f"{folder}/weights.pt")
        workers["ours"].ask("load", f"{folder}/weights.pt")
    found = {name: worker.ask("hypotheses") for name, worker in workers.items()}
    if found["ours"] != found["stock"]:
        different = sum(a != b for a, b in zip(found["ours"], found["stock"], strict=True))
        raise ValueError(f"{different} of {len(found['stock'])} sentences have other hypotheses")


def row(case: Case, rounds: int) -> List[Any]:
    """Measure one case."""
    script = Path(__file__).resolve()
    workers = {name: Worker(sys.executable, script, name, case._asdict()) for name in ARCHS}
    try:
        check(workers)
        turns = take_turns(workers, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    # one step more than there are tokens: the last finds the end
    per_step = {name: [1000 * one.cpu / (case.steps + 1) for one in steps] for name, steps in turns.items()}
    shape, batch = f"{case.layers} + {case.layers}, {case.dim}", f"{case.sentences} x {case.beam}"
    size = [shape, case.vocabulary, batch, case.source]
    return [*size, spread(per_step["stock"]), spread(per_step["ours"]), ratio(per_step["stock"], per_step["ours"])]


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed batches of every variant and case")
    parser.add_argument("--quick", action="store_true", help="one tiny case, one round: does the benchmark work?")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    options = parser.parse_args(arguments)
    tiny = Case(sentences=3, source=5, steps=4, layers=1, dim=16, hidden_dim=16, heads=2, vocabulary=50)
    title, write = "A step of beam search against stock fairseq", options.out is not None or not options.quick
    report = Report(title, "generate", arguments, out=options.out, write=write)
    report.add("One thread, CPU time; the same hypotheses, all beams compared. Encoder included.", "")
    columns = ["layers, width", "symbols", "sentences x beam", "source tokens"]
    report.header([*columns, "stock, ms per step", "ours, ms per step", "stock / ours"])
    for case in [tiny] if options.quick else CASES:
        report.row(*row(case, 1 if options.quick else options.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])

#!/usr/bin/env python
"""How does the cost of a training step grow with depth, vocabulary and sentence length, at three sizes each?

    python scripts/benchmarks/cost_growth.py [--rounds N] [--out FILE.md]

One model of width 256 (DeepNorm, 256-1024-4), 1,024 tokens on each side, one thing varied at a time, with the stock
loss and with the chunked one; each model a process of its own, measured as depth_memory.py measures.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List

from _report import Report
from _turns import serve, spread
from depth_memory import make, measure

BASE: Dict[str, Any] = dict(layers=12, symbols=8000, length=32, tokens=1024, shape=[256, 1024, 4], residual="deepnorm")
VARIED = {"layers": (12, 48, 192), "symbols": (8000, 64000, 250000), "length": (32, 128, 512)}
LOSSES = {"stock loss": "label_smoothed_cross_entropy", "chunked loss": "chunked_label_smoothed_cross_entropy"}
TINY = dict(layers=2, symbols=50, length=8, tokens=32, shape=[16, 16, 2])


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed steps (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one tiny case: does the benchmark work?")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    base, varied = ({**BASE, **TINY}, {"layers": (2,)}) if asked.quick else (BASE, VARIED)
    title, write = "How the cost of a training step grows", asked.out is not None or not asked.quick
    report = Report(title, "cost_growth", arguments, out=asked.out, write=write)
    report.add("MiB: what a step adds at its peak to weights, gradients and Adam's moments. Seconds: CPU time of one "
               "thread, stock Adam included.", "")  # fmt: skip
    columns = [f"{name}: {unit}" for name in LOSSES for unit in ("MiB", "s per update")]
    report.header(["layers", "symbols", "length", "parameters", *columns])
    for what, sizes in varied.items():
        for size in sizes:
            case, cells = {**base, what: size}, []
            for criterion in LOSSES.values():
                parameters, peak, seconds = measure({**case, "criterion": criterion}, "kept", asked.rounds)
                cells += [f"{peak:.0f}", str(spread(seconds))]
            sizes = (case["layers"], f"{case['symbols']:,}", case["length"], f"{parameters:,}")
            report.row(*sizes, *cells)


if __name__ == "__main__":
    main(sys.argv[1:])

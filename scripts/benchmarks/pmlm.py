#!/usr/bin/env python
"""What does UniLMv2's one pass save against passes of their own for its losses, and attention in pieces against a mask?

    python scripts/benchmarks/pmlm.py [DATA] [--mono-data MONO] [--rounds N] [--only tiny base pieces gpu]
        [--out FILE.md]

Texts are fabricated from random pieces, or those of DATA, a folder of `opus100 prepare`, and MONO, one of `opus100
mono`. They are masked as `--task pseudo_masked_lm` does it. Losses, outputs and gradients of all variants are compared
in float64 and without dropout first; then the variants take turns in one process, on one model. On the CPU times are
CPU times of one thread, which other work on the machine disturbs least; on a GPU wall times in bf16.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from _pseudo_masked import AE_ALONE, EACH, MASK, ONE, PIECES, TWO, Attention, Case, Losses, Model
from _report import Report
from _turns import machine, ratio, spread

TABLES = ("tiny", "base", "pieces", "gpu")
DROPOUT = 0.1  # the presets'
TOLERANCE = 1e-6  # of results and gradients, whose largest are about 1: torch has GELU's gradient to eight digits


class Bench:
    """Runs cases and reports them."""

    def __init__(self, report: Report, rounds: int, source: Dict[str, Any]):
        self.report, self.rounds = report, rounds
        self.source = source  # where the texts come from, and what they run on

    def case(self, **values: Any) -> Case:
        """A case with texts of the one source."""
        return Case(**{**self.source, **values})

    def losses(self, cases: Sequence[Case], names: Sequence[str]) -> None:
        """A table of passes."""
        self.report.header(["texts x tokens", "dropout", "variant", "passes", "tokens read per text token",
                            "ms per batch", "text tokens/s", "variant / one pass", "peak memory, MiB"])  # fmt: skip
        for case in cases:
            model = Model(case)
            # many passes are measured where a step is short, and dropout changes nothing in what they add up to
            variants = {name: Losses(name, model) for name in names if name != EACH or _is_short(case)}
            seconds, peaks = self._measure(case, variants)
            text = model.facts()["text"]
            for name, variant in variants.items():
                time = spread(seconds[name])
                self.report.row(
                    f"{case.texts} x {case.length}", case.dropout, name, len(variant.passes),
                    f"{variant.tokens() / text:.2f}", _milliseconds(time), f"{text / time.median:.0f}",
                    ratio(seconds[name], seconds[ONE]), f"{peaks[name]:.0f}",
                )  # fmt: skip

    def pieces(self, cases: Sequence[Case]) -> None:
        """A table of attention."""
        self.report.header(["texts x tokens", "beside a text, mean", "relative bias", "dropout", "pieces, ms",
                            "one mask, ms", "one mask / pieces", "pieces, MiB", "one mask, MiB"])  # fmt: skip
        for case in cases:
            model = Model(case)
            seconds, peaks = self._measure(case, {name: Attention(name, model) for name in (PIECES, MASK)})
            self.report.row(
                f"{case.texts} x {case.length}", f"{model.facts()['beside'] / case.texts:.1f}",
                "yes" if case.relative_bias else "no", case.dropout,
                *(_milliseconds(spread(seconds[name])) for name in (PIECES, MASK)),
                ratio(seconds[MASK], seconds[PIECES]), *(f"{peaks[name]:.0f}" for name in (PIECES, MASK)),
            )  # fmt: skip

    def _measure(self, case: Case, variants: Dict[str, Any]) -> Any:
        """Seconds of every round and MiB of one step, by variant, which are compared first where nothing is random."""
        if not case.dropout:
            check({name: variant for name, variant in variants.items() if name != AE_ALONE})
        seconds: Dict[str, List[float]] = {name: [] for name in variants}
        for _ in range(self.rounds):
            for name, variant in variants.items():
                time = variant.timed_step()
                seconds[name].append(time.cpu if case.device == "cpu" else time.wall)
        return seconds, {name: variant.peak_memory() for name, variant in variants.items()}


def check(variants: Dict[str, Any]) -> None:
    """Results and gradients of all variants against the first's, in float64.

    Raises:
        ValueError: a variant computes something else.
    """
    first, *others = variants
    wanted = variants[first].exact()
    for name in others:
        found = variants[name].exact()
        for what in wanted:
            try:
                torch.testing.assert_close(found[what], wanted[what], rtol=0, atol=TOLERANCE)
            except AssertionError as error:
                raise ValueError(f"{name} has other {what} than {first}: {error}") from None


def _is_short(case: Case) -> bool:
    return case.device != "cpu" or (case.arch == "unilmv2_tiny" and not case.dropout)


def _milliseconds(time: Any) -> str:
    return f"{1000 * time.median:.0f} ({1000 * time.low:.0f}-{1000 * time.high:.0f})"


def tables_of(bench: Bench, quick: bool, tables: Sequence[str]) -> None:
    """All tables that are asked for."""
    add = bench.report.add
    everyone = [ONE, TWO, EACH, AE_ALONE]
    if quick:
        tiny, base = [bench.case(length=24, texts=2, vocabulary=200)], []
        attention = [case._replace(relative_bias=relative) for case in tiny for relative in (True, False)]
    else:
        sizes = [dict(length=128, texts=4), dict(length=512, texts=1)]
        tiny = [bench.case(**size, dropout=dropout) for size in sizes for dropout in (0.0, DROPOUT)]
        base = [bench.case(arch="unilmv2_base", length=length, texts=1, vocabulary=30528) for length in (128, 512)]
        attention = [
            bench.case(**size, relative_bias=relative, dropout=dropout)
            for size in (*sizes, dict(length=32, texts=16))
            for relative in (True, False)
            for dropout in (0.0, DROPOUT)
        ]
    if "tiny" in tables:
        add("", "## Both losses: unilmv2_tiny (6 layers, width 128)", "")
        bench.losses(tiny, everyone)
    if "base" in tables and base:
        add("", "## Both losses: unilmv2_base (12 layers, width 768)", "")
        bench.losses(base, everyone)
    if "pieces" in tables:
        add("", "## Attention in pieces, and under one mask: all layers of unilmv2_tiny, no prediction", "")
        bench.pieces(attention)
    if "gpu" in tables and torch.cuda.is_available():
        on_gpu: Dict[str, Any] = dict(device="cuda", half=True, arch="unilmv2_base", vocabulary=30528)
        sizes = [dict(length=128, texts=128), dict(length=512, texts=32)]
        add("", f"## {torch.cuda.get_device_name()}, bf16, unilmv2_base", "")
        bench.losses([bench.case(**on_gpu, **size) for size in sizes], everyone)
        add("")
        bench.pieces([bench.case(**on_gpu, **size, relative_bias=some) for size in sizes for some in (True, False)])


def main(arguments: List[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", nargs="?", help="folder of opus100 prepare (default: random pieces)")
    parser.add_argument("--mono-data", metavar="MONO", help="folder of opus100 mono (default: DATA)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every variant and case")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE",
                        help=f"of {', '.join(TABLES)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="tiny texts, one round: does the benchmark work?")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    report = Report("UniLMv2's one pass and its attention in pieces", "pmlm", arguments, out=asked.out,
                    write=asked.out is not None or not asked.quick, where=f"{machine()}; one thread")  # fmt: skip
    report.add("A batch's forward and backward passes, float32 on the CPU, CPU time of one thread: median of the "
               "rounds (lowest-highest). MiB: what a step adds at its peak to weights and gradients. Without dropout "
               "losses, outputs and gradients of all variants were found equal in float64.", "",
               f"- {ONE}: the text, and beside it pseudo-masks and originals of all steps; both losses;",
               f"- {TWO}: the text alone for AE; the same with everything beside it for PAR;",
               f"- {EACH}: the text alone for AE; then for each step the text, originals of the steps before, and its "
               "own pseudo-masks;",
               f"- {AE_ALONE}: an ordinary masked LM, which is half of what the others learn.")  # fmt: skip
    source = {"data": asked.data, "mono_data": asked.mono_data}
    tables_of(Bench(report, 1 if asked.quick else asked.rounds, source), asked.quick, asked.only)
    if report.out is not None:
        print(f"wrote {report.out}")


if __name__ == "__main__":
    main(sys.argv[1:])

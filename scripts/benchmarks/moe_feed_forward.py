#!/usr/bin/env python
"""What does a mixture of experts cost against a dense feed-forward of the same active work, and against torchscale?

    python scripts/benchmarks/moe_feed_forward.py [--torchscale-python PATH] [--out FILE.md]

torchscale 0.3.0 is measured where an interpreter is named whose environment has it and the same torch:

    python -m venv torchscale
    torchscale/bin/pip install torch==2.13.0 numpy
    torchscale/bin/pip install --no-deps torchscale==0.3.0

All variants get the same inputs, weights and routing, are checked against a plain float64 reference, and take turns
step by step. One-thread times are CPU times, which other work on the machine disturbs least. Two threads are wall time.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional

import torch
from _moe_variants import Case, Dense, Layer, Ours, assignment, kept, make
from _report import Report
from _turns import Worker, ratio, serve, spread, take_turns

TOLERANCE = 1e-4  # of the largest element, float32 against float64
EXPERTS = (8, 32, 128)
CONDITIONS = ((1, 4096, 1), (1, 4096, 2), (1, 1024, 1), (2, 4096, 1), (2, 1024, 1))  # threads, tokens, top-k
LOADS = ((1.0, 1.0), (1.5, 1.0), (1.5, 0.0))  # busiest expert over mean; capacity factor, 0 = dropless
TRAFFIC = ("traffic large", "traffic small")


def training_cases(threads: int, tokens: int, top_k: int, quick: bool) -> List[Case]:
    """Every number of experts under balanced and uneven load with capacity factor 1, and dropless."""
    size = dict(tokens=64, dim=32, hidden_dim=64) if quick else dict(tokens=tokens)
    return [
        Case(experts=experts, top_k=top_k, load=load, capacity_factor=factor, threads=threads, **size)
        for experts in ((4,) if quick else EXPERTS)
        for load, factor in (LOADS[1:2] if quick else LOADS)
    ]


class Bench:
    """Runs cases and reports them."""

    def __init__(self, rounds: int, torchscale: Optional[str], say: Callable[..., None]):
        self.rounds = rounds
        self.torchscale = torchscale
        self.say = say  # prints lines of the report

    def workers(self, case: Case, variants: List[str]) -> Dict[str, Worker]:
        script = Path(__file__).resolve()
        return {
            name: Worker(self.torchscale if name == "torchscale" else sys.executable, script, name, case._asdict())
            for name in variants
        }

    def measure(
        self, case: Case, variants: List[str], peaks: Optional[Dict[str, float]] = None
    ) -> Dict[str, List[float]]:
        """Check, then time: seconds of every round by variant; CPU time on one thread, wall time on several.

        `peaks` is filled with the MiB that a step adds, at its peak, to a new process with weights and inputs.
        """
        workers = self.workers(case, variants)
        try:
            if peaks is not None:
                peaks.update((name, worker.ask("peak_memory")) for name, worker in workers.items())
            self.check(case, {name: workers[name] for name in variants if name != "dense" and name not in TRAFFIC})
            steps = take_turns(workers, self.rounds)
        finally:
            for worker in workers.values():
                worker.close()
        return {name: [s.cpu if case.threads == 1 else s.wall for s in turns] for name, turns in steps.items()}

    def check(self, case: Case, workers: Dict[str, Worker]) -> None:
        """Outputs and gradients of all workers against the plain reference.

        Raises:
            ValueError: a variant computes something else.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.pt")
            reference = self.workers(case, ["reference"])["reference"]
            reference.ask("save", path)
            reference.close()
            expected = torch.load(path)
            for name, worker in workers.items():
                worker.ask("save", path)
                compare(name, torch.load(path), expected)


def compare(name: str, results: Dict[str, torch.Tensor], expected: Dict[str, torch.Tensor]) -> None:
    """Raises ValueError where a result differs from what is expected by more than rounding."""
    if results.keys() != expected.keys():
        raise ValueError(f"{name} gave {', '.join(results)} instead of {', '.join(expected)}")
    for what, value in results.items():
        error = float((value - expected[what]).abs().max() / expected[what].abs().max())
        if not error < TOLERANCE:
            raise ValueError(f"{name}: {what} is off by {error:.1e} of its largest element")


def head(case: Case) -> str:
    """The cells that say what is measured."""
    dropped = 1 - float(kept(assignment(case), case).float().mean())
    limit = f"capacity {case.capacity_factor:g}" if case.capacity_factor else "dropless"
    return f"| {case.tokens} | {case.top_k} | {case.experts} | {case.load:g}, {limit} | {100 * dropped:.1f} % |"


def milliseconds(seconds: List[float]) -> str:
    """Median of some seconds, and their extremes."""
    low, high = (f"{1000 * bound:.0f}" for bound in spread(seconds)[1:])
    return f"{1000 * spread(seconds).median:.0f} ({low}-{high})"


def training(bench: Bench, cases: List[Case], paths: List[str]) -> None:
    """The table of forward and backward; a column per variant."""
    names = ["ours", *paths, "torchscale"]
    columns = ["tokens", "k", "experts", "load", "dropped", "dense, ms"]
    columns += [f"{name} / dense" for name in names] + ["torchscale / ours", "bound / ours"]
    bench.say("", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|")
    notes: List[str] = []
    for case in cases:
        compared = [name for name in names if can(bench, name, case)]
        seconds = bench.measure(case, ["dense", *compared, *TRAFFIC])
        bound = [sum(both) for both in zip(seconds["dense"], seconds["traffic large"], strict=True)]
        cells = [milliseconds(seconds["dense"])]
        cells += [str(ratio(seconds[name], seconds["dense"])) if name in compared else "-" for name in names]
        cells += [str(ratio(seconds["torchscale"], seconds["ours"])) if "torchscale" in compared else "-"]
        cells += [f"{ratio(bound, seconds['ours']).median:.2f}"]
        bench.say(head(case) + " " + " | ".join(cells) + " |")
        moved = 3 * 2 * 4 * case.experts * case.dim * case.hidden_dim  # bytes: two reads and a write of two matrices
        times = [spread(seconds[name]).median for name in TRAFFIC]
        notes.append(
            f"- {case.experts} experts, load {case.load:g}: traffic {1000 * times[0]:.0f} ms in large pages "
            f"({moved / times[0] / 1e9:.1f} GB/s), {1000 * times[1]:.0f} ms in small ones; ours "
            f"{milliseconds(seconds['ours'])} ms"
        )
    bench.say(
        "",
        "Bound: the dense work and the bare memory traffic (large pages) one after the other. Traffic: all expert "
        "weights read twice and gradients of their size written once into new memory.",
        "",
        *notes,
    )


def can(bench: Bench, name: str, case: Case) -> bool:
    """torchscale may be missing, and has no dropless training."""
    return name != "torchscale" or (bench.torchscale is not None and (case.capacity_factor > 0 or not case.training))


def memory_and_evaluation(bench: Bench, train: Case, evaluate: Case) -> None:
    """Peak memory of a step, and evaluation against torchscale's own capacity."""
    names = ["dense", "ours"] + (["torchscale"] if bench.torchscale else [])
    bench.say("", "| step | variant | ms | peak memory, MiB |", "|---|---|---|---|")
    for what, case in (("training", train), ("evaluation", evaluate)):
        peaks: Dict[str, float] = {}
        seconds = bench.measure(case, names, peaks)
        for name in names:
            bench.say(
                f"| {what}, {case.tokens} tokens, {case.experts} experts | {name} | {milliseconds(seconds[name])} "
                f"| {peaks[name]:.0f} |"
            )
        if bench.torchscale:
            bench.say(f"| | torchscale / ours | {ratio(seconds['torchscale'], seconds['ours'])} | |")


def gpu(bench: Bench) -> None:
    """bf16, 16,384 tokens on one GPU: milliseconds by CUDA events, and time over dense."""
    bench.say("", f"## {torch.cuda.get_device_name()}: forward and backward, bf16, 16,384 tokens, top-1, load 1.5", "")
    bench.say("| experts | capacity | dense, ms | variant | ms | over dense |", "|---|---|---|---|---|---|")
    for experts in EXPERTS:
        for factor, path in ((1.0, "bmm"), (0.0, "grouped_mm"), (1.0, "grouped_mm")):
            case = Case(tokens=16384, experts=experts, load=1.5, capacity_factor=factor)
            dense, ours = Dense(case), Ours(case, path)
            times: Dict[str, List[float]] = {"dense": [], "ours": []}
            for layer in (dense, ours):
                on_gpu(layer)
            for turn in range(3 + bench.rounds):
                for name, layer in (("dense", dense), ("ours", ours)):
                    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    start.record()
                    layer.step()
                    end.record()
                    torch.cuda.synchronize()
                    if turn >= 3:
                        times[name].append(start.elapsed_time(end))
            bench.say(
                f"| {experts} | {factor:g} | {spread(times['dense']).median:.2f} | {path} "
                f"| {spread(times['ours']).median:.2f} | {ratio(times['ours'], times['dense'])} |"
            )


def on_gpu(layer: Layer) -> None:
    """Weights, inputs and scores in bf16 on the GPU; scores stay float32, as routers compute them."""
    layer.module.to("cuda", torch.bfloat16)
    inputs = layer.inputs
    for name in ("x_BTD", "grad_BTD", "score_NE"):
        dtype = torch.float32 if name == "score_NE" else torch.bfloat16
        tensor = getattr(inputs, name).detach().to("cuda", dtype)
        setattr(inputs, name, tensor.requires_grad_(name != "grad_BTD"))


TABLES = [*("x".join(map(str, condition)) for condition in CONDITIONS), "memory", "gpu"]


def tables_of(bench: Bench, quick: bool, tables: List[str]) -> None:
    """Every question of the benchmark, one table each."""
    main = Case(64, 8, dim=32, hidden_dim=64, load=1.5) if quick else Case(4096, 32, load=1.5)
    for threads, tokens, top_k in CONDITIONS:
        if f"{threads}x{tokens}x{top_k}" not in tables:
            continue
        cases = training_cases(threads, tokens, top_k, quick)
        bench.say("", f"## Forward and backward, {cases[0].tokens} tokens, top-{top_k}, {threads} thread(s)")
        whole = (threads, tokens, top_k) == CONDITIONS[0]  # the others leave out what adds little
        other_path = ["ours loop"] if threads > 1 else ["ours bmm"] if whole else []
        training(bench, [case for case in cases if whole or case.capacity_factor], other_path)
    if "memory" in tables:
        bench.say("", "## Memory, and evaluation against torchscale's own capacity (one thread)")
        memory_and_evaluation(bench, main, main._replace(training=False, capacity_factor=0.0))
    if "gpu" in tables and torch.cuda.is_available():
        gpu(bench)


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torchscale-python", metavar="PATH", help="interpreter that has torchscale 0.3.0")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every variant and case")
    parser.add_argument("--quick", action="store_true", help="one tiny case, one round: does the benchmark work?")
    tables = f"of {', '.join(TABLES)}: threads x tokens x experts per token, or what it says"
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=tables)
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    options = parser.parse_args(arguments)
    title = "MoE feed-forward: time over a dense feed-forward of the same active work"
    write = options.out is not None or not options.quick
    report = Report(title, "moe_feed_forward", arguments, out=options.out, write=write)
    bench = Bench(1 if options.quick else options.rounds, options.torchscale_python, report.add)
    tables_of(bench, options.quick, [TABLES[0], "memory", "gpu"] if options.quick else options.only)
    if report.out is not None:
        print(f"wrote {report.out}")


if __name__ == "__main__":
    main(sys.argv[1:])

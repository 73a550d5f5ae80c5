#!/usr/bin/env python
"""How fast is a training step against stock fairseq, and where does the gain come from?

    python scripts/benchmarks/train_step.py DATA [--rounds N] [--only small large memory gpu] [--out FILE.md]

DATA is a folder of `opus100 prepare`. Stock is `--arch transformer --criterion label_smoothed_cross_entropy --optimizer
adam`; ours is `--arch transformer_mt --residual post` with the package's loss and optimiser, from the same weights, on
the same batches, through the same fairseq Trainer. Losses are compared step by step first, without dropout; then the
variants, each a process of its own, take turns. On one CPU thread times are CPU times; on a GPU, wall times in bf16.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List

import torch
from _report import Report
from _training import VARIANTS, Case, make
from _turns import Worker, ratio, serve, spread, take_turns
from _vocabulary_memory import LOSSES, LossCase

TOLERANCE = 2e-4  # of the loss, after as many updates as are compared
COMPARED = 4
SMALL = dict(layers=3, dim=192, hidden_dim=768, heads=4)
LARGE = dict(layers=6, dim=512, hidden_dim=2048, heads=8, vocabulary=64000, batches=2)
TINY = dict(layers=1, dim=16, hidden_dim=16, heads=2, batches=2, max_tokens=512)
TABLES = ("small", "large", "memory", "gpu")


class Bench:
    """Runs cases and reports them."""

    def __init__(self, rounds: int, peak: float, say: Callable[..., None]):
        self.rounds, self.peak = rounds, peak
        self.say = say  # prints lines of the report


def workers(case, names: List[str]) -> Dict[str, Worker]:
    script = Path(__file__).resolve()
    return {name: Worker(sys.executable, script, name, case._asdict()) for name in names}


def check(found: Dict[str, Worker]) -> None:
    """Give all variants the weights of stock and compare their losses, update by update.

    Raises:
        ValueError: a variant learns something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        found["stock"].ask("save", f"{folder}/weights.pt")
        losses = {}
        for name, worker in found.items():
            worker.ask("load", f"{folder}/weights.pt")
            losses[name] = worker.ask("take_losses", COMPARED)
    for name, values in losses.items():
        for update, (value, wanted) in enumerate(zip(values, losses["stock"], strict=True)):
            if not abs(value - wanted) < TOLERANCE * abs(wanted):
                raise ValueError(f"{name}: the loss of update {update} is {value}, stock's is {wanted}")


def step_times(bench: Bench, case: Case, names: List[str], label: str) -> None:
    """One block of the table: every variant against stock."""
    found = workers(case, names)
    try:
        if not case.dropout and case.device == "cpu":
            check(found)
        facts = found["stock"].ask("facts")
        turns = take_turns(found, bench.rounds)
        peaks = {name: worker.ask("peak_memory") for name, worker in found.items()}
        found_products = found["ours"].ask("product_share" if case.device == "cpu" else "product_flops")
    finally:
        for worker in found.values():
            worker.close()
    on_cpu = case.device == "cpu" and case.threads == 1
    seconds = {name: [step.cpu if on_cpu else step.wall for step in steps] for name, steps in turns.items()}
    pads = f"{100 * facts['source_pads']:.1f} / {100 * facts['target_pads']:.1f} %"
    for name in names:
        time = spread(seconds[name])
        bench.say(
            f"| {label} | {pads} | {name} | {1000 * time.median:.0f} ({1000 * time.low:.0f}-{1000 * time.high:.0f}) | "
            f"{facts['tokens'] / time.median:.0f} | {ratio(seconds['stock'], seconds[name])} | {peaks[name]:.0f} |"
        )
    ours = spread(seconds["ours"]).median
    if case.device == "cpu":
        bound = spread(seconds["stock"]).median / (ours * found_products)
        bench.say(f"| {label} | {pads} | bound: ours, were its matrix products all | | | {bound:.2f} | |")
    else:
        speed = found_products / ours / 1e12
        bench.say(f"| {label} | {pads} | ours: {speed:.0f} TFLOP/s, {speed / bench.peak:.0%} of the peak | | | | |")


def steps(bench: Bench, data: str, title: str, shape: Dict[str, int], names: List[str], whole: bool) -> None:
    """A table of training steps of one shape: without dropout, with it, on batches without padding and with much."""
    bench.say(
        "",
        f"## {title}",
        "",
        "| batches | pads, source / target | variant | ms per update | target tokens/s | "
        "stock / variant | peak memory, MiB |",
        "|" + "---|" * 7,
    )
    case = Case(data=data, **shape)
    step_times(bench, case, names, "no dropout, losses equal")
    if not whole:
        return
    step_times(bench, case._replace(dropout=0.1), ["stock", "ours"], "dropout 0.1")
    if case.vocabulary:  # pads are few, and what they cost was seen with the data's own vocabulary
        return
    step_times(bench, case._replace(pads=False), ["stock", "ours"], "no pads at all")
    step_times(bench, case._replace(mixed_lengths=True), ["stock", "ours"], "lengths mixed at random")


def memory(bench: Bench, case: LossCase) -> None:
    """Peak memory of projection and loss, forward and backward, each variant in fresh processes."""
    size = f"{case.tokens} target tokens, {case.vocabulary} symbols, width {case.dim}"
    bench.say("", f"## Peak memory of the loss: {size}", "")
    bench.say("| variant | MiB over a process that holds the inputs | stock / variant | loss |", "|---|---|---|---|")
    peaks, losses = {}, {}
    for name in LOSSES:
        worker = workers(case, [name])[name]
        try:
            peaks[name], losses[name] = worker.ask("peak_memory"), worker.ask("loss")
        finally:
            worker.close()
        bench.say(f"| {name} | {peaks[name]:.0f} | {peaks['stock'] / max(peaks[name], 1):.1f} | {losses[name]:.3f} |")
        if not abs(losses[name] - losses["stock"]) < TOLERANCE * losses["stock"]:
            raise ValueError(f"{name} has another loss than stock")


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(
            lambda name, **case: LOSSES[name](**case) if name in LOSSES and "tokens" in case else make(name, **case),
            arguments[1:],
        )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", help="folder of opus100 prepare")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every variant and case")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE", help=f"of {', '.join(TABLES)}"
    )
    parser.add_argument("--only-ours", action="store_true", help="stock and ours, without what lies between")
    parser.add_argument("--peak-tflops", type=float, default=989, help="of a GPU in bf16 (default: H100, H200)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round: does the benchmark work?")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    options = parser.parse_args(arguments)
    title, write = "A training step against stock fairseq", options.out is not None or not options.quick
    report = Report(title, "train_step", arguments, out=options.out, write=write)
    bench = Bench(1 if options.quick else options.rounds, options.peak_tflops, report.add)
    names = ["stock", "ours"] if options.quick or options.only_ours else list(VARIANTS)
    small, large = (TINY, {**TINY, "vocabulary": 9000}) if options.quick else (SMALL, LARGE)
    if "small" in options.only:
        title = "3 + 3 layers, width 192, the data's own vocabulary, one thread"
        steps(bench, options.data, title, small, names, not options.quick)
    if "large" in options.only:
        title = "6 + 6 layers, width 512, 64,000 symbols, one thread"
        steps(bench, options.data, title, large, names, not (options.quick or options.only_ours))
    if "memory" in options.only:
        memory(bench, LossCase(64, 500, 16) if options.quick else LossCase())
    if "gpu" in options.only and torch.cuda.is_available():
        bench.say("", f"{torch.cuda.get_device_name()}, bf16, 16,384 tokens")
        shape = {**LARGE, "max_tokens": 16384, "device": "cuda", "batches": 4}
        steps(bench, options.data, "6 + 6 layers, width 512, 64,000 symbols, GPU", shape, names, True)


if __name__ == "__main__":
    main(sys.argv[1:])

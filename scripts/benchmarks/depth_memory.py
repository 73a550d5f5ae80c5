#!/usr/bin/env python
"""What does depth cost, and length, and vocabulary? Memory and time of a training step, with and without recomputation.

    python scripts/benchmarks/depth_memory.py [--tokens 512] [--length 32] [--symbols 4000] [--out FILE.md]

Every model is a process of its own. Weights, gradients and Adam's moments are in memory before the step whose peak is
measured: what the step adds are activations and passing copies. CPU time on one thread, wall time on a GPU.

On the CPU glibc before 2.38 keeps several times the activations that recomputation leaves, because aligned blocks of
many sizes do not fit into each other's holes. MALLOC_MMAP_THRESHOLD_=65536 in the environment avoids it.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import torch
from _report import Report
from _turns import MIB, Variant, Worker, machine, serve, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package beside this script, whatever is installed

DEPTHS = (10, 50, 100, 200, 500, 1000)  # encoder and decoder layers together
VARIANTS = {"kept": [], "recomputed": ["--checkpoint-activations"]}


class Training(Variant):
    """One model, its optimiser and a batch without padding.

    Args:
        flags: of the architecture, beside its size.
        layers: of encoder and decoder together.
        shape: width, feed-forward, heads.
        tokens: of a batch, on each side.
        length: tokens of a sentence.
        symbols: rows of the one embedding.
    """

    def __init__(self, flags: List[str], *, layers: int, shape: List[int], tokens: int, length: int, symbols: int):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        logging.disable(logging.INFO)
        import fairseq_plugins

        fairseq_plugins.register()
        from fairseq.data import Dictionary

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        words = Dictionary()
        for number in range(symbols - len(words)):
            words.add_symbol(f"w{number}")
        self.words, self.size_BT = words, (tokens // length, length)
        self._train(flags, 2, shape)
        self.step()  # loads the libraries' code, which is not what depth costs
        del self.model, self.optimiser, self.criterion
        self._train(flags, layers, shape)
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter).zero_()
        self.optimiser.step()  # gradients of zero change nothing but make Adam's moments

    def _train(self, flags: List[str], layers: int, shape: List[int]) -> None:
        from fairseq import criterions, models, optim, options
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        arguments = ["no-data", "--task", "translation", "--arch", "transformer_mt", "--share-all-embeddings"]
        arguments += ["--label-smoothing", "0.1", "--optimizer", "adam", "--lr", "1e-4", *flags]
        for side in ("encoder", "decoder"):
            names = ("layers", "embed-dim", "ffn-embed-dim", "attention-heads")
            for name, value in zip(names, (layers // 2, *shape), strict=True):
                arguments += [f"--{side}-{name}", f"{value}"]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
        task = SimpleNamespace(source_dictionary=self.words, target_dictionary=self.words)
        self.model = models.build_model(cfg.model, task).to(self.device)
        self.criterion = criterions.build_criterion(cfg.criterion, task)
        self.optimiser = optim.build_optimizer(cfg.optimizer, list(self.model.parameters()))
        rows_BT = torch.randint(self.words.nspecial, len(self.words), self.size_BT)
        rows_BT = rows_BT.to(self.device)
        inputs = {"src_tokens": rows_BT, "src_lengths": None, "prev_output_tokens": rows_BT}
        self.batch = {"net_input": inputs, "target": rows_BT, "ntokens": rows_BT.numel()}

    def step(self) -> None:
        """Forward, backward and Adam, as a training does them."""
        self.model.train()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss, tokens, _ = self.criterion(self.model, self.batch)
        (loss / tokens).backward()
        self.optimiser.step()

    def parameters(self) -> int:
        """Number of parameters, shared ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def peak_memory(self) -> float:
        """MiB that the first step adds, at its peak, to weights, gradients and moments."""
        return self.peak_of_step()

    def times(self, rounds: int) -> List[float]:
        """Seconds of some steps, each after others have run."""
        found = []
        for _ in range(rounds):
            start = self._clock()
            self.step()
            found.append(self._clock() - start)
        return found

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def make(variant: str, **case: Any) -> Training:
    """What a worker process holds."""
    flags = ["--residual", case.pop("residual"), "--criterion", case.pop("criterion")]
    return Training([*VARIANTS[variant], *flags], **case)


def measure(case: Dict[str, Any], variant: str, rounds: int) -> Tuple[int, float, List[float]]:
    """Parameters, MiB and seconds of one model in a process of its own."""
    worker = Worker(sys.executable, Path(__file__).resolve(), variant, case)
    try:
        return worker.ask("parameters"), worker.ask("peak_memory"), worker.ask("times", rounds)
    finally:
        worker.close()


def table(report: Report, case: Dict[str, Any], depths: List[int], rounds: int, limit: float) -> None:
    """The table; a model whose activations would not fit into `limit` MiB is left out and said to be."""
    clock = "wall time" if torch.cuda.is_available() else "CPU time"
    columns = ["layers", "parameters", "weights, gradients, moments: MiB"]
    for variant in VARIANTS:
        columns += [f"{variant}: MiB", f"{variant}: seconds ({clock})"]
    report.header(columns)
    seen: Dict[str, Tuple[int, float]] = {}  # the largest model so far
    for layers in depths:
        parameters, cells = 0, []
        for variant in VARIANTS:
            layers_seen, peak_seen = seen.get(variant, (1, 0.0))
            expected = peak_seen * layers / layers_seen
            if expected > limit:
                cells += [f"about {expected:.0f}, not run", "-"]
                continue
            parameters, peak, seconds = measure({**case, "layers": layers}, variant, rounds)
            seen[variant] = layers, peak
            cells += [f"{peak:.0f}", f"{spread(seconds)}"]
        report.row(layers, f"{parameters:,}", f"{16 * parameters / MIB:.0f}", *cells)


def free_memory() -> float:
    """MiB that a model may take: of the GPU if there is one, else of the machine, with some room left."""
    if torch.cuda.is_available():
        return 0.9 * torch.cuda.mem_get_info()[0] / MIB
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return 0.7 * int(line.split()[1]) / 1024


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS), help="encoder and decoder together")
    parser.add_argument("--shape", default="64-128-2", help="width-feedforward-heads (default: %(default)s)")
    parser.add_argument("--residual", default="deepnorm", help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=512, help="per batch and side (default: %(default)s)")
    parser.add_argument("--length", type=int, default=32, help="tokens of a sentence (default: %(default)s)")
    parser.add_argument("--symbols", type=int, default=4000, help="of the vocabulary (default: %(default)s)")
    parser.add_argument("--criterion", default="label_smoothed_cross_entropy", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    if any(layers < 2 or layers % 2 for layers in asked.depths) or not 1 <= asked.length <= min(asked.tokens, 1024):
        parser.error("--depths must be even numbers, and --length at most --tokens and 1024")
    shape = [int(number) for number in asked.shape.split("-")]
    case = dict(shape=shape, tokens=asked.tokens, length=asked.length, symbols=asked.symbols)
    title = "Memory and time of a training step against depth"
    report = Report(title, "depth_memory", arguments, out=asked.out, where=where())
    report.add(f"`--residual {asked.residual}`, {asked.shape}, {asked.tokens} tokens in sentences of {asked.length} on "
             f"each side, {asked.symbols:,} symbols, float32, dropout 0.1. kept: activations stay for the backward "
             "pass; recomputed: `--checkpoint-activations`. MiB: what a step adds at its peak to weights, gradients "
             "and Adam's moments; seconds per update: median of the rounds, and extremes.", "")  # fmt: skip
    case.update(residual=asked.residual, criterion=asked.criterion)
    table(report, case, sorted(asked.depths), asked.rounds, free_memory())
    print(f"wrote {report.out}")


def where() -> str:
    """The machine, what is set of the C library's allocator, and the GPU if there is one."""
    allocator = "".join(f"; {name}={value}" for name, value in os.environ.items() if name.startswith("MALLOC_"))
    return machine() + allocator + (f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


if __name__ == "__main__":
    main(sys.argv[1:])

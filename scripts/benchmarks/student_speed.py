#!/usr/bin/env python
"""How much faster than its teacher does a student encode text?

    python scripts/benchmarks/student_speed.py [--rounds N] [--batch B] [--length T] [--only NAME ...] [--out FILE.md]

Encoders of the shapes of MiniLM's students, and those of examples/minilmv2, with random weights encode one batch
without gradients. The variants, each a process of its own, take turns; times are CPU times of one thread, which other
work on the machine disturbs least. The papers' column is what MiniLM reports for its shapes, on a GPU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from _report import Report
from _turns import Variant, Worker, machine, ratio, serve, spread, take_turns

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package beside this script, whatever is installed

VOCABULARY = 8000
BASE, TINY = "12x768", "12x128"
# teacher -> student -> (layers, width, heads, times as fast in MiniLM's Table 1 and Section 4, 0: not there)
TEACHERS: Dict[str, Dict[str, Tuple[int, int, int, float]]] = {
    BASE: {BASE: (12, 768, 12, 0), "6x768": (6, 768, 12, 2.0), "12x384": (12, 384, 12, 2.7),
           "6x384": (6, 384, 12, 5.3), "4x384": (4, 384, 12, 7.8), "3x384": (3, 384, 12, 10.1)},
    TINY: {TINY: (12, 128, 4, 0), "6x128": (6, 128, 4, 0), "3x128": (3, 128, 4, 0)},
}  # fmt: skip


class Encoder(Variant):
    """A `transformer_mlm` that encodes one batch."""

    def __init__(self, name: str, layers: int, width: int, heads: int, batch: int, length: int):
        import fairseq_plugins

        fairseq_plugins.register()
        from types import SimpleNamespace

        from fairseq.data import Dictionary
        from fairseq.models import MODEL_REGISTRY
        from omegaconf import OmegaConf

        torch.set_num_threads(1)
        torch.manual_seed(0)
        words = Dictionary()
        for number in range(VOCABULARY):
            words.add_symbol(str(number))
        shape = dict(encoder_layers=layers, encoder_embed_dim=width, encoder_ffn_embed_dim=4 * width,
                     encoder_attention_heads=heads)  # fmt: skip
        roberta = dict(activation_fn="gelu", encoder_learned_pos=True, layernorm_embedding=True,
                       no_scale_embedding=True, max_source_positions=512)  # fmt: skip
        cfg = OmegaConf.create({**shape, **roberta})
        task = SimpleNamespace(source_dictionary=words, cfg={})
        self.model = MODEL_REGISTRY["transformer_mlm"].build_model(cfg, task).eval()
        self.tokens = torch.randint(words.nspecial, len(words), (batch, length))

    @torch.no_grad()
    def step(self) -> None:
        self.model(self.tokens, features_only=True)


def make(name: str, **case: int) -> Encoder:
    """A worker's variant."""
    return Encoder(name, **case)


def measure(teacher: str, asked: Any, report: Report) -> None:
    """The rows of one teacher and its students."""
    names = [name for name in TEACHERS[teacher] if not asked.only or name in (teacher, *asked.only)]
    workers: Dict[str, Worker] = {}
    try:
        for name in names:
            layers, width, heads, _ = TEACHERS[teacher][name]
            case = dict(layers=layers, width=width, heads=heads, batch=asked.batch, length=asked.length)
            workers[name] = Worker(sys.executable, Path(__file__).resolve(), name, case)
        turns = take_turns(workers, asked.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    seconds = {name: [step.cpu for step in turns[name]] for name in names}
    for name in names:
        time, paper = spread(seconds[name]), TEACHERS[teacher][name][3]
        report.row(name, f"{1000 * time.median:.0f} ({1000 * time.low:.0f}-{1000 * time.high:.0f})",
                   ratio(seconds[teacher], seconds[name]), f"{paper:g}" if paper else "")  # fmt: skip


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16, help="texts")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--only", nargs="+", default=[], choices=[name for of in TEACHERS.values() for name in of])
    parser.add_argument("--out", type=Path, help="Markdown file (default: a dated one in results/)")
    asked = parser.parse_args(arguments)
    report = Report("How much faster a student encodes", "student_speed", arguments, out=asked.out,
                    where=f"{machine()}; one thread")  # fmt: skip
    report.add(f"{asked.batch} texts of {asked.length} tokens, float32: milliseconds, median of the rounds "
               "(lowest-highest).", "")  # fmt: skip
    report.header(["layers x width", "ms", "teacher / student", "paper"])
    for teacher in TEACHERS:
        measure(teacher, asked, report)
    print(f"wrote {report.out}")


if __name__ == "__main__":
    main(sys.argv[1:])

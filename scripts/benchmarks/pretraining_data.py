#!/usr/bin/env python
"""Does making mT6's batches keep up with training on them?

    python scripts/benchmarks/pretraining_data.py DATA --mono-data MONO [--rounds N] [--out FILE.md]

DATA was written by `opus100 prepare`, MONO by `opus100 mono`. Two processes take turns: one makes batches in place, as
a single loading worker does before it hands them over; the other trains mt6_tiny on batches made before. Each counts
the tokens of its own step, sources and targets without padding. Seconds are CPU time of one thread, so that other work
on the machine counts for neither.
The batches of a loading process are compared with those made in place first.
"""

import argparse
import itertools
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List

import torch
from _report import Report
from _turns import Variant, Worker, ratio, serve, spread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside this script, whatever is installed

OBJECTIVES = ("sc,tsc", "sc,tpsc", "sc,mt")
BATCHES = {"data": 40, "training": 4}  # of one step: long enough for the clock


class Pretraining(Variant):
    """The task, and what fairseq-train would make of it."""

    def __init__(self, words: List[str]):
        torch.set_num_threads(1)
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        import fairseq_plugins

        fairseq_plugins.register()
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        command = ["--task", "mt6_pretraining", "--criterion", "mt6_pretraining", "--arch", "mt6_tiny", "--cpu"]
        command += ["--optimizer", "fused_adam", "--lr", "0.001", "--tokens-per-sample", "128", "--max-tokens", "2048"]
        parser = options.get_training_parser()
        self.cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*words, *command]))
        self.task = tasks.setup_task(self.cfg.task)
        self.task.load_dataset("train")
        self.tokens = 0

    def batches(self, workers: int = 0) -> Iterator[Dict[str, Any]]:
        """Those of the first epoch."""
        epochs = self.task.get_batch_iterator(
            self.task.dataset("train"), max_tokens=2048, required_batch_size_multiple=8, seed=1, num_workers=workers
        )
        return epochs.next_epoch_itr(shuffle=True)

    def count(self, batch: Dict[str, Any]) -> int:
        """Real tokens of a batch."""
        pad = self.task.source_dictionary.pad()
        parts = batch["objectives"].values()
        return sum(int(part["net_input"]["src_tokens"].ne(pad).sum()) + part["ntokens"] for part in parts)

    def tokens_of_step(self) -> int:
        return self.tokens


class Making(Pretraining):
    """Makes batches."""

    def __init__(self, words: List[str]):
        super().__init__(words)
        self.endless = itertools.chain.from_iterable(self.batches() for _ in itertools.count())

    def step(self) -> None:
        made = [next(self.endless) for _ in range(BATCHES["data"])]
        self.tokens = sum(map(self.count, made))

    def same_from_a_worker(self, batches: int) -> bool:
        """Whether a loading process makes the same batches."""
        pairs = itertools.islice(zip(self.batches(), self.batches(workers=1), strict=True), batches)
        return all(_same(here, there) for here, there in pairs)


class Training(Pretraining):
    """Trains on batches made before."""

    def __init__(self, words: List[str]):
        super().__init__(words)
        from fairseq.trainer import Trainer

        torch.manual_seed(1)
        model, criterion = self.task.build_model(self.cfg.model), self.task.build_criterion(self.cfg.criterion)
        self.trainer = Trainer(self.cfg, self.task, model, criterion)
        self.trainer.get_train_iterator(epoch=1)
        self.made = list(itertools.islice(self.batches(), 8 * BATCHES["training"]))
        self.taken = 0

    def step(self) -> None:
        self.tokens = 0
        for _ in range(BATCHES["training"]):
            batch = self.made[self.taken % len(self.made)]
            self.taken += 1
            self.trainer.train_step([batch])
            self.tokens += self.count(batch)

    def release(self) -> None:
        self.trainer.zero_grad()


def make(name: str, words: List[str]) -> Pretraining:
    """For `_turns.serve`."""
    return {"data": Making, "training": Training}[name](words)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def rates(workers: Dict[str, Worker], rounds: int) -> Dict[str, List[float]]:
    """Tokens per second of CPU time, round by round."""
    found: Dict[str, List[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds = worker.step().cpu
            found[name].append(worker.ask("tokens_of_step") / seconds)
    return found


def main(arguments: List[str]) -> None:
    """The command line."""
    if arguments[:1] == ["--worker"]:
        return serve(make, arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of opus100 prepare")
    parser.add_argument("--mono-data", type=Path, required=True, help="folder of opus100 mono")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=OBJECTIVES, help="mixes (default: all)")
    parser.add_argument("--no-file", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    title = "Making mT6's batches against training on them"
    report = Report(title, "pretraining_data", arguments, out=asked.out, write=not asked.no_file)
    report.add("mt6_tiny, 2,048 tokens per batch, blocks of 128; thousands of tokens per second of CPU time, one "
               "thread each, median (lowest-highest).", "")  # fmt: skip
    report.header(["objectives", "batches made", "batches trained on", "ratio"])
    for objectives in asked.only:
        words = [str(asked.data), "--mono-data", str(asked.mono_data), "--objectives", objectives]
        workers = {name: Worker(sys.executable, Path(__file__), name, {"words": words}) for name in BATCHES}
        try:
            if not workers["data"].ask("same_from_a_worker", 20):
                raise SystemExit(f"{objectives}: a loading process made other batches")
            found = rates(workers, asked.rounds)
        finally:
            for worker in workers.values():
                worker.close()
        thousands = {name: spread([rate / 1000 for rate in of]) for name, of in found.items()}
        report.row(objectives, thousands["data"], thousands["training"], ratio(found["data"], found["training"]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""One training step of stock fairseq or of this package, through fairseq's own Trainer: variants for `_turns`."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import torch
from _turns import Variant

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package beside this script, whatever is installed


class Case(NamedTuple):
    """What is trained on what; plain values, so that they reach a worker."""

    data: str  # folder of `opus100 prepare`
    layers: int = 3  # of each side
    dim: int = 192
    hidden_dim: int = 768
    heads: int = 4
    vocabulary: int = 0  # rows of the embedding, filled up where the dictionary has fewer; 0 = as many as it has
    max_tokens: int = 2048
    dropout: float = 0.0
    pads: bool = True  # False: every pad is replaced by a symbol
    mixed_lengths: bool = False  # batches of sentences as they come, not sorted by length: a third is padding
    threads: int = 1
    batches: int = 4  # as many different ones take turns
    device: str = "cpu"  # or cuda, in bf16


STOCK = ["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam"]
OURS = ["--arch", "transformer_mt", "--residual", "post", "--criterion", "chunked_label_smoothed_cross_entropy"]
VARIANTS: Dict[str, List[str]] = {
    "stock": ["--arch", "transformer", *STOCK],
    "ours": [*OURS, "--optimizer", "fused_adam"],
    "ours, stock Adam": [*OURS, "--optimizer", "adam"],
    "ours, stock loss and Adam": [*OURS, *STOCK],
}


class Training(Variant):
    """A trainer that takes one step at a time over a few batches, the same for all variants."""

    def __init__(self, name: str, case: Case):
        torch.set_num_threads(case.threads)
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        import fairseq_plugins

        fairseq_plugins.register()
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.trainer import Trainer

        self.case = case
        words = command(case) + VARIANTS[name]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
        task = tasks.setup_task(cfg.task)
        for dictionary in {id(d): d for d in (task.source_dictionary, task.target_dictionary)}.values():
            if case.vocabulary:
                dictionary.pad_to_multiple_(case.vocabulary)
        torch.manual_seed(1)
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        self.losses: List[float] = []
        criterion.register_forward_hook(self._remember)
        self.trainer = Trainer(cfg, task, model, criterion)
        iterator = self.trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        if case.mixed_lengths:
            iterator = mixed(task.dataset("train"), case.max_tokens)
        self.batches = [self._batch(batch) for _, batch in zip(range(case.batches), iterator, strict=False)]
        self.taken = 0

    def step(self) -> None:
        """Forward, backward, clipping, Adam."""
        self.trainer.train_step([self.batches[self.taken % len(self.batches)]])
        self.taken += 1

    def facts(self) -> Dict[str, float]:
        """Tokens of a step, on average, and the share of each side's rows that are padding."""
        rows = {"src_tokens": 0, "prev_output_tokens": 0}
        real = dict(rows)
        for batch in self.batches:
            for side in rows:
                tokens = batch["net_input"][side]
                rows[side] += tokens.numel()
                real[side] += int(tokens.ne(self.pad).sum())
        parameters = sum(parameter.numel() for parameter in self.trainer.model.parameters())
        return {
            "tokens": real["prev_output_tokens"] / len(self.batches),
            "source_pads": 1 - real["src_tokens"] / rows["src_tokens"],
            "target_pads": 1 - real["prev_output_tokens"] / rows["prev_output_tokens"],
            "parameters": parameters,
        }

    def release(self) -> None:
        self.trainer.zero_grad()

    def product_share(self) -> float:
        """Share of a step's time that matrix products take, attention's among them."""
        with torch.profiler.profile() as profile:
            for _ in self.batches:
                self.step()
        events = profile.key_averages()
        products = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
        attention = "scaled_dot_product"
        time = sum(e.self_cpu_time_total for e in events if e.key in products or attention in e.key)
        return time / sum(e.self_cpu_time_total for e in events)

    def product_flops(self) -> float:
        """Floating-point operations of a step's matrix products, on average."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            for _ in self.batches:
                self.step()
        return counter.get_total_flops() / len(self.batches)

    def save(self, path: str) -> None:
        torch.save(self.trainer.get_model().state_dict(), path)

    def load(self, path: str) -> None:
        self.trainer.get_model().load_state_dict(torch.load(path), strict=True)

    def take_losses(self, steps: int) -> List[float]:
        """Loss per token of the next steps."""
        self.losses.clear()
        for _ in range(steps):
            self.step()
        return list(self.losses)

    @property
    def pad(self) -> int:
        return self.trainer.task.target_dictionary.pad()

    def _remember(self, criterion: Any, inputs: Any, output: Any) -> None:
        self.losses.append(float(output[0]) / float(output[1]))

    def _batch(self, batch: Dict[str, Any]) -> Dict[str, Any]:
        if self.case.pads:
            return batch
        places = [(batch["net_input"], "src_tokens"), (batch["net_input"], "prev_output_tokens"), (batch, "target")]
        for where, side in places:
            where[side] = where[side].masked_fill(where[side].eq(self.pad), self.pad + 5)
        batch["ntokens"] = batch["target"].numel()
        return batch


def mixed(dataset: Any, max_tokens: int) -> Iterator[Dict[str, Any]]:
    """Batches of random sentences, whatever their lengths."""
    generator = torch.Generator().manual_seed(0)
    chosen: List[int] = []
    for index in torch.randperm(len(dataset), generator=generator).tolist():
        longest = max(dataset.num_tokens(other) for other in [*chosen, index])
        if chosen and longest * (len(chosen) + 1) > max_tokens:
            yield dataset.collater([dataset[other] for other in chosen])
            chosen = []
        chosen.append(index)


def make(name: str, **case: Any) -> Training:
    """For `_turns.serve`."""
    return Training(name, Case(**case))


def command(case: Case) -> List[str]:
    """What `opus100 train` would tell fairseq-train, for the shape of `case`."""
    import argparse

    from fairseq_plugins.opus100 import train
    from fairseq_plugins.opus100.run_folder import read_manifest

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    on_gpu = case.device == "cuda"
    words = ["--data", case.data, "--run", "unused", "--precision", "bf16" if on_gpu else "fp32"]
    words += [] if on_gpu else ["--cpu"]
    words += ["--max-tokens", f"{case.max_tokens}", "--dropout", f"{case.dropout}", "--warmup-updates", "100"]
    args = parser.parse_args(words)
    args.data, args.run = args.data.absolute(), args.run.absolute()
    _, found = train.build_command(args, read_manifest(args.data))
    shape = {"layers": case.layers, "embed-dim": case.dim, "ffn-embed-dim": case.hidden_dim}
    shape["attention-heads"] = case.heads
    words = found[found.index("fairseq_cli.train") + 1 :]
    for flag in ("--log-file", "--log-format"):
        place = words.index(flag)
        del words[place : place + 2]
    for side in ("encoder", "decoder"):
        for name, value in shape.items():
            words += [f"--{side}-{name}", f"{value}"]
    return words

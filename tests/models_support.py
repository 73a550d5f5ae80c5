"""Models built as the command line builds them, without data: shared by the model and parity tests."""

import copy
import functools
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import models, options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import fairseq_plugins

fairseq_plugins.register()

TINY_MT = [
    *(
        "--encoder-layers",
        "3",
        "--encoder-embed-dim",
        "16",
        "--encoder-ffn-embed-dim",
        "24",
        "--encoder-attention-heads",
        "4",
    ),
    *(
        "--decoder-layers",
        "2",
        "--decoder-embed-dim",
        "16",
        "--decoder-ffn-embed-dim",
        "20",
        "--decoder-attention-heads",
        "2",
    ),
    *("--dropout", "0.0"),
]


def dictionary(symbols: int = 20) -> Dictionary:
    """`symbols` words after fairseq's four specials."""
    words = Dictionary()
    for number in range(symbols):
        words.add_symbol(f"w{number}")
    return words


def model_config(arch: str, *flags: str, task: str = "translation") -> Any:
    """The whole configuration that `fairseq-train --arch ARCH FLAGS` arrives at."""
    return copy.deepcopy(parsed(arch, *flags, task=task))  # building a model changes it


@functools.lru_cache(maxsize=None)
def parsed(arch: str, *flags: str, task: str) -> Any:
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=["no-data", "--task", task, "--arch", arch, *flags])
    return convert_namespace_to_omegaconf(args)


def build(arch: str, words: Dictionary, *flags: str, task: str = "translation") -> Any:
    """The model of `fairseq-train --arch ARCH FLAGS` over one dictionary, in evaluation mode."""
    return built(model_config(arch, *flags, task=task), words)


def built(cfg: Any, words: Dictionary) -> Any:
    """The model of a whole configuration."""
    holder = SimpleNamespace(
        source_dictionary=words, target_dictionary=words, dictionary=words, output_dictionary=words, cfg=cfg.task
    )
    return models.build_model(cfg.model, holder).eval()


def randomised(words: Dictionary, *flags: str) -> Any:
    """A tiny `transformer_mt` in float64 with every parameter drawn at random."""
    torch.manual_seed(5)
    model = build("transformer_mt", words, *TINY_MT, *flags).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def sentences(words: Dictionary, lengths: list, *, left_pad: bool = False, seed: int = 0) -> torch.Tensor:
    """Random sentences that end in eos, padded to the longest: (B, T) long."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.full((len(lengths), max(lengths)), words.pad())
    for row, length in enumerate(lengths):
        tokens = torch.randint(words.nspecial, len(words), (length,), generator=generator)
        tokens[-1] = words.eos()
        batch[row, -length:] = tokens if left_pad else batch[row, -length:]
        if not left_pad:
            batch[row, :length] = tokens
    return batch


def shifted(target_BT: torch.Tensor, words: Dictionary) -> torch.Tensor:
    """Decoder inputs for right-padded targets: eos first, as fairseq's collater makes them."""
    previous = torch.full_like(target_BT, words.pad())
    previous[:, 0] = words.eos()
    previous[:, 1:] = target_BT[:, :-1].masked_fill(target_BT[:, :-1].eq(words.eos()), words.pad())
    return previous

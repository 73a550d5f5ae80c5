"""A small `unilmv2_seq2seq` with random weights, and what its tests read."""

from typing import Any

import torch
from fairseq.data import Dictionary

from tests.models_support import build, dictionary

SHAPE = ["--encoder-layers", "2", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24",
         "--encoder-attention-heads", "2", "--dropout", "0", "--attention-dropout", "0"]  # fmt: skip
LIMITS = ["--max-source-positions", "15", "--max-target-positions", "14"]
RELATIVE = ["--relative-bias-buckets", "8", "--relative-bias-max-distance", "9"]
PARTS = {
    "plain": ["--relative-bias-buckets", "0", "--segments", "0"],
    "relative": [*RELATIVE, "--segments", "0"],
    "segments": ["--relative-bias-buckets", "0", "--segments", "2"],
    "unilmv2": [*RELATIVE, "--segments", "2"],
    "temperature": [*RELATIVE, "--segments", "2", "--attention-temperature", "20"],
}


def words_of_data(symbols: int = 20) -> Dictionary:
    """Words, two tags and the masks, as `opus100 prepare` orders them."""
    words = dictionary(symbols)
    for symbol in ("__de__", "__en__", "<mask>", "<pseudo_mask>"):
        words.add_symbol(symbol)
    return words


def seq2seq(words: Dictionary, *flags: str, limits: Any = LIMITS) -> Any:
    """A model in float64 and evaluation mode, drawn at random so that outputs differ by what is read."""
    torch.manual_seed(5)
    model = build("unilmv2_seq2seq_tiny", words, *SHAPE, *limits, *flags).double()
    for name, parameter in model.named_parameters():
        norm = name.endswith("norm.weight") or "layernorm" in name and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.1 if norm else 0.5)
    return model

"""Small classifiers as the command line builds them: shared by the tests of sentence heads."""

from typing import Any

import torch

from tests.models_support import build, dictionary

SHAPE = (
    "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 2 --dropout 0 "
    "--attention-dropout 0 --max-source-positions 32"
).split()
HEAD = "language"
WORDS = dictionary()
WORDS.add_symbol("<mask>")


def classifier(*flags: str, arch: str = "transformer_mlm_base", classes: int = 3, words: Any = WORDS) -> Any:
    """A model with a head of so many classes, in float64 and evaluation mode; none with `classes` 0."""
    torch.manual_seed(2)
    model = build(arch, words, *SHAPE, *flags, task="masked_lm")
    if classes:
        model.register_classification_head(HEAD, classes)
    return model.double().eval()


def randomised(model: Any, std: float = 0.3) -> Any:
    """The model, every parameter drawn at random."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model

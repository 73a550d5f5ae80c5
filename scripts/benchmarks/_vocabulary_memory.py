"""Projection and label-smoothed cross-entropy of one batch, stock and chunked: variants for `_turns`."""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from _turns import Variant

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


class LossCase(NamedTuple):
    """Sizes of the batch."""

    tokens: int = 4096
    vocabulary: int = 64000
    dim: int = 512


class Loss(Variant):
    """Holds hidden states, targets and the table; a step is forward and backward of the loss."""

    def __init__(self, tokens: int, vocabulary: int, dim: int):
        torch.set_num_threads(1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator().manual_seed(0)
        x_ND, weight_VD = (torch.randn(rows, dim, generator=generator) for rows in (tokens, vocabulary))
        self.x_ND = x_ND.to(device).requires_grad_()
        self.weight_VD = (weight_VD * dim**-0.5).to(device).requires_grad_()
        self.target_N = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
        self.last = 0.0

    def compute(self) -> torch.Tensor:
        raise NotImplementedError

    def step(self) -> None:
        loss = self.compute()
        loss.backward()
        self.last = float(loss.detach()) / len(self.x_ND)

    def release(self) -> None:
        self.x_ND.grad = self.weight_VD.grad = None

    def loss(self) -> float:
        """Nats per token."""
        return self.last


class Stock(Loss):
    """As fairseq's model and criterion compute it."""

    def compute(self) -> torch.Tensor:
        from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
        from fairseq.utils import log_softmax

        logits = torch.nn.functional.linear(self.x_ND, self.weight_VD)
        return label_smoothed_nll_loss(log_softmax(logits, dim=-1), self.target_N, 0.1, ignore_index=1)[0]


class Chunked(Loss):
    """As this package computes it."""

    def compute(self) -> torch.Tensor:
        from fairseq_plugins.modules.vocabulary_loss import vocabulary_loss

        return vocabulary_loss(self.x_ND, self.weight_VD, self.target_N, smoothing=0.1).loss


LOSSES = {"stock": Stock, "chunked": Chunked}

"""Which tokens ELECTRA's generator puts into masked places, and hardness prediction (arXiv 2003.10555, 2106.13715).

p_G is the generator's distribution over the tokens that may be put there, p_S the one that is drawn from. Plain ELECTRA
has p_S = p_G. Hardness prediction draws more often what the discriminator will find hard: an expected loss under p_G is
the expectation under p_S of p_G / p_S times the loss, whose variance is 0 for p_S* = p_G L_D, normalised.
"""

from typing import Callable, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .vocabulary_loss import tokens_at_a_time

# B batch, T length, N masked tokens, D width of the projection, V vocabulary, C tokens of one chunk
LEAST_LOSS = 1e-6  # of an estimate: p_S must be above 0 wherever p_G is
TINY = torch.finfo(torch.float32).tiny
ROOM = 4  # tensors of one chunk's scores that are there at once


class Scores(NamedTuple):
    """Scores over the vocabulary that are not computed yet: x @ weight.T + bias."""

    x_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor

    def of(self, rows: slice) -> Tensor:
        """Those of some tokens, in float32 at least: (C, V)."""
        scores_CV = F.linear(self.x_ND[rows], self.weight_VD, self.bias_V)
        return scores_CV.to(torch.promote_types(scores_CV.dtype, torch.float32))

    def at(self, tokens_N: Tensor) -> Tensor:
        """That of one symbol for each token, (N,), with gradients and without any other score."""
        exact = torch.promote_types(self.x_ND.dtype, torch.float32)
        chosen_ND = F.embedding(tokens_N, self.weight_VD)
        return (self.x_ND.to(exact) * chosen_ND.to(exact)).sum(dim=-1) + self.bias_V[tokens_N]


class Sample(NamedTuple):
    """One replacement for each masked token; natural logarithms."""

    tokens_N: Tensor
    log_generator_N: Tensor  # log p_G of the replacement
    log_sampler_N: Tensor  # log p_S

    @property
    def ratio_N(self) -> Tensor:
        """Importance weights p_G / p_S; 1 where the generator itself was drawn from."""
        return (self.log_generator_N - self.log_sampler_N).exp()


# From rows of log p_G (C, V) and which tokens they are, to rows of log p_S
Sampler = Callable[[Tensor, slice], Tensor]


def originals_and_places(
    tokens_BT: Tensor, target_BT: Tensor, padding_idx: int, allowed_V: Tensor
) -> Tuple[Tensor, Tensor]:
    """The texts of a masked batch, (B, T) long, and where replacements come, (B, T) bool.

    Masked places whose token is no piece of text, such as an </s> that the stock task has masked, stay as they are.

    Args:
        tokens_BT: the texts with masks.
        target_BT: what was masked, padding elsewhere.
        allowed_V: bool, symbols that may be drawn.
    """
    told_BT = target_BT.ne(padding_idx)
    return torch.where(told_BT, target_BT, tokens_BT), told_BT & allowed_V[target_BT]


@torch.no_grad()
def sample_replacements(
    generator: Scores,
    allowed_V: Tensor,
    *,
    sampler: Optional[Sampler] = None,
    temperature: float = 1.0,
    noise: Optional[torch.Generator] = None,
    chunk: Optional[int] = None,
) -> Sample:
    """Draw a replacement for every masked token, in chunks of tokens; no gradient passes.

    Args:
        generator: scores whose softmax is p_G.
        allowed_V: bool, symbols that may be drawn; p_G is 0 elsewhere.
        sampler: p_S; None: p_G itself.
        temperature: divides the generator's scores; p_G is what comes of that.
        noise: dice; None: torch's own.
        chunk: tokens at a time; None chooses.
    """
    parts = []
    chunk = chunk or max(16, tokens_at_a_time(generator.weight_VD) // ROOM)
    for start in range(0, max(1, len(generator.x_ND)), chunk):
        rows = slice(start, start + chunk)
        log_generator_CV = restrict(generator.of(rows) / temperature, allowed_V)
        log_sampler_CV = log_generator_CV if sampler is None else sampler(log_generator_CV, rows)
        tokens_C1 = draw(log_sampler_CV, noise)[:, None]
        parts.append((tokens_C1, log_generator_CV.gather(1, tokens_C1), log_sampler_CV.gather(1, tokens_C1)))
    return Sample(*(torch.cat(column).squeeze(1) for column in zip(*parts, strict=True)))


def restrict(scores_CV: Tensor, allowed_V: Tensor) -> Tensor:
    """Logarithm of the softmax over allowed symbols, -inf at others."""
    return scores_CV.masked_fill(~allowed_V, -torch.inf).log_softmax(dim=-1)


def draw(log_probability_CV: Tensor, noise: Optional[torch.Generator] = None) -> Tensor:
    """One symbol of each row, (C,) long: the largest sum of log-probability and Gumbel noise.

    Uniform numbers of float32 are multiples of 2^-24, whose noise ends at 16.6: too little for the many symbols of a
    large vocabulary that a confident generator thinks improbable, and which together are not. Two make 48 bits.
    """

    def uniform() -> Tensor:
        return torch.rand(log_probability_CV.shape, generator=noise, device=log_probability_CV.device)

    wait_CV = uniform().mul_(2**-24).add_(uniform()).neg_().log1p_().neg_()  # exponential, fine near 0
    gumbel_CV = wait_CV.clamp_(min=TINY).log_().neg_()
    return gumbel_CV.add_(log_probability_CV).argmax(dim=-1)


def weigh_by_loss(log_generator_CV: Tensor, loss_CV: Tensor) -> Tensor:
    """log p_S of p_S = p_G L, normalised: the best p_S of all with the true losses, HP_Loss with estimated ones."""
    return (log_generator_CV + loss_CV.clamp(min=LEAST_LOSS).log()).log_softmax(dim=-1)


class Hardness(NamedTuple):
    """How a hardness head says which replacements are hard."""

    kind: str  # none; loss: estimates the discriminator's loss (HP_Loss); dist: is p_S itself (HP_Dist)
    # softplus of the score, or sigmoid: sigmoid(score) is what the discriminator will give as probability of
    # "original", and the loss its cross-entropy
    link: str = "softplus"
    floor: float = LEAST_LOSS  # least estimate that p_S is made of; the higher, the nearer p_S is to p_G

    def estimate(self, score: Tensor, is_original: Tensor) -> Tensor:
        """The discriminator's loss, nats, that scores stand for; `is_original` says of which tokens, bool."""
        return F.softplus(torch.where(is_original, -score, score) if self.link == "sigmoid" else score)

    def sampler(self, scores: Scores, original_N: Tensor, allowed_V: Tensor) -> Sampler:
        """p_S.

        Args:
            scores: of the head.
            original_N: the tokens that were masked.
            allowed_V: bool, symbols that may be drawn.
        """

        def by_loss(log_generator_CV: Tensor, rows: slice) -> Tensor:
            scores_CV, original_C1 = scores.of(rows), original_N[rows, None]
            if self.link == "sigmoid":
                scores_CV.scatter_(1, original_C1, -scores_CV.gather(1, original_C1))
            return weigh_by_loss(log_generator_CV, F.softplus(scores_CV).clamp_(min=self.floor))

        def by_itself(log_generator_CV: Tensor, rows: slice) -> Tensor:
            return restrict(scores.of(rows), allowed_V)

        return by_loss if self.kind == "loss" else by_itself

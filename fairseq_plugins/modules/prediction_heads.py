"""Heads that turn hidden states into scores: over the vocabulary, of a token, or over the classes of a whole text."""

from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import xavier_linear

# N tokens (any leading shape), B texts, D model dim, E width of the token table, V vocabulary, C classes


class MaskedTokenHead(nn.Module):
    """BERT's head (Devlin et al. 2019): dense, activation, norm, then the rows of the token embedding and a bias.

    Parameter names are RoBERTa's.

    Args:
        embed_tokens: table whose weight is the output projection.
        activation: elementwise function.
        norm: builds a norm over a width.
        dim: D, where it is not the table's width E (ELECTRA, ALBERT).
    """

    def __init__(
        self,
        embed_tokens: nn.Embedding,
        activation: Callable[[Tensor], Tensor],
        norm: Callable[[int], nn.Module],
        dim: Optional[int] = None,
    ):
        super().__init__()
        width = embed_tokens.embedding_dim
        self.dense = xavier_linear(dim or width, width)
        self.activation = activation
        self.layer_norm = norm(width)
        self.weight = embed_tokens.weight
        self.bias = nn.Parameter(torch.zeros(embed_tokens.num_embeddings))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Logits (N, V)."""
        return F.linear(self.transform(x_ND), self.weight, self.bias)

    def transform(self, x_ND: Tensor) -> Tensor:
        """All but the projection: (N, E)."""
        return self.layer_norm(self.activation(self.dense(x_ND)))


class ReplacedTokenHead(nn.Module):
    """ELECTRA's head (Clark et al. 2020): dense, activation, and one score, above 0 where a token was replaced."""

    def __init__(self, dim: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.dense = xavier_linear(dim, dim)
        self.activation = activation
        self.out_proj = xavier_linear(dim, 1)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Scores (N,)."""
        return self.out_proj(self.activation(self.dense(x_ND))).squeeze(-1)


class SentenceHead(nn.Module):
    """Scores of a text from its first hidden state: RoBERTa's (Liu et al. 2019), or one linear map (UniLMv2).

    Parameter names, and how they start, are those of fairseq's RoBERTa.

    Args:
        dim: model dimension D.
        classes: C; 1 for a regression.
        inner_dim: width of a dense layer with tanh before the projection; None for the projection alone.
        dropout: before each linear map, in training.
    """

    def __init__(self, dim: int, classes: int, *, inner_dim: Optional[int] = None, dropout: float = 0.0):
        super().__init__()
        self.dense = None if inner_dim is None else nn.Linear(dim, inner_dim)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(dim if inner_dim is None else inner_dim, classes)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Scores (B, C)."""
        x_BD = self.dropout(x_BD)
        if self.dense is not None:
            x_BD = self.dropout(torch.tanh(self.dense(x_BD)))
        return self.out_proj(x_BD)

"""Heads that turn hidden states into scores: over the vocabulary, or over the classes of a whole text."""

from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# N tokens (any leading shape), B texts, D model dim, V vocabulary, C classes


class MaskedTokenHead(nn.Module):
    """BERT's head (Devlin et al. 2019): dense, activation, norm, then the rows of the token embedding and a bias.

    Parameter names are RoBERTa's.

    Args:
        embed_tokens: table whose weight is the output projection.
        activation: elementwise function.
        norm: builds a norm over a width.
    """

    def __init__(
        self, embed_tokens: nn.Embedding, activation: Callable[[Tensor], Tensor], norm: Callable[[int], nn.Module]
    ):
        super().__init__()
        dim = embed_tokens.embedding_dim
        self.dense = nn.Linear(dim, dim)
        nn.init.xavier_normal_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.activation = activation
        self.layer_norm = norm(dim)
        self.weight = embed_tokens.weight
        self.bias = nn.Parameter(torch.zeros(embed_tokens.num_embeddings))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Logits (N, V)."""
        return F.linear(self.transform(x_ND), self.weight, self.bias)

    def transform(self, x_ND: Tensor) -> Tensor:
        """All but the projection: (N, D)."""
        return self.layer_norm(self.activation(self.dense(x_ND)))


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

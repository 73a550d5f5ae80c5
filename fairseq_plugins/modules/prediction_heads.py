"""Heads that turn hidden states into scores over the vocabulary."""

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# N tokens (any leading shape), D model dim, V vocabulary


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

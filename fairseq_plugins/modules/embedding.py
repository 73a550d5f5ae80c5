"""Token embeddings and output projections."""

import torch
from torch import nn


def token_embedding(vocabulary: int, dim: int, padding_idx: int) -> nn.Embedding:
    """A (vocabulary, dim) table drawn from N(0, 1/dim), its padding row zero and never updated."""
    embedding = nn.Embedding(vocabulary, dim, padding_idx)
    nn.init.normal_(embedding.weight, std=dim**-0.5)
    with torch.no_grad():
        embedding.weight[padding_idx] = 0
    return embedding


def segment_embedding(segments: int, dim: int) -> nn.Embedding:
    """A (segments, dim) table drawn from N(0, 1/dim)."""
    embedding = nn.Embedding(segments, dim)
    nn.init.normal_(embedding.weight, std=dim**-0.5)
    return embedding


def output_projection(vocabulary: int, dim: int) -> nn.Linear:
    """Logits over the vocabulary from a table of its own, N(0, 1/dim), without bias."""
    projection = nn.Linear(dim, vocabulary, bias=False)
    nn.init.normal_(projection.weight, std=dim**-0.5)
    return projection


def tied_projection(embedding: nn.Embedding) -> nn.Linear:
    """Logits over the vocabulary from the rows of `embedding` itself: one parameter under two names."""
    projection = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
    projection.weight = embedding.weight
    return projection

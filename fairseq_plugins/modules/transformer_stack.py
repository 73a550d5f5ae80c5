"""Embeddings, L layers and the final norm: the one stack under encoders, decoders and language models."""

from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Projections
from .attention_masks import Piece, causal_mask, masked_bias
from .packing import pack, unpack
from .positions import position_ids
from .relative_positions import RelativePositionBias
from .transformer_layer import FeedForwardLayer, LayerContext, TransformerLayer

# B batch, T length, D model dim, L layers


class StackOutput(NamedTuple):
    """Result of one pass through a stack."""

    x_BTD: Tensor  # after the final norm, if the scheme has one
    states: List[Tensor]  # embedding output and every layer's output, (B, T, D) each; empty unless asked for
    auxiliary: List[Tensor]  # auxiliary losses of the feed-forwards that have one


class TransformerStack(nn.Module):
    """A stack that does not know whether it is an encoder or a decoder: masks and memory come with the call.

    Parameter names are fairseq's (`embed_tokens`, `embed_positions`, `layernorm_embedding`, `layers.N`,
    `layer_norm`). The class is made to be a base beside fairseq's own, hence the explicit `nn.Module.__init__`.

    Args:
        embed_tokens: token table; its `padding_idx` tells padding.
        layers: built layers, all of one scheme.
        embed_positions: module from position ids to (..., D), or None.
        embed_segments: table of segments (first and second sentence of a text), or None.
        relative_bias: bias of all self-attention by distance, or None.
        layernorm_embedding: norm of the embeddings, or None.
        embed_project: map from the width of all these tables to D, or None where it is D.
        layer_norm: norm after the last layer (pre-norm schemes), or None.
        embed_scale: factor on the token embedding.
        dropout: on the embeddings, in training.
        checkpoint_activations: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        embed_tokens: nn.Embedding,
        layers: Sequence[Union[TransformerLayer, FeedForwardLayer]],
        *,
        embed_positions: Optional[nn.Module] = None,
        embed_segments: Optional[nn.Module] = None,
        relative_bias: Optional[RelativePositionBias] = None,
        layernorm_embedding: Optional[nn.Module] = None,
        embed_project: Optional[nn.Linear] = None,
        layer_norm: Optional[nn.Module] = None,
        embed_scale: float = 1.0,
        dropout: float = 0.0,
        checkpoint_activations: bool = False,
    ):
        nn.Module.__init__(self)
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.embed_segments = embed_segments
        self.relative_bias = relative_bias
        self.layernorm_embedding = layernorm_embedding
        self.embed_project = embed_project
        self.layers = nn.ModuleList(layers)
        self.layer_norm = layer_norm
        self.embed_scale = embed_scale
        self.embedding_dropout = nn.Dropout(dropout)
        self.checkpoint_activations = checkpoint_activations

    @property
    def attention_layers(self) -> int:
        """Layers that have attention, and so a place in a decoding cache."""
        return sum(isinstance(layer, TransformerLayer) for layer in self.layers)

    @property
    def dim(self) -> int:
        """Width D of the layers."""
        return self.embed_tokens.embedding_dim if self.embed_project is None else self.embed_project.out_features

    def lowest(self, count: int) -> List[nn.Module]:
        """The parts that make the output of the lowest `count` layers, embeddings among them."""
        before = (self.embed_tokens, self.embed_positions, self.embed_segments, self.relative_bias,
                  self.layernorm_embedding, self.embedding_dropout, self.embed_project)  # fmt: skip
        return [part for part in before if part is not None] + list(self.layers)[:count]

    @property
    def padding_idx(self) -> int:
        """Row of the padding symbol."""
        assert self.embed_tokens.padding_idx is not None, "the token table was built without padding"
        return self.embed_tokens.padding_idx

    def embed(
        self, tokens_BT: Tensor, positions_BT: Optional[Tensor] = None, segments_BT: Optional[Tensor] = None
    ) -> Tensor:
        """Scaled token embedding + position + segment, normed, dropped out and brought to the width: (B, T, D).

        Args:
            tokens_BT: long.
            positions_BT: rows of the position table, long, broadcastable; counted from the tokens where not given.
            segments_BT: rows of the segment table, long; all 0 where not given.
        """
        x_BTD = self.embed_scale * self.embed_tokens(tokens_BT)
        if self.embed_positions is not None:
            if positions_BT is None:
                positions_BT = position_ids(tokens_BT, self.padding_idx)
            x_BTD = x_BTD + self.embed_positions(positions_BT).to(x_BTD.dtype)
        if self.embed_segments is not None:
            x_BTD = x_BTD + self.embed_segments(torch.zeros_like(tokens_BT) if segments_BT is None else segments_BT)
        if self.layernorm_embedding is not None:
            x_BTD = self.layernorm_embedding(x_BTD)
        x_BTD = self.embedding_dropout(x_BTD)
        return x_BTD if self.embed_project is None else self.embed_project(x_BTD)

    def transform(self, x_BTD: Tensor, context: LayerContext, keep_states: bool = False) -> StackOutput:
        """Run embedded tokens through all layers; with `context.packed` padding is left out and comes back as 0."""
        states = [x_BTD] if keep_states else []
        context = self._biased(context, x_BTD.size(1))
        x_BTD, more, auxiliary = self._run(self.layers, pack(x_BTD, context.packed), context, keep_states)
        if self.layer_norm is not None:
            x_BTD = self.layer_norm(x_BTD)
        return StackOutput(unpack(x_BTD, context.packed), states + more, auxiliary)

    def projections(self, x_BTD: Tensor, context: LayerContext, number: int) -> Tuple[Projections, List[Tensor]]:
        """Queries, keys and values in the `number`-th layer that has attention, counted from 1, and auxiliary losses.

        Nothing behind those projections is computed.
        """
        place = [index for index, layer in enumerate(self.layers) if isinstance(layer, TransformerLayer)][number - 1]
        context = self._biased(context, x_BTD.size(1))
        x_BTD, _, auxiliary = self._run(list(self.layers)[:place], pack(x_BTD, context.packed), context)
        layer = self.layers[place]
        assert isinstance(layer, TransformerLayer)
        return layer.projections(x_BTD, context), auxiliary

    def _biased(self, context: LayerContext, length: int) -> LayerContext:
        if self.relative_bias is None or context.joint:
            return context
        return _with_bias(context, self.relative_bias, length)

    def _run(
        self, layers: Iterable[nn.Module], x_BTD: Tensor, context: LayerContext, keep_states: bool = False
    ) -> Tuple[Tensor, List[Tensor], List[Tensor]]:
        """Output of the last of `layers`, packed as its input, outputs of each if asked for, auxiliary losses."""
        states: List[Tensor] = []
        auxiliary: List[Tensor] = []
        for layer in layers:
            if self.checkpoint_activations and self.training and torch.is_grad_enabled():
                x_BTD, loss = checkpoint(layer, x_BTD, context, use_reentrant=False)
            else:
                x_BTD, loss = layer(x_BTD, context)
            if keep_states:
                states.append(unpack(x_BTD, context.packed))
            if loss is not None:
                auxiliary.append(loss)
                if layer.training:
                    assert isinstance(layer, (TransformerLayer, FeedForwardLayer))
                    layer.observe(loss.detach())
        return x_BTD, states, auxiliary


def _with_bias(context: LayerContext, relative_bias: RelativePositionBias, length: int) -> LayerContext:
    """The context of `length` tokens whose mask is a bias: kernels take one or the other, and no word for causality."""
    if isinstance(context.self_mask, tuple):
        return context._replace(self_mask=tuple(_biased_pieces(context, context.self_mask, relative_bias)))
    before = 0 if context.cache is None else context.cache.length
    if context.positions_BT is None:
        bias_BHTS = relative_bias.of_line(length, before + length)
    else:
        assert not before, "the cache keeps no positions: it counts tokens that stand in line"
        bias_BHTS = relative_bias(context.positions_BT)
    mask = causal_mask(length, length, bias_BHTS.device) if context.causal else context.self_mask
    return context._replace(self_mask=masked_bias(bias_BHTS, mask), causal=False)


def _biased_pieces(
    context: LayerContext, pieces: Tuple[Piece, ...], relative_bias: RelativePositionBias
) -> Iterator[Piece]:
    assert context.positions_BT is not None and context.cache is None
    end = 0
    for piece in pieces:
        start, end = end, end + piece.queries
        if piece.in_line:
            bias_BHTS = relative_bias.of_line(piece.queries, piece.keys)
        else:
            bias_BHTS = relative_bias(context.positions_BT[:, start:end], context.positions_BT[:, : piece.keys])
        yield piece._replace(mask=masked_bias(bias_BHTS, piece.mask))

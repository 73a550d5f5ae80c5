"""One Transformer layer for every stack: encoder, decoder and encoder-decoder, under every residual scheme."""

from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

from torch import Tensor, nn

from .attention import MultiHeadAttention, Projections
from .attention_masks import Piece
from .decoding_cache import DecodingCache, Recording
from .packing import Packing
from .residual import ResidualScheme

# B batch, T length, S memory length, D model dim


class LayerContext(NamedTuple):
    """What a layer needs beside its input; the same for all layers of one call.

    Masks are bool (True = may look) or float biases that broadcast to (B, heads, T, keys).
    """

    self_mask: Union[Tensor, Tuple[Piece, ...], None] = None
    positions_BT: Optional[Tensor] = None  # for a relative bias, long, (1, T) or (B, T); None: tokens stand in line
    causal: bool = False  # each position sees itself and those before it; instead of a mask, where that says it all
    padding_BT: Optional[Tensor] = None  # True at padding, for feed-forwards that route tokens
    packed: Optional[Packing] = None  # the layer's input holds real tokens alone, (N, D)
    memory_BSD: Optional[Tensor] = None
    memory_mask: Optional[Tensor] = None
    memory_packed: Optional[Packing] = None  # so does the memory
    cache: Union[DecodingCache, Recording, None] = None
    joint: bool = False  # self-attention reads the cache's memory too, in one softmax; masks hold any relative bias


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention if given, feed-forward, each on the residual stream of one scheme.

    With `first_feed_forward` it is DeltaLM's interleaved decoder layer: self-attention, feed-forward, cross-attention,
    feed-forward. The scheme's constants by depth are those of the plain decoder with as many layers: no paper gives
    any for layers of four sublayers.

    Parameter names are fairseq's, but for the feed-forward, which is a slot: `feed_forward.fc1` for a dense one. The
    interleaved layer's first one is `first_feed_forward` with `ffn_layer_norm`, which is DeltaLM's name.

    Args:
        dim: model dimension D.
        scheme: residual scheme of the stack.
        self_attn: built self-attention.
        feed_forward: built module with `forward(x_BTD, padding_BT) -> (y_BTD, auxiliary loss or None)`.
        encoder_attn: built cross-attention, or None.
        first_feed_forward: built module like `feed_forward`, without an auxiliary loss, between the two attentions; or
            None.
        norm: builds a norm over a width.
        dropout: on the output of each sublayer, in training.
        index: number of this layer in its stack, from 0; its place in the decoding cache.
        feed_forward_residual: False where the feed-forward has a residual stream of its own.
    """

    def __init__(
        self,
        dim: int,
        scheme: ResidualScheme,
        self_attn: MultiHeadAttention,
        feed_forward: nn.Module,
        *,
        encoder_attn: Optional[MultiHeadAttention] = None,
        first_feed_forward: Optional[nn.Module] = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        index: int = 0,
        feed_forward_residual: bool = True,
    ):
        super().__init__()
        self.scheme = scheme
        self.index = index
        self.dropout = nn.Dropout(dropout)
        self.self_attn = self_attn
        self.self_attn_layer_norm = norm(dim)
        self.first_feed_forward: Any = first_feed_forward
        if first_feed_forward is not None:
            self.ffn_layer_norm = norm(dim)
        self.encoder_attn = encoder_attn
        if encoder_attn is not None:
            self.encoder_attn_layer_norm = norm(dim)
        self.feed_forward: Any = feed_forward
        self.final_layer_norm = norm(dim) if feed_forward_residual else None

    def forward(self, x_BTD: Tensor, context: LayerContext) -> Tuple[Tensor, Optional[Tensor]]:
        """Returns (B, T, D) and the feed-forward's auxiliary loss (a plain tensor or None)."""

        def self_attention(x_BTD: Tensor) -> Tuple[Tensor, None]:
            k, v = self.self_attn.keys_values(x_BTD, context.packed)
            if context.cache is not None:
                k, v = context.cache.append(self.index, k, v)
            if context.joint:
                return self._joint_attention(x_BTD, k, v, context), None
            y_BTD = self.self_attn(x_BTD, k, v, context.self_mask, causal=context.causal, packed=context.packed)
            return y_BTD, None

        x_BTD, _ = self.scheme.connect(x_BTD, self_attention, self.self_attn_layer_norm, self.dropout)
        if self.first_feed_forward is not None:
            x_BTD, _ = self.scheme.connect(x_BTD, self.first_feed_forward, self.ffn_layer_norm, self.dropout)
        if self.encoder_attn is not None and context.memory_BSD is not None:
            x_BTD = self._read_memory(self.encoder_attn, x_BTD, context.memory_BSD, context)
        if self.final_layer_norm is None:
            return self.feed_forward(x_BTD, context.padding_BT)
        return self.scheme.connect(
            x_BTD, lambda x_BTD: self.feed_forward(x_BTD, context.padding_BT), self.final_layer_norm, self.dropout
        )

    def projections(self, x_BTD: Tensor, context: LayerContext) -> Projections:
        """Queries, keys and values of self-attention, (B, T, D) each, of what `forward` would be given."""
        read_BTD = self.scheme.branch_input(x_BTD, self.self_attn_layer_norm)
        return self.self_attn.projections(read_BTD, context.packed)

    def observe(self, loss: Tensor) -> None:
        """Hand the auxiliary loss of a training pass back to the feed-forward, outside recomputation."""
        self.feed_forward.observe(loss)

    def _joint_attention(self, x_BTD: Tensor, k: Tensor, v: Tensor, context: LayerContext) -> Tensor:
        assert isinstance(context.cache, DecodingCache) and isinstance(context.self_mask, Tensor)
        memory = context.cache.memory[self.index]
        assert memory is not None, "a cache for joint attention begins with the keys and values of its memory"
        return self.self_attn.forward_jointly(x_BTD, k, v, context.self_mask, memory, context.memory_mask)

    def _read_memory(
        self, encoder_attn: MultiHeadAttention, x_BTD: Tensor, memory_BSD: Tensor, context: LayerContext
    ) -> Tensor:
        assert not isinstance(context.cache, Recording), "what records a text has no other text before it"
        kept = None if context.cache is None else context.cache.memory[self.index]
        k, v = encoder_attn.keys_values(memory_BSD, context.memory_packed) if kept is None else kept
        if context.cache is not None:
            context.cache.memory[self.index] = k, v

        def cross_attention(x_BTD: Tensor) -> Tuple[Tensor, None]:
            return encoder_attn(x_BTD, k, v, context.memory_mask, packed=context.packed), None

        x_BTD, _ = self.scheme.connect(x_BTD, cross_attention, self.encoder_attn_layer_norm, self.dropout)
        return x_BTD


class FeedForwardLayer(nn.Module):
    """A layer that is nothing but a feed-forward with a residual stream of its own: X-MoE's inserted layer."""

    def __init__(self, feed_forward: nn.Module):
        super().__init__()
        self.feed_forward: Any = feed_forward

    def forward(self, x_BTD: Tensor, context: LayerContext) -> Tuple[Tensor, Optional[Tensor]]:
        """Returns (B, T, D) and the feed-forward's auxiliary loss."""
        return self.feed_forward(x_BTD, context.padding_BT)

    def observe(self, loss: Tensor) -> None:
        """As in `TransformerLayer`."""
        self.feed_forward.observe(loss)

"""From options to built parts: the only reader of options. Checks them once and hands plain arguments down."""

import math
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.modules import LayerNorm  # NVIDIA apex's fused norm where apex and a GPU are there, else torch's
from omegaconf import open_dict
from torch import nn

from .._training_watch import Watched
from ..modules.attention import MultiHeadAttention
from ..modules.embedding import token_embedding
from ..modules.feed_forward import FeedForward
from ..modules.linear import xavier_linear
from ..modules.positions import build_positions
from ..modules.relative_positions import RelativePositionBias
from ..modules.residual import ResidualScheme, StackSchemes, residual_schemes
from ..modules.rms_norm import RMSNorm
from ..modules.transformer_layer import FeedForwardLayer, TransformerLayer
from ..modules.transformer_stack import TransformerStack
from . import _self_check
from ._build_moe import OptionError, check_moe, moe_at, moe_feed_forward, moe_inserted_after
from ._pruning import check_pruning, layer_pruning

Model = TypeVar("Model", bound=nn.Module)


def embed_dictionary(dictionary: Dictionary, dim: int) -> nn.Embedding:
    """A fresh token table with one row per symbol."""
    return token_embedding(len(dictionary), dim, dictionary.pad())


def norm_of(cfg: Any) -> Callable[[int], nn.Module]:
    """What builds the norms of a model, from a width."""
    return RMSNorm if str(cfg.norm) == "rms" else LayerNorm


def task_options(task: Any) -> Any:
    """The task's own: a legacy task keeps a namespace."""
    return next(filter(None, (getattr(task, "cfg", None), getattr(task, "args", None))), {})


def limit_to_task(cfg: Any, option: str, task: Any) -> None:
    """Give `option` the task's --tokens-per-sample or --max-positions where the user did not say it, in place.

    Not an interpolation as the option's default: legacy tasks have a namespace, in which the engine cannot resolve it.
    """
    if cfg[option] is None:
        options = task_options(task)
        with open_dict(cfg):
            blocks = "tokens_per_sample" in options  # tasks of sentences have the other one
            cfg[option] = options.tokens_per_sample if blocks else options.max_positions


def schemes(cfg: Any, *, encoder: bool, decoder: bool) -> StackSchemes:
    """Residual schemes of the stacks that the model has.

    Raises:
        OptionError: a stack without layers, or an unknown --residual.
    """
    layers = {"encoder": cfg.encoder_layers if encoder else 0, "decoder": cfg.decoder_layers if decoder else 0}
    for side, wanted in (("encoder", encoder), ("decoder", decoder)):
        for name in ("layers", "embed_dim") if wanted else ():  # a token table is made before the rest is looked at
            if cfg[f"{side}_{name}"] < 1:
                raise OptionError(f"--{side}-{name.replace('_', '-')} {cfg[f'{side}_{name}']} must be at least 1")
    _check_watch(cfg, layers)
    _check_relative_bias(cfg)
    check_moe(cfg, [side for side in layers if layers[side]])
    check_pruning(cfg)
    return residual_schemes(str(cfg.residual), layers["encoder"], layers["decoder"])


def stack_arguments(
    cfg: Any, side: str, scheme: ResidualScheme, embed_tokens: nn.Embedding, *, memory_dim: Optional[int] = None
) -> Dict[str, Any]:
    """Arguments of `TransformerStack` for the `encoder` or the `decoder` side of `cfg`.

    A token table of another width than the stack's is brought to it by a linear layer.

    Args:
        cfg: options of a model.
        side: which prefix to read.
        scheme: residual scheme of this stack.
        embed_tokens: token table of this stack.
        memory_dim: width of what cross-attention reads; None builds no cross-attention.

    Raises:
        OptionError: a value out of range, named by its flag.
    """
    dim, hidden, heads = (cfg[f"{side}_{key}"] for key in ("embed_dim", "ffn_embed_dim", "attention_heads"))
    max_positions = cfg["max_source_positions" if side == "encoder" else "max_target_positions"]
    _check(cfg, side, dim, hidden, heads, max_positions)
    activation = utils.get_activation_fn(str(cfg.activation_fn))
    positions = "learned" if cfg[f"{side}_learned_pos"] else "sinusoidal"
    norm = norm_of(cfg)
    head_dim = cfg.attention_head_dim or dim // heads

    def inner_norm(width: int) -> Optional[nn.Module]:
        return norm(width) if scheme.inner_norm else None

    def attention(**parts: Any) -> MultiHeadAttention:
        temperature = cfg.attention_temperature or None
        return MultiHeadAttention(
            dim, heads, head_dim=head_dim, dropout=cfg.attention_dropout, temperature=temperature, **parts
        )

    def dense() -> FeedForward:
        return FeedForward(
            dim,
            hidden,
            activation=activation,
            dropout=cfg.activation_dropout,
            gain=scheme.gain,
            inner_norm=inner_norm(hidden),
            gated=cfg.ffn_gate,
        )

    def feed_forward(index: int) -> nn.Module:
        if moe_at(cfg, side, index):
            place = moe_inserted_after(cfg, side)
            pruning = layer_pruning(cfg, f"{side}.layers.{index + (0 < place <= index)}")
            return moe_feed_forward(cfg, side, index, scheme, activation, pruning=pruning)
        return dense()

    def layer(index: int) -> TransformerLayer:
        return TransformerLayer(
            dim,
            scheme,
            attention(gain=scheme.gain, inner_norm=inner_norm(heads * head_dim)),
            feed_forward(index),
            encoder_attn=None if memory_dim is None else attention(memory_dim=memory_dim, gain=scheme.cross_gain),
            first_feed_forward=dense() if memory_dim is not None and cfg.interleaved_ffn else None,
            norm=norm,
            dropout=cfg.dropout,
            index=index,
            feed_forward_residual=not (moe_at(cfg, side, index) and cfg.moe_expert_sublayers > 1),
        )

    layers: List[Union[TransformerLayer, FeedForwardLayer]] = [layer(index) for index in range(cfg[f"{side}_layers"])]
    place = moe_inserted_after(cfg, side)
    if place:
        pruning = layer_pruning(cfg, f"{side}.layers.{place}")
        inserted = moe_feed_forward(cfg, side, len(layers), scheme, activation, inserted=True, pruning=pruning)
        layers.insert(place, FeedForwardLayer(inserted))
    width = embed_tokens.embedding_dim
    return dict(
        embed_tokens=embed_tokens,
        layers=layers,
        embed_positions=build_positions(
            "none" if cfg.no_token_positional_embeddings else positions, max_positions, width, embed_tokens.padding_idx
        ),
        relative_bias=_relative_bias(cfg, side, dim, heads),
        layernorm_embedding=norm(width) if cfg.layernorm_embedding else None,
        embed_project=None if width == dim else xavier_linear(width, dim),
        layer_norm=norm(dim) if scheme.norm_first else None,
        embed_scale=1.0 if cfg.no_scale_embedding else width**0.5,
        dropout=cfg.dropout,
        checkpoint_activations=cfg.checkpoint_activations,
    )


def watched(model: Model, cfg: Any) -> Model:
    """`model`, built: its first training step checks the residual scheme, and the trainer watches its loss.

    The trainer asks the model and not the configuration, which under hydra lacks the options that nobody wrote.
    """
    _self_check.arm(model)
    stacks = {name: child for name, child in model.named_children() if isinstance(child, TransformerStack)}
    count, bands = cfg.gradient_bands, {}
    for side, stack in stacks.items():
        for band in range(count):
            first, end = (len(stack.layers) * edge // count for edge in (band, band + 1))
            bands[f"{side}_grad_{band + 1}of{count}"] = tuple(f"{side}.layers.{i}." for i in range(first, end))
    depth = max(len(stack.layers) for stack in stacks.values())
    model.watched = Watched(cfg.stop_at_loss_jump, bands, str(cfg.residual), depth)
    return model


def _relative_bias(cfg: Any, side: str, dim: int, heads: int) -> Optional[RelativePositionBias]:
    """A decoder looks back only, and has all buckets for that."""
    buckets, distance = cfg.relative_bias_buckets, cfg.relative_bias_max_distance
    if not buckets:
        return None
    return RelativePositionBias(buckets, heads, max_distance=distance, bidirectional=side == "encoder", dim=dim)


def _check_relative_bias(cfg: Any) -> None:
    buckets, distance = cfg.relative_bias_buckets, cfg.relative_bias_max_distance
    if buckets < 0 or buckets % 4:
        raise OptionError(f"--relative-bias-buckets {buckets} must be 0 or a multiple of 4")
    if buckets and distance <= buckets // 2:
        raise OptionError(
            f"--relative-bias-max-distance {distance} must be above half of --relative-bias-buckets {buckets}"
        )


def _check_watch(cfg: Any, layers: Dict[str, int]) -> None:
    for side, count in layers.items():
        if count and not 0 <= cfg.gradient_bands <= count:
            raise OptionError(f"--gradient-bands {cfg.gradient_bands} must be between 0 and --{side}-layers {count}")
    if cfg.stop_at_loss_jump and not cfg.stop_at_loss_jump > 1:
        raise OptionError(f"--stop-at-loss-jump {cfg.stop_at_loss_jump} must be above 1, or 0 for never")


def _check(cfg: Any, side: str, dim: int, hidden: int, heads: int, max_positions: int) -> None:
    flag = "source" if side == "encoder" else "target"
    for name, value in (
        (f"--{side}-embed-dim", dim),
        (f"--{side}-ffn-embed-dim", hidden),
        (f"--{side}-attention-heads", heads),
        (f"--max-{flag}-positions", max_positions),
    ):
        if value < 1:
            raise OptionError(f"{name} {value} must be at least 1")
    if cfg.attention_head_dim < 0:
        raise OptionError(f"--attention-head-dim {cfg.attention_head_dim} must not be negative")
    temperature = cfg.attention_temperature
    if not 0 <= temperature < math.inf:
        raise OptionError(f"--attention-temperature {temperature} must be above 0, or 0 for the head width")
    if not cfg.attention_head_dim and dim % heads:
        raise OptionError(f"--{side}-embed-dim {dim} must be a multiple of --{side}-attention-heads {heads}")
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        if not 0 <= cfg[name] < 1:
            raise OptionError(f"--{name.replace('_', '-')} {cfg[name]} must be at least 0 and below 1")

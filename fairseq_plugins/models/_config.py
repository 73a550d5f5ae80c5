"""Options of the models: flat mixins, one prefix each. A nested option would set both sides at once: never nest."""

from dataclasses import dataclass, field, fields
from typing import Any, Callable, Dict, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model_architecture
from omegaconf import open_dict

from ..modules.residual import RESIDUALS
from ._classification import ClassificationOptions
from ._moe_config import MoEOptions
from ._pruning_config import MoEPruningOptions

# `Optional[int]`, never `int | None`: the engine's option parser does not understand the latter.


@dataclass
class StackOptions(FairseqDataclass):
    """What all stacks of a model share."""

    residual: ChoiceEnum(RESIDUALS) = field(  # type: ignore[valid-type]
        default="post",
        metadata={
            "help": "residual scheme: post (Vaswani et al.), pre, deepnorm (DeepNet) or subln (Magneto); sets the "
            "place of norms, the weight of skips and the initialisation, by depth"
        },
    )
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="relu", metadata={"help": "activation of the feed-forwards"}
    )
    ffn_gate: bool = field(
        default=False,
        metadata={"help": "gated feed-forwards, fc2(activation(fc1 x) * fc_gate x): with --activation-fn gelu mT5's"},
    )
    norm: ChoiceEnum(["layer", "rms"]) = field(  # type: ignore[valid-type]
        default="layer", metadata={"help": "norms of all layers and embeddings: layer, or rms (no mean, no bias; mT5)"}
    )
    attention_head_dim: int = field(
        default=0, metadata={"help": "width of each attention head (0: embedding width / number of heads)"}
    )
    attention_temperature: float = field(
        default=0.0,
        metadata={
            "help": "scores of all attention are divided by the square root of this (0: the width of each head); "
            "PLATE: 1.5 or 2 head widths in --model-overrides of a teacher that writes pseudo-labels"
        },
    )
    relative_bias_buckets: int = field(
        default=0,
        metadata={
            "help": "T5's relative positions: buckets of distances with a learned bias on self-attention, one table "
            "for all layers of a stack (0: none; T5 has 32); mostly with --no-token-positional-embeddings"
        },
    )
    relative_bias_max_distance: int = field(
        default=128, metadata={"help": "distance in tokens from which all share the last bucket"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout probability on attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability after the activation", "argparse_alias": "--relu-dropout"}
    )
    layernorm_embedding: bool = field(default=False, metadata={"help": "norm after the embeddings"})
    no_scale_embedding: bool = field(
        default=False, metadata={"help": "do not multiply token embeddings by sqrt(dimension)"}
    )
    no_token_positional_embeddings: bool = field(default=False, metadata={"help": "no position embeddings at all"})
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "recompute each layer in the backward pass: memory of one layer instead of all"},
    )
    gradient_bands: int = field(
        default=0,
        metadata={"help": "log the norm of the gradients in this many depth bands of each stack (0: of none)"},
    )
    stop_at_loss_jump: float = field(
        default=2.0,
        metadata={
            "help": "end a training whose median loss of 50 updates is above this many times the lowest before, or "
            "whose gradients are not finite, and write no checkpoint of such weights (0: never)"
        },
    )


@dataclass
class EncoderOptions(FairseqDataclass):
    """Shape of an encoder stack."""

    encoder_embed_dim: int = field(default=512, metadata={"help": "encoder width"})
    encoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width inside the encoder's feed-forwards"})
    encoder_layers: int = field(default=6, metadata={"help": "number of encoder layers"})
    encoder_attention_heads: int = field(default=8, metadata={"help": "number of encoder attention heads"})
    encoder_learned_pos: bool = field(
        default=False, metadata={"help": "learned instead of sinusoidal encoder positions"}
    )
    max_source_positions: Optional[int] = field(default=1024, metadata={"help": "longest source, in tokens"})


@dataclass
class DecoderOptions(FairseqDataclass):
    """Shape of a decoder stack and its output layer."""

    decoder_embed_dim: int = field(default=512, metadata={"help": "decoder width"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width inside the decoder's feed-forwards"})
    decoder_layers: int = field(default=6, metadata={"help": "number of decoder layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of decoder attention heads"})
    decoder_learned_pos: bool = field(
        default=False, metadata={"help": "learned instead of sinusoidal decoder positions"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "the decoder's embedding is also its output projection"}
    )
    max_target_positions: Optional[int] = field(default=1024, metadata={"help": "longest target, in tokens"})


@dataclass
class TransformerMTConfig(StackOptions, EncoderOptions, DecoderOptions, MoEOptions, MoEPruningOptions):
    """Options of `transformer_mt`."""

    share_all_embeddings: bool = field(
        default=False,
        metadata={"help": "one table for encoder, decoder and output (needs one dictionary and one width)"},
    )
    interleaved_ffn: bool = field(
        default=False,
        metadata={
            "help": "DeltaLM's decoder layers: self-attention, feed-forward, cross-attention, feed-forward; constants "
            "of --residual are those of a plain decoder with as many layers, experts take the second place alone"
        },
    )


@dataclass
class MaskedLMOptions(StackOptions, EncoderOptions, MoEOptions, MoEPruningOptions):
    """Shape of `transformer_mlm`, and of what starts as one."""

    embedding_dim: int = field(
        default=0,
        metadata={
            "help": "width of the tables of tokens, positions and segments; a linear layer follows where it is not "
            "--encoder-embed-dim (0: it is; ELECTRA small: 128)"
        },
    )
    segments: int = field(
        default=0,
        metadata={"help": "rows of a segment table, first and second sentence of a text (0: none; BERT, UniLMv2: 2)"},
    )
    max_source_positions: Optional[int] = field(
        default=None, metadata={"help": "longest sequence, in tokens (default: the task's --tokens-per-sample)"}
    )


@dataclass
class TransformerMLMConfig(MaskedLMOptions, ClassificationOptions):
    """Options of `transformer_mlm`."""

    freeze_layers: int = field(
        default=0,
        metadata={
            "help": "the embeddings and so many of the lowest layers neither change nor drop out: what is above them "
            "is tuned alone (0: all learns)"
        },
    )


@dataclass
class TransformerCLMConfig(StackOptions, DecoderOptions, MoEOptions, MoEPruningOptions):
    """Options of `transformer_clm`."""

    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "longest sequence, in tokens (default: the task's --tokens-per-sample)"}
    )


def complete(cfg: Any, options: type) -> Any:
    """`cfg` with every option of the dataclass `options`, in place.

    Under a preset's name the engine merges no defaults, so a checkpoint written before an option existed would lack it.
    """
    missing = {option.name: option.default for option in fields(options) if option.name not in cfg}
    with open_dict(cfg):
        cfg.update(missing)
    return cfg


def register_presets(model: str, presets: Dict[str, Dict[str, Any]]) -> None:
    """Register each preset as a command-line `--arch` of `model`; it fills only what the user did not say.

    One under the model's own name takes the place of the empty one that the engine registers. The engine calls such a
    function twice and `fairseq-hydra-train` never does: presets are for the command line.
    """
    for name, values in presets.items():
        if name == model:
            ARCH_CONFIG_REGISTRY[name] = _filler(values)
        else:
            register_model_architecture(model, name)(_filler(values))


def _filler(values: Dict[str, Any]) -> Callable[[Any], None]:
    def fill(args: Any) -> None:
        for key, value in values.items():
            if not hasattr(args, key):
                setattr(args, key, value)

    return fill

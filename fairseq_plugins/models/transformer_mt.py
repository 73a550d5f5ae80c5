"""`--arch transformer_mt`: encoder-decoder for translation; presets of DeepNet, Magneto, X-MoE, MoEC and mT6."""

from typing import Any, Dict, Optional

from fairseq.models import FairseqEncoderDecoderModel, register_model
from torch import Tensor

from ..checkpoints.fairseq_names import from_fairseq, replace
from ..modules.embedding import output_projection, tied_projection
from ._adapters import StackDecoder, StackEncoder
from ._build import OptionError, embed_dictionary, schemes, stack_arguments, watched
from ._config import TransformerMTConfig, complete, register_presets
from ._relations import EncoderRelations
from ._tables import refuse_two_models


@register_model("transformer_mt", dataclass=TransformerMTConfig)
class TransformerMT(EncoderRelations, FairseqEncoderDecoderModel):
    """Transformer for translation (Vaswani et al. 2017) under any residual scheme of the core.

    Loads stock fairseq `transformer` checkpoints with `--residual post` or `pre`. Its encoder is a student of
    `relation_distillation`.
    """

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "TransformerMT":
        """Build from options and the task's dictionaries.

        Raises:
            OptionError: an option out of range, or --share-all-embeddings with two dictionaries or two widths.
        """
        cfg = complete(cfg, TransformerMTConfig)
        source, target = task.source_dictionary, task.target_dictionary
        scheme = schemes(cfg, encoder=True, decoder=True)
        embed_source = embed_dictionary(source, cfg.encoder_embed_dim)
        if cfg.share_all_embeddings:
            if source != target:
                raise OptionError("--share-all-embeddings needs one dictionary for both sides; these two differ")
            if cfg.encoder_embed_dim != cfg.decoder_embed_dim:
                raise OptionError(
                    f"--share-all-embeddings needs --encoder-embed-dim {cfg.encoder_embed_dim} and "
                    f"--decoder-embed-dim {cfg.decoder_embed_dim} to be equal"
                )
            embed_target = embed_source
        else:
            embed_target = embed_dictionary(target, cfg.decoder_embed_dim)
        if cfg.share_all_embeddings or cfg.share_decoder_input_output_embed:
            projection = tied_projection(embed_target)
        else:
            projection = output_projection(len(target), cfg.decoder_embed_dim)
        encoder = StackEncoder(source, stack_arguments(cfg, "encoder", scheme.encoder, embed_source))
        decoder_stack = stack_arguments(cfg, "decoder", scheme.decoder, embed_target, memory_dim=cfg.encoder_embed_dim)
        return watched(cls(encoder, StackDecoder(target, decoder_stack, projection)), cfg)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        prev_output_tokens: Optional[Tensor] = None,
        projections_of: Optional[int] = None,
        **kwargs: Any,
    ) -> Any:
        """Logits (B, T, V) and fairseq's extras.

        With `projections_of`, the number of a layer of the encoder, nothing and that layer's queries, keys and values
        beside it.
        """
        if projections_of is not None:
            return self.encoder.project(projections_of, src_tokens)
        return super().forward(src_tokens, src_lengths, prev_output_tokens, **kwargs)

    def set_beam_size(self, beam_size: int) -> None:
        """Called by the engine's generator."""
        self.decoder.set_beam_size(beam_size)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Accept stock names, in place.

        Raises:
            WrongCheckpoint: it is of an `electra`.
        """
        refuse_two_models(state_dict)
        replace(state_dict, from_fairseq(state_dict))


def both_sides(**shape: Any) -> Dict[str, Any]:
    """The same width, feed-forward, heads and depth on both sides."""
    return {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in shape.items()}


def _deepnet(layers: int, embed_dim: int = 512, ffn_embed_dim: int = 2048, attention_heads: int = 8) -> Dict[str, Any]:
    """DeepNet, Tables 2 and 7: `layers` counts encoder and decoder together; one table for all embeddings."""
    width = both_sides(embed_dim=embed_dim, ffn_embed_dim=ffn_embed_dim, attention_heads=attention_heads)
    depth = both_sides(layers=layers // 2)
    return dict(residual="deepnorm", share_all_embeddings=True, dropout=0.1, **width, **depth)


# X-MoE: routing on a hypersphere, top-1. The paper's translation models are not public; width and places are ours.
_XMOE = dict(moe_router="cosine", moe_gate="softmax", moe_freq=2, share_all_embeddings=True)

# mT6 has mT5's parts (all but the shape unverified). Ours: the output shares the embeddings, linear layers have biases,
# the start is this package's, gelu is exact.
_MT6 = dict(
    residual="pre",
    norm="rms",
    ffn_gate=True,
    activation_fn="gelu",
    relative_bias_buckets=32,
    relative_bias_max_distance=128,
    no_token_positional_embeddings=True,
    share_all_embeddings=True,
    dropout=0.1,
)

PRESETS = {
    # Vaswani et al. 2017, Table 3
    "transformer_mt_base": both_sides(layers=6, embed_dim=512, ffn_embed_dim=2048, attention_heads=8),
    "deepnet_mt_tiny": _deepnet(6, embed_dim=128, ffn_embed_dim=256, attention_heads=4),  # ours, for laptops and tests
    "deepnet_mt_12l": _deepnet(12),
    "deepnet_mt_20l": _deepnet(20),
    "deepnet_mt_36l": _deepnet(36),
    "deepnet_mt_100l": _deepnet(100),
    "deepnet_mt_200l": _deepnet(200),
    "deepnet_mt_1000l": _deepnet(1000),
    "deepnet_mt_200l_big": _deepnet(200, embed_dim=1024, ffn_embed_dim=4096, attention_heads=16),  # Section 6, Table 8
    "magneto_mt_36l": {**_deepnet(36), "residual": "subln"},  # Magneto, Section 4.3
    "xmoe_mt_tiny": dict(  # ours, for laptops and tests
        moe_experts=16, **_XMOE, **both_sides(layers=3, embed_dim=128, ffn_embed_dim=512, attention_heads=4)
    ),
    "xmoe_mt_base": dict(
        moe_experts=32, **_XMOE, **both_sides(layers=6, embed_dim=512, ffn_embed_dim=2048, attention_heads=8)
    ),
    # MoEC's released command: the 4th layer of each stack; capacity 2 x local tokens on 8 GPUs is 16 x the mean of an
    # expert; another share drops out every 250 forwards, 16 forwards to an update; variance with the batch's own size.
    "moec_mt_wmt14": dict(
        **both_sides(layers=6, embed_dim=1024, ffn_embed_dim=4096, attention_heads=16),
        dropout=0.3,
        attention_dropout=0.1,
        max_source_positions=256,
        max_target_positions=256,
        moe_experts=64,
        moe_freq=4,
        moe_expert_sublayers=3,
        moe_router="cosine",
        moe_gate="sigmoid",
        moe_routing_dim=32,
        moe_capacity_factor=16.0,
        moe_clusters=8,
        moe_cluster_variance=1,
        moe_variance_tokens=0.0,
        moe_cluster_dropout=0.5,
        moe_cluster_dropout_interval=16,
    ),
    # mT6: mT5-small's shape
    "mt6_small": dict(
        attention_head_dim=64, **_MT6, **both_sides(layers=8, embed_dim=512, ffn_embed_dim=1024, attention_heads=6)
    ),
    "mt6_tiny": dict(  # ours, for laptops and tests
        **_MT6, **both_sides(layers=3, embed_dim=128, ffn_embed_dim=512, attention_heads=4)
    ),
}

register_presets("transformer_mt", PRESETS)

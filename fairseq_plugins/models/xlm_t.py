"""`--arch xlm_t`: translation that starts from a pretrained encoder (XLM-T, DeltaLM)."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model

from ._config import TransformerMTConfig, complete, register_presets
from ._start import BOTTOM, check_start, start_from_pretrained
from .transformer_mt import TransformerMT, both_sides

logger = logging.getLogger(__name__)


@dataclass
class XLMTConfig(TransformerMTConfig):
    """Options of `xlm_t`: those of `transformer_mt`, and where a new training takes its weights from."""

    init_encoder: Optional[str] = field(
        default=None,
        metadata={
            "help": "start the encoder from this: fairseq's XLM-R (model.pt or its folder), a checkpoint of "
            "transformer_mlm, a Hugging Face folder of XLM-R, or DeltaLM's file; read only when a new training begins"
        },
    )
    init_decoder: Optional[str] = field(
        default=None, metadata={"help": "start the decoder from this, from the encoder in it if it has no decoder"}
    )
    init_encoder_layers: str = field(
        default=BOTTOM,
        metadata={"help": "which of its layers, from 0: bottom (layer i for layer i) or a list such as 0,2,4"},
    )
    init_decoder_layers: str = field(
        default=BOTTOM,
        metadata={
            "help": "the same for the decoder; with --interleaved-ffn two for each layer of it: one for self-attention "
            "and the first feed-forward, one for cross-attention and the second"
        },
    )
    init_cross_attention: ChoiceEnum(["random", "self-attention"]) = field(  # type: ignore[valid-type]
        default="random",
        metadata={
            "help": "self-attention: a decoder that starts from an encoder copies its queries, keys and values into "
            "cross-attention; with --interleaved-ffn all of the second layer's attention"
        },
    )


@register_model("xlm_t", dataclass=XLMTConfig)
class XLMT(TransformerMT):
    """`transformer_mt` whose new trainings start from --init-encoder and --init-decoder (arXiv 2012.15547, Section 3).

    The engine builds a model in the same way for a new training, a resumed one and a translation. So nothing is read
    while it is built: the trainer calls `start_training` once it knows that no checkpoint has given it its weights.
    """

    start: Any = None  # options of a model whose training has not begun
    has_weights = False  # of a checkpoint

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "XLMT":
        """Build from options and the task's dictionaries, with random weights.

        Raises:
            OptionError: an option out of range.
        """
        cfg = complete(cfg, XLMTConfig)
        check_start(cfg)
        model = super().build_model(cfg, task)
        model.start = cfg
        return model

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.has_weights = True
        return super().load_state_dict(*args, **kwargs)

    def start_training(self, resumed: bool = False) -> None:
        """Read --init-encoder and --init-decoder, unless weights were loaded. Called by the trainer (`compat.py`).

        Args:
            resumed: the training has made updates already.
        Raises:
            OptionError, CheckpointError: one of them is missing, or of another shape.
        """
        cfg, self.start = self.start, None
        if cfg is None:
            return
        if not self.has_weights:
            start_from_pretrained(self, cfg)
            return
        unread = [f"--init-{side} {cfg[f'init_{side}']}" for side in ("encoder", "decoder") if cfg[f"init_{side}"]]
        if unread and not resumed:  # --finetune-from-model, or --restore-file with --reset-optimizer
            logger.warning(f"{' and '.join(unread)}: not read, as a checkpoint has given the model its weights")


def _roberta(
    encoder_layers: int, decoder_layers: int, embed_dim: int, attention_heads: int, **more: Any
) -> Dict[str, Any]:
    """RoBERTa's parts on both sides and one table for all embeddings."""
    shape = both_sides(embed_dim=embed_dim, ffn_embed_dim=4 * embed_dim, attention_heads=attention_heads)
    parts = dict(
        residual="post", activation_fn="gelu", layernorm_embedding=True, no_scale_embedding=True, dropout=0.1,
        share_all_embeddings=True, max_source_positions=512, max_target_positions=512, **both_sides(learned_pos=True),
    )  # fmt: skip
    return {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers, **shape, **parts, **more}


_DELTALM = dict(interleaved_ffn=True, init_cross_attention="self-attention")

PRESETS = {
    "xlm_t": _roberta(12, 6, 768, 12),  # XLM-T: the encoder is XLM-R base, the decoder its bottom half
    "xlm_t_tiny": _roberta(3, 3, 128, 4),  # ours, for laptops and tests
    "deltalm_base": _roberta(12, 6, 768, 12, **_DELTALM),  # the authors' code
    "deltalm_large": _roberta(24, 12, 1024, 16, **{**_DELTALM, "layernorm_embedding": False}),
}

register_presets("xlm_t", PRESETS)

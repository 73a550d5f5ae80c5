"""`--arch transformer_mlm`: encoder-only masked language model."""

from typing import Any, Dict, NamedTuple, Optional, Tuple, Type

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderModel, register_model
from torch import Tensor, nn

from ..checkpoints.fairseq_names import replace
from ..checkpoints.roberta_names import from_roberta
from ..modules.embedding import segment_embedding
from ..modules.prediction_heads import MaskedTokenHead
from ._adapters import PseudoPart, StackEncoder
from ._auxiliary import AuxiliaryLosses
from ._build import OptionError, embed_dictionary, limit_to_task, norm_of, schemes, stack_arguments, watched
from ._classification import SentenceHeads
from ._config import TransformerMLMConfig, complete, register_presets
from ._relations import EncoderRelations
from ._tables import fit_tables

# B batch, T length, N masked tokens, D model dim, V vocabulary


class MaskedLMEncoder(StackEncoder):
    """The stack with BERT's head on top."""

    def __init__(self, dictionary: Dictionary, stack: Dict[str, Any], head: MaskedTokenHead):
        super().__init__(dictionary, stack)
        self.lm_head = head

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        masked_tokens: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        pseudo_tokens: Optional[Tensor] = None,
        pseudo_positions: Optional[Tensor] = None,
        pseudo_steps: Optional[Tensor] = None,
        pseudo_segments: Optional[Tensor] = None,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Logits (B, T, V), those of `masked_tokens` (B, T bool) alone as (N, V), or hidden states (B, T, D).

        With `pseudo_tokens` (B, Q) and the like, what is read beside the text, T is followed by Q everywhere.
        """
        pseudo = None
        if pseudo_tokens is not None:
            assert pseudo_positions is not None and pseudo_steps is not None
            pseudo = PseudoPart(pseudo_tokens, pseudo_positions, pseudo_steps, pseudo_segments)
        output, _ = self.encode(src_tokens, return_all_hiddens, segments=segments, pseudo=pseudo)
        losses = AuxiliaryLosses(output.auxiliary)
        x_BTD = losses.guard(output.x_BTD)
        extra = {"inner_states": output.states, "auxiliary": losses}
        if features_only:
            return x_BTD, extra
        return self.lm_head(x_BTD if masked_tokens is None else x_BTD[masked_tokens]), extra

    def before_logits(self, features_ND: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Input, weight and bias of the last linear layer, for losses that never hold all logits."""
        return self.lm_head.transform(features_ND), self.lm_head.weight, self.lm_head.bias


@register_model("transformer_mlm", dataclass=TransformerMLMConfig)
class TransformerMLM(SentenceHeads, EncoderRelations, FairseqEncoderModel):
    """Masked language model for the stock `masked_lm` task, classifier for the stock `sentence_prediction`.

    Loads fairseq's RoBERTa and XLM-R. Student of `relation_distillation`.
    """

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "TransformerMLM":
        """Build from options and the task's dictionary.

        Raises:
            OptionError: an option out of range.
        """
        cfg = complete(cfg, TransformerMLMConfig)
        limit_to_task(cfg, "max_source_positions", task)
        model = cls(masked_lm_encoder(cfg, task.source_dictionary))
        model.prepare_heads(cfg, task)
        if not 0 <= cfg.freeze_layers <= cfg.encoder_layers:
            raise OptionError(f"--freeze-layers {cfg.freeze_layers} must be from 0 to --encoder-layers "
                              f"{cfg.encoder_layers}")  # fmt: skip
        if cfg.freeze_layers:
            model.freeze(model.encoder.lowest(cfg.freeze_layers))
        return watched(model, cfg)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        classification_head_name: Optional[str] = None,
        projections_of: Optional[int] = None,
        **kwargs: Any,
    ) -> Tuple[Optional[Tensor], Dict[str, Any]]:
        """What the encoder returns, or with the name of a head the scores of each text, (B, classes), in its place.

        With `projections_of`, the number of a layer, nothing and that layer's queries, keys and values beside it.
        """
        if projections_of is not None:
            return self.encoder.project(projections_of, src_tokens, kwargs.get("segments"))
        if classification_head_name is not None:
            return self.classify(classification_head_name, src_tokens, **kwargs)
        return self.encoder(src_tokens, src_lengths=src_lengths, **kwargs)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Accept RoBERTa's and XLM-R's names and longer position tables, in place."""
        replace(state_dict, {**from_roberta(state_dict), **self.heads_of(state_dict)})
        others = "no more to --max-positions or --tokens-per-sample"
        cut = fit_tables(state_dict, self.encoder, "--max-source-positions", others)
        self.unlike_checkpoint = cut or self.unlike_checkpoint


class Tables(NamedTuple):
    """What is looked up for every token; several encoders may share them."""

    tokens: nn.Embedding
    positions: Optional[nn.Module]
    segments: Optional[nn.Module]


def encoder_parts(cfg: Any, dictionary: Dictionary, tables: Optional[Tables] = None) -> Dict[str, Any]:
    """Arguments of a stack as options of `transformer_mlm` say, with tables of its own or those of another.

    Raises:
        OptionError: an option out of range.
    """
    if cfg.segments < 0 or cfg.segments == 1:
        raise OptionError(f"--segments {cfg.segments} must be 0 (no segment table) or at least 2")
    if cfg.embedding_dim < 0:
        raise OptionError(f"--embedding-dim {cfg.embedding_dim} must be 0 (--encoder-embed-dim) or at least 1")
    scheme = schemes(cfg, encoder=True, decoder=False).encoder  # before the table: it looks at the width
    dim = cfg.embedding_dim or cfg.encoder_embed_dim
    embed = tables.tokens if tables else embed_dictionary(dictionary, dim)
    stack = stack_arguments(cfg, "encoder", scheme, embed)
    if tables:
        stack.update(embed_positions=tables.positions, embed_segments=tables.segments)
    elif cfg.segments:
        stack["embed_segments"] = segment_embedding(cfg.segments, dim)
    return stack


def masked_token_head(cfg: Any, embed_tokens: nn.Embedding) -> MaskedTokenHead:
    """BERT's head for an encoder as options of `transformer_mlm` say."""
    activation = utils.get_activation_fn(str(cfg.activation_fn))
    return MaskedTokenHead(embed_tokens, activation, norm_of(cfg), cfg.encoder_embed_dim)


def masked_lm_encoder(cfg: Any, dictionary: Dictionary, encoder: Type[MaskedLMEncoder] = MaskedLMEncoder) -> Any:
    """An `encoder` as options of `transformer_mlm` say.

    Raises:
        OptionError: an option out of range.
    """
    stack = encoder_parts(cfg, dictionary)
    return encoder(dictionary, stack, masked_token_head(cfg, stack["embed_tokens"]))


# RoBERTa's shape (Liu et al. 2019, Table 9): what XLM-R checkpoints need.
ROBERTA = dict(
    residual="post",
    activation_fn="gelu",
    encoder_learned_pos=True,
    layernorm_embedding=True,
    no_scale_embedding=True,
    dropout=0.1,
    attention_dropout=0.1,
)

_BASE = dict(
    encoder_layers=12, encoder_embed_dim=768, encoder_ffn_embed_dim=3072, encoder_attention_heads=12, **ROBERTA
)


def _minilm(layers: int, width: int) -> Dict[str, Any]:
    shape = dict(encoder_layers=layers, encoder_embed_dim=width, encoder_ffn_embed_dim=4 * width)
    return {**_BASE, **shape}


_UNILMV2 = dict(relative_bias_buckets=32, relative_bias_max_distance=128, segments=2)

PRESETS = {
    "transformer_mlm_base": _BASE,
    "transformer_mlm_large": dict(
        encoder_layers=24, encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16, **ROBERTA
    ),
    # UniLMv2, Section 4: BERT base with T5's relative positions beside its own
    "unilmv2_base": {**_BASE, **_UNILMV2},
    "unilmv2_tiny": {  # ours, for laptops and tests
        **_BASE,
        **_UNILMV2,
        **dict(encoder_layers=6, encoder_embed_dim=128, encoder_ffn_embed_dim=512, encoder_attention_heads=4),
    },
    # MiniLM, Section 4: layers x width of the students; all have 12 heads and feed-forwards of four times the width
    "minilm_6x768": _minilm(6, 768),
    "minilm_12x384": _minilm(12, 384),
    "minilm_6x384": _minilm(6, 384),
    "minilm_4x384": _minilm(4, 384),
    "minilm_3x384": _minilm(3, 384),
    # X-MoE, Section 4.1: one layer of 32 experts, three feed-forwards each, inserted after the 6th; 3,072 unverified
    "xmoe_mlm_base": dict(moe_experts=32, moe_insert_after=6, moe_expert_sublayers=3, moe_router="cosine", **_BASE),
}

register_presets("transformer_mlm", PRESETS)

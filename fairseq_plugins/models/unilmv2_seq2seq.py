"""`--arch unilmv2_seq2seq`: UniLMv2 (arXiv 2002.12804) fine-tuned for generation, one stack for both sides."""

import copy
import logging
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from fairseq.models import FairseqEncoderDecoderModel, register_model
from omegaconf import open_dict
from torch import Tensor

from ..checkpoints.fairseq_names import replace
from ..checkpoints.roberta_names import from_roberta
from ._build import OptionError, task_options, watched
from ._config import MaskedLMOptions, complete, register_presets
from ._pseudo_decoder import Noise, PseudoMaskDecoder, SourceEncoder
from ._start_whole import start_whole
from ._tables import fit_tables
from .transformer_mlm import PRESETS as MASKED_LMS
from .transformer_mlm import masked_lm_encoder

logger = logging.getLogger(__name__)

PSEUDO_MASK = "<pseudo_mask>"
# B batch (rows), S source length, T target length, D model dim, V vocabulary


@dataclass
class UniLMv2Seq2SeqConfig(MaskedLMOptions):
    """Options of `unilmv2_seq2seq`: those of `transformer_mlm`, and what generation adds."""

    max_source_positions: Optional[int] = field(
        default=351, metadata={"help": "longest source, in tokens with its end, which fairseq counts, without <s>"}
    )
    max_target_positions: Optional[int] = field(
        default=160, metadata={"help": "longest target, in tokens with its end"}
    )
    position_table: int = field(
        default=0,
        metadata={
            "help": "rows of the one table of positions that a source and its target share; at least (0: exactly) "
            "--max-source-positions + --max-target-positions + 1, for <s>"
        },
    )
    pretrained_checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "start all of the model from this: a checkpoint of transformer_mlm (task pseudo_masked_lm or "
            "masked_lm), fairseq's RoBERTa or XLM-R, or a Hugging Face folder of them; read only when a new training "
            "begins"
        },
    )
    leave_unmasked_prob: float = field(
        default=0.0,
        metadata={"help": "share of pseudo-masks that are their own token, in training (the paper: 0; its code: 0.1)"},
    )
    random_token_prob: float = field(
        default=0.0,
        metadata={"help": "share of pseudo-masks that are any token, in training (the paper: 0; its code: 0.1)"},
    )
    target_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "share of target tokens that those after them see as their pseudo-mask is, in training (the paper: "
            "0; its code: 0.5)"
        },
    )
    share_all_embeddings: bool = field(
        default=False, metadata={"help": "changes nothing: this model has one table in any case"}
    )


@register_model("unilmv2_seq2seq", dataclass=UniLMv2Seq2SeqConfig)
class UniLMv2Seq2Seq(FairseqEncoderDecoderModel):
    """One bidirectional stack that reads `<s> SRC </s> TGT </s>`: the source sees itself, the target what comes before.

    Each target token is predicted from a pseudo-mask that sees the source and the tokens before it, as in the paper's
    fine-tuning. Parameters are those of `transformer_mlm` by name and shape. In training one pass predicts all tokens;
    in generation the source is read once, and each step reads the token chosen last and the pseudo-mask after it.
    """

    start: Any = None  # options of a model whose training has not begun
    has_weights = False  # of a checkpoint
    unlike_checkpoint = ""  # why the training that wrote the checkpoint cannot go on, and what to give
    noise = Noise()

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "UniLMv2Seq2Seq":
        """Build from options and the task's dictionary, with random weights.

        Raises:
            OptionError: an option out of range, two dictionaries or one without `<pseudo_mask>`, or padding before
                targets.
        """
        cfg = complete(cfg, UniLMv2Seq2SeqConfig)
        dictionary = task.source_dictionary
        if dictionary != task.target_dictionary:
            raise OptionError(
                "--arch unilmv2_seq2seq has one table for both languages, but their dictionaries differ: binarise the "
                "data with one dictionary (fairseq-preprocess --joined-dictionary)"
            )
        if PSEUDO_MASK not in dictionary:
            raise OptionError(
                f"--arch unilmv2_seq2seq needs {PSEUDO_MASK} in the dictionary of the data; opus100 prepare writes it, "
                "opus100 add-symbols adds it to what was prepared before"
            )
        if getattr(task_options(task), "left_pad_target", False):
            raise OptionError("--arch unilmv2_seq2seq counts a target's tokens from its first column: leave out "
                              "--left-pad-target")  # fmt: skip
        noise = _noise(cfg)
        encoder = masked_lm_encoder(_with_table(cfg), dictionary, SourceEncoder)
        encoder.longest = cfg.max_source_positions
        decoder = PseudoMaskDecoder(dictionary, encoder, cfg.max_target_positions, dictionary.index(PSEUDO_MASK))
        model = watched(cls(encoder, decoder), cfg)
        model.start, model.noise = cfg, noise
        return model

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        prev_output_tokens: Optional[Tensor] = None,
        features_only: bool = False,
        return_all_hiddens: bool = False,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Logits (B, T, V), or hidden states (B, T, D), of every target token, in one pass; fairseq's extras."""
        assert prev_output_tokens is not None
        text_BS, lengths_B = self.encoder.text(src_tokens)
        noise = self.noise if self.training else Noise()
        pseudo = self.decoder.both_parts(prev_output_tokens, lengths_B, noise)
        output, _ = self.encoder.encode(text_BS, return_all_hiddens, pseudo=pseudo)
        predicted_BTD = output.x_BTD[:, text_BS.size(1) + 1 :: 2]
        return self.decoder.result(output._replace(x_BTD=predicted_BTD), features_only)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.has_weights = True
        return super().load_state_dict(*args, **kwargs)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Accept RoBERTa's and XLM-R's names and longer position tables, in place."""
        replace(state_dict, from_roberta(state_dict))
        others = "--max-source-positions and --max-target-positions together below it"
        self.unlike_checkpoint = fit_tables(state_dict, self.encoder, "--position-table", others)

    def start_training(self, resumed: bool = False) -> None:
        """Read --pretrained-checkpoint, unless weights were loaded. Called by the trainer (`compat.py`).

        Args:
            resumed: the training has made updates already.
        Raises:
            OptionError, CheckpointError: it is missing, or of another shape; or the training goes on with weights of
                another shape than it had.
        """
        if resumed and self.unlike_checkpoint:
            raise OptionError(f"{self.unlike_checkpoint} as before, or --reset-optimizer")
        cfg, self.start = self.start, None
        if cfg is None or not cfg.pretrained_checkpoint:
            return
        if not self.has_weights:
            start_whole(self.encoder, cfg, PSEUDO_MASK)
        elif not resumed:  # --finetune-from-model, or --restore-file with --reset-optimizer
            logger.warning(f"--pretrained-checkpoint {cfg.pretrained_checkpoint}: not read, as a checkpoint has given "
                           "the model its weights")  # fmt: skip


def _noise(cfg: Any) -> Noise:
    for name in ("leave_unmasked_prob", "random_token_prob", "target_mask_prob"):
        if not 0 <= cfg[name] <= 1:
            raise OptionError(f"--{name.replace('_', '-')} {cfg[name]} must be between 0 and 1")
    if cfg.leave_unmasked_prob + cfg.random_token_prob > 1:
        raise OptionError(f"--leave-unmasked-prob {cfg.leave_unmasked_prob} and --random-token-prob "
                          f"{cfg.random_token_prob} must not be above 1 together")  # fmt: skip
    return Noise(cfg.leave_unmasked_prob, cfg.random_token_prob, cfg.target_mask_prob)


def _with_table(cfg: Any) -> Any:
    """The options of the encoder, for which `max_source_positions` is the whole table."""
    source, target, table = cfg.max_source_positions, cfg.max_target_positions, cfg.position_table
    for side, longest in (("source", source), ("target", target)):
        if longest < 1:
            raise OptionError(f"--max-{side}-positions {longest} must be at least 1")
    needed = source + target + 1
    if table and table < needed:
        raise OptionError(f"--position-table {table} must be at least {needed}: --max-source-positions {source} + "
                          f"--max-target-positions {target} + 1 for <s>")  # fmt: skip
    encoder = copy.copy(cfg)
    with open_dict(encoder):
        encoder.max_source_positions = table or needed
    return encoder


# 512 positions, as pre-training had: UniLMv2's longest target (CNN / Daily Mail) and what is left for the source
_LONGEST = dict(max_source_positions=351, max_target_positions=160)

PRESETS = {
    "unilmv2_seq2seq": {**MASKED_LMS["unilmv2_base"], **_LONGEST},
    "unilmv2_seq2seq_tiny": {**MASKED_LMS["unilmv2_tiny"], **_LONGEST},
}

register_presets("unilmv2_seq2seq", PRESETS)

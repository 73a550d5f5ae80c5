"""`--arch transformer_clm`: decoder-only causal language model."""

from typing import Any, Dict

from fairseq.models import FairseqLanguageModel, register_model
from torch import Tensor

from ..checkpoints.fairseq_names import from_fairseq, replace
from ..modules.embedding import output_projection, tied_projection
from ._adapters import StackDecoder
from ._build import embed_dictionary, limit_to_task, schemes, stack_arguments, watched
from ._config import TransformerCLMConfig, complete


@register_model("transformer_clm", dataclass=TransformerCLMConfig)
class TransformerCLM(FairseqLanguageModel):
    """Causal language model for the stock `language_modeling` task; loads stock `transformer_lm` checkpoints."""

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "TransformerCLM":
        """Build from options and the task's dictionary.

        Raises:
            OptionError: an option out of range.
        """
        cfg = complete(cfg, TransformerCLMConfig)
        limit_to_task(cfg, "max_target_positions", task)
        dictionary = task.target_dictionary
        scheme = schemes(cfg, encoder=False, decoder=True).decoder  # before the table: it looks at the width
        embed = embed_dictionary(dictionary, cfg.decoder_embed_dim)
        tied = cfg.share_decoder_input_output_embed
        projection = tied_projection(embed) if tied else output_projection(len(dictionary), cfg.decoder_embed_dim)
        stack = stack_arguments(cfg, "decoder", scheme, embed)
        return watched(cls(StackDecoder(dictionary, stack, projection)), cfg)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Accept stock names, in place."""
        replace(state_dict, from_fairseq(state_dict))

"""`--task pseudo_masked_lm`: UniLMv2's pre-training, one pass for an encoder and a decoder (arXiv 2002.12804)."""

import inspect
from dataclasses import dataclass, field
from typing import Any, Dict, List

from fairseq.tasks import register_task

from ..compat import Refusal
from ..data.block_masking import BlockNoise
from ..data.pseudo_masking import AE, PAR, PseudoMaskedText, Replacement
from ..data.readable_batch import ReadableExample, text_and_beside
from ._joined_texts import JoinedTexts, JoinedTextsConfig, check_joined_texts, chosen
from ._pretraining_texts import load_dictionary


@dataclass
class PseudoMaskedLMConfig(JoinedTextsConfig):
    """Options of the task."""

    objectives: str = field(
        default="ae,par",
        metadata={
            "help": "ae: masked tokens from their context; par: from what the steps before have told too, at "
            "pseudo-masks; par with --block-probability 0 is autoregressive"
        },
    )
    mask_prob: float = field(default=0.15, metadata={"help": "share of a text's tokens that are masked, at least"})
    block_probability: float = field(
        default=0.4, metadata={"help": "probability that a step masks a block of 2 to --longest-block tokens, not one"}
    )
    longest_block: int = field(default=6, metadata={"help": "tokens of the longest block"})
    leave_unmasked_prob: float = field(
        default=0.1, metadata={"help": "probability that a masked token stands there itself"}
    )
    random_token_prob: float = field(default=0.1, metadata={"help": "probability that any other token stands there"})


@register_task("pseudo_masked_lm", dataclass=PseudoMaskedLMConfig)
class PseudoMaskedLM(JoinedTexts):
    """Pre-trains `transformer_mlm` on texts with blocks of tokens masked, which pseudo-masks predict step by step.

    An example is `<s> text </s>`: neighbouring sentences up to --tokens-per-sample, or a translation pair. --max-tokens
    counts the text; what stands beside it is about 2 x --mask-prob of that again. Sentences, order and noise depend on
    (--seed, epoch, place in the epoch) alone.
    """

    objective: PseudoMaskedText

    @classmethod
    def setup_task(cls, cfg: PseudoMaskedLMConfig, **unused: Any) -> "PseudoMaskedLM":
        """Check the options and find the dictionary's symbols.

        Raises:
            Refusal: an option out of range, a missing folder or dictionary, or one without the symbols.
        """
        check_joined_texts(cfg)
        objectives = chosen("--objectives", cfg.objectives, (AE, PAR))
        dictionary = load_dictionary(cfg)
        try:
            noise = BlockNoise(cfg.mask_prob, cfg.block_probability, cfg.longest_block).checked(
                "--mask-prob", "--block-probability", "--longest-block"
            )
            replacement = Replacement(cfg.leave_unmasked_prob, cfg.random_token_prob).checked(
                "--leave-unmasked-prob", "--random-token-prob"
            )
            return cls(cfg, dictionary, PseudoMaskedText(dictionary, noise, replacement, objectives))
        except ValueError as error:
            raise Refusal(f"{error}") from None

    @property
    def objective_names(self) -> List[str]:
        """Losses that have targets."""
        return list(self.objective.losses)

    def check_model(self, model: Any, name: str) -> None:
        """See that the model has a place for what stands beside a text.

        Raises:
            Refusal: it has none.
        """
        encoder = getattr(model, "encoder", None)
        if encoder is None or "pseudo_tokens" not in inspect.signature(encoder.forward).parameters:
            raise Refusal(f"--arch {name} has no place for pseudo-masks; give transformer_mlm or a preset of it")

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The criterion that `--criterion` names.

        Raises:
            Refusal: another than pseudo_masked_lm, which would train on one loss, or on something else.
        """
        if cfg._name != "pseudo_masked_lm":
            raise Refusal(f"--criterion {cfg._name} does not know both losses: give --criterion pseudo_masked_lm")
        return super().build_criterion(cfg, from_checkpoint)

    def describe_batch(self, sample: Dict[str, Any]) -> List[ReadableExample]:
        """For `show-batch`."""
        return text_and_beside(sample, self.dictionary, sample["text"])

"""`--task pseudo_masked_lm`: UniLMv2's pre-training, one pass for an encoder and a decoder (arXiv 2002.12804)."""

import inspect
from dataclasses import dataclass, field
from typing import Any, Dict, List

from fairseq.data import Dictionary
from fairseq.tasks import register_task

from ..compat import Refusal
from ..data.block_masking import BlockNoise
from ..data.language_mixture import Text
from ..data.objective_dataset import OneObjectiveDataset
from ..data.pseudo_masking import AE, PAR, PseudoMaskedText, Replacement
from ..data.readable_batch import ReadableExample, text_and_beside
from ._pretraining_texts import MONO, PAIRS, PretrainingTexts, PretrainingTextsConfig, check_texts, load_dictionary


@dataclass
class PseudoMaskedLMConfig(PretrainingTextsConfig):
    """Options of the task."""

    texts: str = field(
        default=MONO,
        metadata={"help": "what is read: mono, pairs (two sentences as one text), or mono,pairs"},
    )
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
class PseudoMaskedLM(PretrainingTexts):
    """Pre-trains `transformer_mlm` on texts with blocks of tokens masked, which pseudo-masks predict step by step.

    An example is `<s> text </s>`: neighbouring sentences up to --tokens-per-sample, or a translation pair. --max-tokens
    counts the text; what stands beside it is about 2 x --mask-prob of that again. Sentences, order and noise depend on
    (--seed, epoch, place in the epoch) alone.
    """

    def __init__(self, cfg: PseudoMaskedLMConfig, dictionary: Dictionary, objective: PseudoMaskedText):
        super().__init__(cfg, dictionary)
        self.objective = objective

    @classmethod
    def setup_task(cls, cfg: PseudoMaskedLMConfig, **unused: Any) -> "PseudoMaskedLM":
        """Check the options and find the dictionary's symbols.

        Raises:
            Refusal: an option out of range, a missing folder or dictionary, or one without the symbols.
        """
        check_texts(cfg)
        _chosen("--texts", cfg.texts, (MONO, PAIRS))
        objectives = _chosen("--objectives", cfg.objectives, (AE, PAR))
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

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **unused: Any) -> None:
        """Read the shard of `epoch`.

        Raises:
            Refusal: a missing or damaged file, no text, or a language without a tag.
        """
        texts: List[Text] = []
        kinds = _chosen("--texts", self.cfg.texts, (MONO, PAIRS))
        for kind in kinds:
            block = None
            if kind == MONO and str(self.cfg.sample_break_mode) == "complete":
                block = self.cfg.tokens_per_sample - 1 - self.cfg.language_tags  # <s>, and the tag
            found = self.texts(kind, split, epoch, block)
            if not found and split == self.cfg.train_subset:
                raise Refusal(f"--texts {kind}: no {split} text in {self.folder(kind, epoch)}")
            texts += found
        self.find_tags(texts, self.objective.tags)
        texts = self.fitting(self.objective, texts, split)
        if not texts:
            folders = " or ".join(str(self.folder(kind, epoch)) for kind in kinds)
            raise Refusal(f"no text for the split {split} in {folders}; make one, or give --disable-validation")
        self.tell_shares(split, texts)
        self.datasets[split] = OneObjectiveDataset(
            self.objective,
            texts,
            seed=self.cfg.seed,
            alpha=self.cfg.sampling_alpha,
            training=split == self.cfg.train_subset,
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The model that `--arch` names.

        Raises:
            Refusal: it reads nothing beside a text, or it is too short for --tokens-per-sample.
        """
        model = super().build_model(cfg, from_checkpoint)
        encoder = getattr(model, "encoder", None)
        if encoder is None or "pseudo_tokens" not in inspect.signature(encoder.forward).parameters:
            raise Refusal(f"--arch {cfg._name} has no place for pseudo-masks; give transformer_mlm or a preset of it")
        if model.max_positions() < self.cfg.tokens_per_sample:
            raise Refusal(
                f"--max-source-positions {model.max_positions()} is less than --tokens-per-sample "
                f"{self.cfg.tokens_per_sample}"
            )
        return model

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

    def max_positions(self) -> int:
        return self.cfg.tokens_per_sample


def _chosen(flag: str, value: str, known: Any) -> List[str]:
    """The words of a list that are all `known`.

    Raises:
        Refusal: none, another, or one twice.
    """
    words = value.split(",")
    if not words or len(set(words)) < len(words) or any(word not in known for word in words):
        raise Refusal(f"{flag} {value}: give {' or '.join(known)}, or {','.join(known)}")
    return words

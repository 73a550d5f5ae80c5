"""What tasks share that train a masked language model on texts, and on translation pairs as one text."""

from dataclasses import dataclass, field
from typing import Any, List, Sequence

from fairseq.data import Dictionary

from ..compat import Refusal
from ..data.joined_text import JoinedText
from ..data.language_mixture import Text
from ..data.objective_dataset import OneObjectiveDataset
from ._pretraining_texts import MONO, PAIRS, PretrainingTexts, PretrainingTextsConfig, check_texts


@dataclass
class JoinedTextsConfig(PretrainingTextsConfig):
    """Options of the texts."""

    texts: str = field(
        default=MONO,
        metadata={"help": "what is read: mono, pairs (two sentences as one text), or mono,pairs"},
    )


class JoinedTexts(PretrainingTexts):
    """Texts of one objective, in batches that hold nothing else."""

    def __init__(self, cfg: Any, dictionary: Dictionary, objective: JoinedText):
        super().__init__(cfg, dictionary)
        self.objective = objective

    def check_model(self, model: Any, name: str) -> None:
        """See that the model which `--arch` `name` made can learn from the batches.

        Raises:
            Refusal: it cannot.
        """
        raise NotImplementedError

    def tags_asked_by(self) -> str:
        """The flag that has texts begin with a tag of a language; empty where none does."""
        return "--language-tags" if self.cfg.language_tags else ""

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **unused: Any) -> None:
        """Read the shard of `epoch`.

        Raises:
            Refusal: a missing or damaged file, no text, or a language without a tag.
        """
        texts: List[Text] = []
        kinds = self.cfg.texts.split(",")
        for kind in kinds:
            block = None
            if kind == MONO and str(self.cfg.sample_break_mode) == "complete":
                block = self.cfg.tokens_per_sample - 1 - self.cfg.language_tags  # <s>, and the tag
            found = self.texts(kind, split, epoch, block)
            if not found and split == self.cfg.train_subset:
                raise Refusal(f"--texts {kind}: no {split} text in {self.folder(kind, epoch)}")
            texts += found
        if self.tags_asked_by():
            self.find_tags(texts, self.objective.tags, self.tags_asked_by())
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
            Refusal: it cannot learn from the batches, or is too short for --tokens-per-sample.
        """
        model = super().build_model(cfg, from_checkpoint)
        self.check_model(model, cfg._name)
        positions = model.max_positions()
        longest = positions[0] if isinstance(positions, tuple) else positions  # of models that translate: both sides'
        if longest < self.cfg.tokens_per_sample:
            raise Refusal(
                f"--max-source-positions {longest} is less than --tokens-per-sample "
                f"{self.cfg.tokens_per_sample}"
            )
        return model

    def max_positions(self) -> int:
        return self.cfg.tokens_per_sample


def check_joined_texts(cfg: JoinedTextsConfig, alone: str = "") -> None:
    """See that options of the texts make sense.

    Args:
        alone: a kind of text that a task knows beside `mono` and `pairs`, and does not mix with them.
    Raises:
        Refusal: a number out of range, no folder, or an unknown kind of text.
    """
    check_texts(cfg)
    if not alone or cfg.texts != alone:
        chosen("--texts", cfg.texts, (MONO, PAIRS), alone)


def chosen(flag: str, value: str, known: Sequence[str], alone: str = "") -> List[str]:
    """The words of a list that are all `known`; `alone` is only for the message.

    Raises:
        Refusal: none, another, or one twice.
    """
    words = value.split(",")
    if not words or len(set(words)) < len(words) or any(word not in known for word in words):
        others = f", or {alone}" if alone else ""
        raise Refusal(f"{flag} {value}: give {' or '.join(known)}, or {','.join(known)}{others}")
    return words

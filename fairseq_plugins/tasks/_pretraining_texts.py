"""What tasks that pre-train on texts and translation pairs share: their folders, dictionary, languages and tags."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fairseq import utils
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask
from omegaconf import II

from ..compat import Refusal
from ..data import text_folders
from ..data.language_mixture import Text, probabilities
from ..data.objective import Objective
from ..data.symbols import language_tag

logger = logging.getLogger(__name__)

LEAST_TOKENS = 8  # of --tokens-per-sample
MONO, PAIRS = "mono", "pairs"


@dataclass
class PretrainingTextsConfig(FairseqDataclass):
    """Options of the texts."""

    data: Optional[str] = field(
        default=None, metadata={"help": "folder of the translation pairs, or several with ':', one for each epoch"}
    )
    mono_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder of the monolingual texts, <language>/train.bin, or several with ':' (default: data)"},
    )
    mono_langs: Optional[str] = field(
        default=None, metadata={"help": "languages of the monolingual texts, a,b,... or a file (default: all there)"}
    )
    lang_pairs: Optional[str] = field(
        default=None, metadata={"help": "translation pairs, a-b,... or a file (default: lang_pairs.txt of data)"}
    )
    language_tags: bool = field(
        default=False,
        metadata={
            "help": "begin each text, and each sentence of a pair, with the tag of its language; the source of mt with "
            "that of the target's"
        },
    )
    sampling_alpha: float = field(
        default=0.7, metadata={"help": "languages and pairs are drawn by (share of the examples)^ALPHA"}
    )
    tokens_per_sample: int = field(default=512, metadata={"help": "longest example, in tokens"})
    sample_break_mode: ChoiceEnum(["complete", "eos"]) = field(  # type: ignore[valid-type]
        default="complete",
        metadata={"help": "monolingual examples: neighbouring sentences up to --tokens-per-sample, or one each (eos)"},
    )
    seed: int = II("common.seed")
    max_tokens: Optional[int] = II("dataset.max_tokens")
    max_tokens_valid: Optional[int] = II("dataset.max_tokens_valid")
    disable_validation: bool = II("dataset.disable_validation")
    train_subset: str = II("dataset.train_subset")


class PretrainingTexts(FairseqTask):
    """Reads the texts; what is made of them is its subclasses' business."""

    def __init__(self, cfg: Any, dictionary: Dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary

    def has_sharded_data(self, split: str) -> bool:
        return any(os.pathsep in (value or "") for value in (self.cfg.data, self.cfg.mono_data))

    @property
    def source_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary

    def folder(self, kind: str, epoch: int) -> Path:
        """Where the texts of an epoch are: those of `mono`, or `pairs`."""
        paths = utils.split_paths((self.cfg.mono_data or self.cfg.data) if kind == MONO else self.cfg.data)
        return Path(paths[(epoch - 1) % len(paths)])

    def texts(self, kind: str, split: str, epoch: int, block: Optional[int] = None) -> List[Text]:
        """The texts of an epoch.

        Args:
            kind: `mono` or `pairs`.
            block: tokens of joined sentences, of monolingual texts; None: each sentence is an example.
        Raises:
            Refusal: a missing or damaged file, or a language without text.
        """
        folder = self.folder(kind, epoch)
        try:
            if kind == MONO:
                chosen = self._languages(folder, split)
                found = [
                    text_folders.monolingual(folder, language, split, self.dictionary, block=block)
                    for language in chosen
                ]
            else:
                chosen = self._pairs(folder)
                found = [text_folders.parallel(folder, pair, split, self.dictionary) for pair in chosen]
        except ValueError as error:
            raise Refusal(f"{error}") from None
        for name, text in zip(chosen, found, strict=True):
            if text is None and split == self.cfg.train_subset:
                raise Refusal(f"{folder} has no {split} text of {name}; binarise it, or leave {name} out")
        return [text for text in found if text is not None]

    def fitting(self, objective: Objective, texts: Sequence[Text], split: str) -> List[Text]:
        """`texts` without examples that are too long, and without those that then have none.

        Raises:
            Refusal: a text of the training set has none.
        """
        return [text for text in (self._fitting(objective, text, split) for text in texts) if text is not None]

    def find_tags(self, texts: Sequence[Text], tags: Dict[str, int], flag: str) -> None:
        """Put the rows of the languages' tags, for which `flag` asks, into `tags`.

        Raises:
            Refusal: the dictionary lacks one.
        """
        for language in dict.fromkeys(language for text in texts for language in text.languages):
            try:
                tag = language_tag(language)
            except ValueError as error:
                raise Refusal(f"{flag}: {error}") from None
            tags[language] = self.dictionary.index(tag)
            if tags[language] == self.dictionary.unk():
                raise Refusal(f"{flag}: the dictionary has no {tag}; add it with opus100 add-symbols")

    def tell_shares(self, what: str, texts: Sequence[Text]) -> None:
        """Log how many examples each text has, and which share is drawn."""
        shares = probabilities([len(text.rows) for text in texts], self.cfg.sampling_alpha)
        told = (f"{text.name} {len(text.rows)} ({share:.1%})" for text, share in zip(texts, shares, strict=True))
        logger.info(f"{what}: {', '.join(told)}")

    def _fitting(self, objective: Objective, text: Text, split: str) -> Optional[Text]:
        most = self.cfg.tokens_per_sample
        fitting = objective.fitting(text, most)
        if fitting is None and split == self.cfg.train_subset:
            raise Refusal(
                f"--tokens-per-sample {most} is too short for every {split} example of {objective.name} {text.name}"
            )
        left_out = len(text.rows) - (0 if fitting is None else len(fitting.rows))
        if left_out:
            logger.warning(
                f"{split} {objective.name} {text.name}: {left_out} of {len(text.rows)} "
                f"examples may be longer than --tokens-per-sample {most} and are left out"
            )
        return fitting

    def _languages(self, folder: Path, split: str) -> List[str]:
        if self.cfg.mono_langs is None:
            return text_folders.languages_of(folder, split)
        return text_folders.listed(self.cfg.mono_langs)

    def _pairs(self, folder: Path) -> List[str]:
        listed = self.cfg.lang_pairs or str(folder / "lang_pairs.txt")
        if self.cfg.lang_pairs is None and not os.path.isfile(listed):
            raise Refusal(f"{listed} is missing; give --lang-pairs, or a folder that opus100 prepare wrote")
        return text_folders.unordered(text_folders.listed(listed))


def check_texts(cfg: PretrainingTextsConfig, objectives: int = 1) -> None:
    """See that options of the texts make sense, for so many objectives that share --max-tokens.

    Raises:
        Refusal: a number out of range, or no folder.
    """
    if not 0 <= cfg.sampling_alpha <= 1:
        raise Refusal(f"--sampling-alpha {cfg.sampling_alpha:g} must be from 0 (all alike) to 1 (by size)")
    if cfg.tokens_per_sample < LEAST_TOKENS:
        raise Refusal(f"--tokens-per-sample {cfg.tokens_per_sample} must be at least {LEAST_TOKENS}")
    for flag, tokens in (("--max-tokens", cfg.max_tokens), ("--max-tokens-valid", cfg.max_tokens_valid)):
        if tokens is not None and tokens < objectives * cfg.tokens_per_sample:
            shared = f", shared by {objectives} objectives," if objectives > 1 else ""
            each = " for each" if objectives > 1 else ""
            raise Refusal(
                f"{flag} {tokens}{shared} must be at least --tokens-per-sample {cfg.tokens_per_sample}{each}"
            )
    if not cfg.data:
        raise Refusal("give the folder of the binarised data as the first word")


def load_dictionary(cfg: PretrainingTextsConfig) -> Dictionary:
    """The one dictionary of all folders.

    Raises:
        Refusal: missing, unreadable, or not the same everywhere.
    """
    dictionary, first = None, None
    for value in (cfg.data, cfg.mono_data):
        for folder in utils.split_paths(value) if value else []:
            path = Path(folder) / "dict.txt"
            if not path.is_file():
                raise Refusal(f"{path} is missing; give a folder that opus100 prepare or opus100 mono wrote")
            try:
                loaded = Dictionary.load(str(path))
            except Exception as error:
                raise Refusal(f"{path} is not a fairseq dictionary ({error})") from None
            if dictionary is not None and loaded != dictionary:
                raise Refusal(f"{path} differs from {first}; binarise both texts with one dictionary")
            dictionary, first = loaded, first or path
    assert dictionary is not None
    logger.info(f"dictionary: {len(dictionary)} symbols")
    return dictionary

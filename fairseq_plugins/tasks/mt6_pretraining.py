"""`--task mt6_pretraining`: span corruption of texts and translation pairs (mT6, arXiv 2104.08692)."""

import inspect
import logging
import os
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from ..compat import Refusal
from ..data import text_folders
from ..data.language_mixture import Text, probabilities
from ..data.objective_dataset import ObjectiveDataset
from ..data.pretraining_objectives import OBJECTIVES, Objective, SpanCorruption, Symbols, Translation
from ..data.readable_batch import ReadableExample, sequence_pairs
from ..data.span_corruption import SpanNoise
from ..data.symbols import SENTINEL_COUNT, language_tag, sentinel

logger = logging.getLogger(__name__)

LEAST_TOKENS = 8  # of --tokens-per-sample


@dataclass
class MT6PretrainingConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(
        default=None, metadata={"help": "folder of the translation pairs, or several with ':', one for each epoch"}
    )
    mono_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder of the monolingual texts, <language>/train.bin, or several with ':' (default: data)"},
    )
    objectives: str = field(
        default="sc,tsc", metadata={"help": "what is mixed: sc with any of mt, tpsc, tsc; or some of these alone"}
    )
    mono_langs: Optional[str] = field(
        default=None, metadata={"help": "languages of sc, a,b,... or a file (default: all that are there)"}
    )
    lang_pairs: Optional[str] = field(
        default=None, metadata={"help": "pairs of the others, a-b,... or a file (default: lang_pairs.txt of data)"}
    )
    sc_noise_density: float = field(default=0.15, metadata={"help": "share of a text that sc masks"})
    sc_span_length: float = field(default=3.0, metadata={"help": "mean length of sc's spans, in tokens"})
    tpsc_noise_density: float = field(default=0.5, metadata={"help": "share of a pair that tpsc masks"})
    tpsc_span_length: float = field(default=3.0, metadata={"help": "mean length of tpsc's spans, in tokens"})
    tsc_noise_density: float = field(
        default=0.5, metadata={"help": "share of one sentence of a pair that tsc masks; 1 is translation"}
    )
    tsc_span_length: float = field(default=3.0, metadata={"help": "mean length of tsc's spans, in tokens"})
    pnat_groups: int = field(
        default=3, metadata={"help": "independent groups that a target's spans are decoded in; 1 is ordinary training"}
    )
    language_tags: bool = field(
        default=False,
        metadata={
            "help": "begin each text, and each sentence of a pair, with the tag of its language; mt's source with that "
            "of the target's"
        },
    )
    sampling_alpha: float = field(
        default=0.7, metadata={"help": "languages and pairs are drawn by (share of the examples)^ALPHA"}
    )
    tokens_per_sample: int = field(default=512, metadata={"help": "longest source and target, in tokens"})
    sample_break_mode: ChoiceEnum(["complete", "eos"]) = field(  # type: ignore[valid-type]
        default="complete",
        metadata={"help": "sc's examples: neighbouring sentences up to --tokens-per-sample, or single ones (eos)"},
    )
    seed: int = II("common.seed")
    max_tokens: Optional[int] = II("dataset.max_tokens")
    max_tokens_valid: Optional[int] = II("dataset.max_tokens_valid")
    disable_validation: bool = II("dataset.disable_validation")
    train_subset: str = II("dataset.train_subset")


@register_task("mt6_pretraining", dataclass=MT6PretrainingConfig)
class MT6Pretraining(FairseqTask):
    """Pre-trains an encoder-decoder on mT6's objectives, with or without partially non-autoregressive decoding.

    Each batch holds examples of every objective, with an equal share of `--max-tokens` (source or target, whichever is
    longer). `--criterion mt6_pretraining` adds their losses. Sentences, order and noise
    depend on (--seed, epoch, place in the epoch) alone.
    """

    def __init__(self, cfg: MT6PretrainingConfig, dictionary: Dictionary, objectives: Sequence[Objective]):
        super().__init__(cfg)
        self.dictionary = dictionary
        self.objectives = list(objectives)

    @classmethod
    def setup_task(cls, cfg: MT6PretrainingConfig, **unused: Any) -> "MT6Pretraining":
        """Check the options and find the dictionary's symbols.

        Raises:
            Refusal: an option out of range, a missing folder or dictionary, or one without the symbols.
        """
        names = check(cfg)
        dictionary = load_dictionary(cfg)
        symbols = find_symbols(dictionary)
        try:
            noises = {
                name: SpanNoise(cfg[f"{name}_noise_density"], cfg[f"{name}_span_length"]).checked(
                    f"--{name}-noise-density", f"--{name}-span-length", whole=name == "tsc"
                )
                for name in names
                if name != Translation.name
            }
        except ValueError as error:
            raise Refusal(f"{error}") from None
        made = [OBJECTIVES[name](symbols, noises.get(name), cfg.pnat_groups) for name in names]
        return cls(cfg, dictionary, made)

    @property
    def objective_names(self) -> List[str]:
        """In the order of --objectives."""
        return [objective.name for objective in self.objectives]

    def has_sharded_data(self, split: str) -> bool:
        return any(os.pathsep in (value or "") for value in (self.cfg.data, self.cfg.mono_data))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **unused: Any) -> None:
        """Read the shard of `epoch`.

        Raises:
            Refusal: a missing or damaged file, an objective without text, or a language without a tag.
        """
        training = split == self.cfg.train_subset
        texts = [self._texts(objective, split, epoch) for objective in self.objectives]
        present = [(objective, each) for objective, each in zip(self.objectives, texts, strict=True) if each]
        if training and len(present) < len(self.objectives):
            missing = next(objective.name for objective, each in zip(self.objectives, texts, strict=True) if not each)
            raise Refusal(f"--objectives {missing}: no text for it in {self._folder(missing, epoch)} (split {split})")
        if not present:
            raise Refusal(
                f"no text for the split {split} in {self._folder(self.objectives[0].name, epoch)}; make one, or give "
                "--disable-validation"
            )
        for objective, each in present:
            shares = probabilities([len(text.rows) for text in each], self.cfg.sampling_alpha)
            told = ", ".join(
                f"{text.name} {len(text.rows)} ({share:.1%})" for text, share in zip(each, shares, strict=True)
            )
            logger.info(f"{split} {objective.name}: {told}")
        self.datasets[split] = ObjectiveDataset(
            [objective for objective, _ in present],
            [each for _, each in present],
            seed=self.cfg.seed,
            alpha=self.cfg.sampling_alpha,
            training=training,
        )

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The model that `--arch` names.

        Raises:
            Refusal: its decoder knows no groups, or it is too short for --tokens-per-sample.
        """
        ranks = cfg.moe_expert_parallel_size if "moe_expert_parallel_size" in cfg else 1
        if ranks > 1 and len(self.objectives) > 1 and not self.cfg.disable_validation:
            # at the end of a validation one rank may have examples of fewer objectives, and would wait for ever
            raise Refusal(
                f"--moe-expert-parallel-size {ranks} with several --objectives: validation is not possible, give "
                "--disable-validation"
            )
        model = super().build_model(cfg, from_checkpoint)
        decoder = getattr(model, "decoder", None)
        if decoder is None or not hasattr(model, "encoder"):
            raise Refusal(f"--arch {cfg._name} has no encoder and decoder, which --task mt6_pretraining needs")
        if self.cfg.pnat_groups > 1 and "groups" not in inspect.signature(decoder.forward).parameters:
            raise Refusal(
                f"--arch {cfg._name} cannot decode in groups; give --pnat-groups 1, or an architecture of this package"
            )
        for side, most in zip(("source", "target"), model.max_positions(), strict=True):
            if most < self.cfg.tokens_per_sample:
                raise Refusal(
                    f"--max-{side}-positions {most} is less than --tokens-per-sample {self.cfg.tokens_per_sample}"
                )
        return model

    def describe_batch(self, sample: Dict[str, Any]) -> List[ReadableExample]:
        """For `show-batch`: one example of each objective after the other."""
        parts = []
        for name, part in sample["objectives"].items():
            titles = [f"{name} {text}" for text in part["text"]]
            parts.append(sequence_pairs(part, self.dictionary, self.dictionary, titles))
        return [example for row in zip_longest(*parts) for example in row if example is not None]

    def max_positions(self) -> Tuple[int, int]:
        return self.cfg.tokens_per_sample, self.cfg.tokens_per_sample

    @property
    def source_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary

    def _folder(self, objective: str, epoch: int) -> Path:
        value = (self.cfg.mono_data or self.cfg.data) if OBJECTIVES[objective].sentences == 1 else self.cfg.data
        paths = utils.split_paths(value)
        return Path(paths[(epoch - 1) % len(paths)])

    def _texts(self, objective: Objective, split: str, epoch: int) -> List[Text]:
        folder = self._folder(objective.name, epoch)
        try:
            if isinstance(objective, SpanCorruption):
                chosen = self._languages(folder, split)
                joined = str(self.cfg.sample_break_mode) == "complete"
                block = objective.longest_text(self.cfg.tokens_per_sample) if joined else None
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
        texts = [text for text in (self._fitting(objective, text, split) for text in found if text) if text]
        if objective.name == Translation.name and not self.cfg.language_tags:
            check_one_partner([text.languages for text in texts])
        if self.cfg.language_tags:
            for language in dict.fromkeys(language for text in texts for language in text.languages):
                self._find_tag(language, objective.symbols)
        return texts

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

    def _find_tag(self, language: str, symbols: Symbols) -> None:
        try:
            tag = language_tag(language)
        except ValueError as error:
            raise Refusal(f"--language-tags: {error}") from None
        row = self.dictionary.index(tag)
        if row == self.dictionary.unk():
            raise Refusal(f"--language-tags: the dictionary has no {tag}; add it with opus100 add-symbols")
        symbols.tags[language] = row


def check(cfg: MT6PretrainingConfig) -> List[str]:
    """The objectives of `cfg`, if its options make sense.

    Raises:
        Refusal: an unknown objective, or a number out of range.
    """
    names = text_folders.listed(cfg.objectives)
    known = ", ".join(OBJECTIVES)
    if not names or len(set(names)) < len(names) or any(name not in OBJECTIVES for name in names):
        raise Refusal(f"--objectives {cfg.objectives}: give some of {known}, each once, with commas")
    if cfg.pnat_groups < 1:
        raise Refusal(f"--pnat-groups {cfg.pnat_groups} must be at least 1 (1 is ordinary training)")
    if not 0 <= cfg.sampling_alpha <= 1:
        raise Refusal(f"--sampling-alpha {cfg.sampling_alpha:g} must be from 0 (all alike) to 1 (by size)")
    if cfg.tokens_per_sample < LEAST_TOKENS:
        raise Refusal(f"--tokens-per-sample {cfg.tokens_per_sample} must be at least {LEAST_TOKENS}")
    for flag, tokens in (("--max-tokens", cfg.max_tokens), ("--max-tokens-valid", cfg.max_tokens_valid)):
        if tokens is not None and tokens < len(names) * cfg.tokens_per_sample:
            raise Refusal(
                f"{flag} {tokens}, shared by {len(names)} objectives, must be at least --tokens-per-sample "
                f"{cfg.tokens_per_sample} for each"
            )
    if not cfg.data:
        raise Refusal("give the folder of the binarised data as the first word")
    return names


def check_one_partner(pairs: Sequence[Sequence[str]]) -> None:
    """See that the source's language alone says which language to translate into.

    Raises:
        Refusal: one language has several partners.
    """
    partners: Dict[str, str] = {}
    for pair in pairs:
        for source, target in (pair, tuple(reversed(pair))):
            if partners.setdefault(source, target) != target:
                raise Refusal(
                    f"--objectives mt translates {source} into {partners[source]} and {target}: give --language-tags"
                )


def load_dictionary(cfg: MT6PretrainingConfig) -> Dictionary:
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


def find_symbols(dictionary: Dictionary) -> Symbols:
    """Rows of the sentinels; tags are looked up when languages are known.

    Raises:
        Refusal: a sentinel is missing.
    """
    rows: Dict[str, int] = {sentinel(n): dictionary.index(sentinel(n)) for n in range(1, SENTINEL_COUNT + 1)}
    missing = [symbol for symbol, row in rows.items() if row == dictionary.unk()]
    if missing:
        raise Refusal(
            f"the dictionary has no {missing[0]} (nor {len(missing) - 1} other sentinels); add them with "
            "opus100 add-symbols"
        )
    return Symbols(dictionary.pad(), dictionary.eos(), np.array(list(rows.values())), {})

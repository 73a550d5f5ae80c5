"""`--task mt6_pretraining`: span corruption of texts and translation pairs (mT6, arXiv 2104.08692)."""

import inspect
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary
from fairseq.tasks import register_task

from ..compat import Refusal
from ..data import text_folders
from ..data.language_mixture import Text
from ..data.objective import Objective
from ..data.objective_dataset import ObjectiveDataset
from ..data.pretraining_objectives import OBJECTIVES, SpanCorruption, Symbols, Translation
from ..data.readable_batch import ReadableExample, sequence_pairs
from ..data.span_corruption import SpanNoise
from ..data.symbols import SENTINEL_COUNT, sentinel
from ._pretraining_texts import MONO, PAIRS, PretrainingTexts, PretrainingTextsConfig, check_texts, load_dictionary


@dataclass
class MT6PretrainingConfig(PretrainingTextsConfig):
    """Options of the task."""

    objectives: str = field(
        default="sc,tsc", metadata={"help": "what is mixed: sc with any of mt, tpsc, tsc; or some of these alone"}
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


@register_task("mt6_pretraining", dataclass=MT6PretrainingConfig)
class MT6Pretraining(PretrainingTexts):
    """Pre-trains an encoder-decoder on mT6's objectives, with or without partially non-autoregressive decoding.

    Each batch holds examples of every objective, with an equal share of `--max-tokens` (source or target, whichever is
    longer). `--criterion mt6_pretraining` adds their losses. Sentences, order and noise
    depend on (--seed, epoch, place in the epoch) alone.
    """

    def __init__(self, cfg: MT6PretrainingConfig, dictionary: Dictionary, objectives: Sequence[Objective]):
        super().__init__(cfg, dictionary)
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

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **unused: Any) -> None:
        """Read the shard of `epoch`.

        Raises:
            Refusal: a missing or damaged file, an objective without text, or a language without a tag.
        """
        training = split == self.cfg.train_subset
        texts = [self._texts(objective, split, epoch) for objective in self.objectives]
        present = [(objective, each) for objective, each in zip(self.objectives, texts, strict=True) if each]
        if training and len(present) < len(self.objectives):
            missing = next(objective for objective, each in zip(self.objectives, texts, strict=True) if not each)
            folder = self.folder(_kind(missing), epoch)
            raise Refusal(f"--objectives {missing.name}: no text for it in {folder} (split {split})")
        if not present:
            folder = self.folder(_kind(self.objectives[0]), epoch)
            raise Refusal(f"no text for the split {split} in {folder}; make one, or give --disable-validation")
        for objective, each in present:
            self.tell_shares(f"{split} {objective.name}", each)
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

    def _texts(self, objective: Objective, split: str, epoch: int) -> List[Text]:
        block = None
        if isinstance(objective, SpanCorruption) and str(self.cfg.sample_break_mode) == "complete":
            block = objective.longest_text(self.cfg.tokens_per_sample)
        texts = self.fitting(objective, self.texts(_kind(objective), split, epoch, block), split)
        if objective.name == Translation.name and not self.cfg.language_tags:
            check_one_partner([text.languages for text in texts])
        if self.cfg.language_tags:
            self.find_tags(texts, objective.tags, "--language-tags")
        return texts


def _kind(objective: Objective) -> str:
    return MONO if isinstance(objective, SpanCorruption) else PAIRS


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
    check_texts(cfg, len(names))
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

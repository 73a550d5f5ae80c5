"""`--task relation_distillation`: a student learns a teacher's relations from plain text (MiniLM, MiniLMv2)."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task

from ..compat import Refusal
from ..data.joined_text import JoinedText
from ..data.language_mixture import Text
from ..data.readable_batch import ReadableExample, whole_texts
from ..data.source_text import SourceText, both_directions
from ._joined_texts import JoinedTexts, JoinedTextsConfig, check_joined_texts
from ._pretraining_texts import MONO, PAIRS, load_dictionary

logger = logging.getLogger(__name__)

SOURCES = "sources"
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class RelationDistillationConfig(JoinedTextsConfig):
    """Options of the task."""

    teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "the teacher: a checkpoint of transformer_mlm, transformer_mt or xlm_t, fairseq's RoBERTa, XLM-R "
            "or transformer, or a Hugging Face folder of BERT, RoBERTa or XLM-R; read by training and validation, and "
            "by nothing else"
        },
    )
    teacher_layer: int = field(
        default=0,
        metadata={
            "help": "layer of the teacher whose relations are learned, from 1 (0: the papers', the last; with a "
            "--relation-heads, as in MiniLMv2, of 24 layers the 21st of BERT, the 19th of others)"
        },
    )
    teacher_dtype: ChoiceEnum(list(_PRECISIONS)) = field(  # type: ignore[valid-type]
        default="float32", metadata={"help": "what the teacher computes in"}
    )
    texts: str = field(
        default=MONO,
        metadata={
            "help": "what is read: mono, pairs (two sentences as one text), or mono,pairs; or sources, as the encoder "
            "of a translation model reads them"
        },
    )
    encoder_langtok: ChoiceEnum(["none", "src", "tgt"]) = field(  # type: ignore[valid-type]
        default="tgt", metadata={"help": "tag that --texts sources begin with, as in the training of the teacher"}
    )


class Distillation(NamedTuple):
    """What a criterion needs to distil."""

    encoder: Any  # of the student; has `attention_heads` and `projection_width`
    layer: int  # of it, counted from 1
    teacher: Any  # has an `encoder` too, and `projections(src_tokens, segments)`


@register_task("relation_distillation", dataclass=RelationDistillationConfig)
class RelationDistillation(JoinedTexts):
    """Distils an encoder: the student's last layer is to relate tokens as a layer of the teacher does.

    An example is `<s> text </s>`: neighbouring sentences up to --tokens-per-sample, or a translation pair; nothing is
    masked. With `--texts sources` it is `[tag] source </s>` of every direction. Sentences and order depend on
    (--seed, epoch, place in the epoch) alone. The teacher is in no checkpoint.
    """

    student: Any = None

    @classmethod
    def setup_task(cls, cfg: RelationDistillationConfig, **unused: Any) -> "RelationDistillation":
        """Check the options and read the dictionary.

        Raises:
            Refusal: an option out of range, a missing folder or dictionary.
        """
        check_joined_texts(cfg, SOURCES)
        dictionary = load_dictionary(cfg)
        if cfg.texts != SOURCES:
            return cls(cfg, dictionary, JoinedText(dictionary))
        if cfg.language_tags:
            raise Refusal("--texts sources takes its tags from --encoder-langtok: leave out --language-tags")
        return cls(cfg, dictionary, SourceText(dictionary, str(cfg.encoder_langtok).replace("none", "")))

    def texts(self, kind: str, split: str, epoch: int, block: Optional[int] = None) -> List[Text]:
        """As for other tasks; `sources` are those of both directions of a pair."""
        if kind != SOURCES:
            return super().texts(kind, split, epoch, block)
        return both_directions(super().texts(PAIRS, split, epoch))

    def tags_asked_by(self) -> str:
        """The flag that has texts begin with a tag of a language; empty where none does."""
        if self.cfg.texts != SOURCES:
            return super().tags_asked_by()
        whose = str(self.cfg.encoder_langtok)
        return "" if whose == "none" else f"--encoder-langtok {whose}"

    def check_model(self, model: Any, name: str) -> None:
        """See that the model can be a student, and remember it.

        Raises:
            Refusal: it cannot.
        """
        if not hasattr(model, "learn_relations"):
            raise Refusal(f"--arch {name} is no student: give transformer_mlm, transformer_mt, xlm_t or one's preset")
        self.student = model

    def begin_distillation(self, compared: Sequence[str], minilm: bool) -> Distillation:
        """Read the teacher, and freeze what of the student the loss does not reach. Called by the criterion.

        Args:
            compared: which of `q`, `k` and `v` the loss compares.
            minilm: whether attention heads are compared, as in MiniLM; then the papers' layer is always the last.
        Raises:
            Refusal: no student, no teacher, or one that does not fit.
        """
        if self.student is None:
            raise Refusal("--criterion relation_distillation needs a model that --task relation_distillation built")
        if not self.cfg.teacher:
            raise Refusal("--task relation_distillation needs --teacher: a checkpoint, or a folder that holds one")
        teacher = self.student.read_teacher(
            self.cfg.teacher,
            self.dictionary,
            layer=self.cfg.teacher_layer,
            dtype=_PRECISIONS[str(self.cfg.teacher_dtype)],
            longest=self.cfg.tokens_per_sample,
            minilm=minilm,
        )
        if teacher.translates != (self.cfg.texts == SOURCES):
            fitting = "sources" if teacher.translates else "mono, pairs or both"
            logger.warning(f"--texts {self.cfg.texts}: --teacher {self.cfg.teacher} was trained on other lines; give "
                           f"--texts {fitting}")  # fmt: skip
        return Distillation(self.student.encoder, self.student.learn_relations(compared), teacher)

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The criterion that `--criterion` names.

        Raises:
            Refusal: another than relation_distillation, for which these batches have no targets.
        """
        if cfg._name != "relation_distillation":
            raise Refusal(f"--criterion {cfg._name} finds no targets here: give --criterion relation_distillation")
        return super().build_criterion(cfg, from_checkpoint)

    def describe_batch(self, sample: Dict[str, Any]) -> List[ReadableExample]:
        """For `show-batch`."""
        return whole_texts(sample, self.dictionary, sample["text"])

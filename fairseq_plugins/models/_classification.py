"""Heads for whole sentences on an encoder, as fairseq's tasks `sentence_prediction` and `sentence_ranking` ask for."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from torch import Tensor, nn

from ..modules.prediction_heads import SentenceHead
from ._build_moe import OptionError

logger = logging.getLogger(__name__)

# B batch, T length, D model dim, C classes

_HEADS = "classification_heads."


@dataclass
class ClassificationOptions(FairseqDataclass):
    """Options of the heads; they say nothing where there is none."""

    classification_head: ChoiceEnum(["roberta", "linear"]) = field(  # type: ignore[valid-type]
        default="roberta",
        metadata={
            "help": "what turns the first token's hidden state into scores: roberta (dense, tanh, projection) or "
            "linear (the projection alone; UniLMv2)"
        },
    )
    pooler_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability in classification heads, before each of their projections"}
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={"help": "only classification heads learn (a probe): the encoder neither changes nor drops out"},
    )


class SentenceHeads(nn.Module):
    """The mixin for models that have an `encoder`: heads by name, stored under RoBERTa's names.

    A head reads the first hidden state, so texts stand at the left and begin with `<s>` (`--init-token 0`).
    """

    encoder: Any
    classification_heads: nn.ModuleDict
    _frozen: List[nn.Module]
    unlike_checkpoint = ""  # why the training that wrote the checkpoint cannot go on, and what to give

    def prepare_heads(self, cfg: Any, task: Any) -> None:
        """Read the options. Called once, by `build_model`; the task registers its head afterwards.

        Raises:
            OptionError: a value out of range, or more labels in the data than classes.
        """
        if not 0 <= cfg.pooler_dropout < 1:
            raise OptionError(f"--pooler-dropout {cfg.pooler_dropout} must be at least 0 and below 1")
        if isinstance(task, SentencePredictionTask):
            _check_task(task)
        self.classification_heads = nn.ModuleDict()
        self.encoder_frozen, self._frozen = bool(cfg.freeze_encoder), []
        self._kind, self._dropout = str(cfg.classification_head), cfg.pooler_dropout
        if self.encoder_frozen:
            self.freeze([self.encoder])

    def freeze(self, parts: Iterable[nn.Module]) -> None:
        """Parts of the model neither change nor drop out from now on."""
        self._frozen += parts
        for part in self._frozen:
            part.requires_grad_(False)

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: Optional[int] = None, **unused: Any
    ) -> None:
        """Make a head with fresh weights; tasks call this. From then on the head of the language model learns no more.

        It would get no gradient anyway, which data-parallel training takes for an error.

        Args:
            name: what the criterion calls the head by.
            num_classes: C, or the number of values that a regression predicts.
            inner_dim: width of `--classification-head roberta`'s dense layer (None: the encoder's).
        Raises:
            OptionError: a name that cannot be part of a parameter's.
        """
        if not name or "." in name:
            raise OptionError(f"--classification-head-name '{name}' must be a word without dots")
        dim = self.encoder.dim
        inner = None if self._kind == "linear" else inner_dim or dim
        self.classification_heads[name] = SentenceHead(dim, num_classes, inner_dim=inner, dropout=self._dropout)
        for parameter in self.encoder.lm_head.parameters():
            if parameter is not self.encoder.embed_tokens.weight:
                parameter.requires_grad_(False)

    def classify(self, head: str, src_tokens: Tensor, **kwargs: Any) -> Tuple[Tensor, Dict[str, Any]]:
        """Scores (B, C) of texts (B, T) by one head, and what the encoder returned beside its hidden states."""
        kwargs.update(features_only=True, segments=self._segments(src_tokens))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            x_BTD, extra = self.encoder(src_tokens, **kwargs)
        return self.classification_heads[head](x_BTD[:, 0]), extra

    def _segments(self, tokens_BT: Tensor) -> Optional[Tensor]:
        """As pre-training on sentence pairs has them: 0 up to the first </s>, 1 up to the next."""
        table = self.encoder.embed_segments
        if table is None:
            return None
        ends_BT = tokens_BT.eq(self.encoder.dictionary.eos()).long()
        return (ends_BT.cumsum(1) - ends_BT).clamp(max=table.num_embeddings - 1)

    def train(self, mode: bool = True) -> Any:
        """What is frozen stays in evaluation mode: no dropout, and nothing in it counts batches."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def start_training(self, resumed: bool = False) -> None:
        """Called by the trainer before it makes the optimiser.

        Raises:
            OptionError: nothing can learn, or the training goes on with weights of another shape than it had.
        """
        if resumed and self.unlike_checkpoint:
            raise OptionError(f"{self.unlike_checkpoint} as before, or --reset-optimizer")
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise OptionError("--freeze-encoder leaves nothing to learn here; it is for --task sentence_prediction")

    def heads_of(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Weights for this model's heads: those of a checkpoint's state where they fit, else the fresh ones."""
        given: Dict[str, Dict[str, Tensor]] = defaultdict(dict)
        for key, value in state.items():
            if key.startswith(_HEADS):
                name, _, part = key[len(_HEADS) :].partition(".")
                given[name][part] = value
        for name in given.keys() - self.classification_heads.keys():
            logger.warning(f"the checkpoint's classification head {name} is left out: there is none of that name here")
        found = {}
        for name, head in self.classification_heads.items():
            fresh, theirs = head.state_dict(), given.get(name)
            if theirs is None:
                logger.info(f"the classification head {name} starts at random: the checkpoint has none of that name")
            elif {part: value.shape for part, value in theirs.items()} != {p: v.shape for p, v in fresh.items()}:
                logger.warning(
                    f"the classification head {name} starts at random: the checkpoint's has {_shape(theirs)}, this "
                    f"model's {_shape(fresh)}; to go on with the rest give --reset-optimizer"
                )
                theirs = None
            if theirs is None:
                self.unlike_checkpoint = (
                    f"the checkpoint's optimiser does not know the classification head {name} in this shape: give "
                    "--classification-head-name, --classification-head and --num-classes"
                )
            found.update({f"{_HEADS}{name}.{part}": value for part, value in (theirs or fresh).items()})
        return found


def _check_task(task: SentencePredictionTask) -> None:
    if task.cfg.init_token != task.source_dictionary.bos():
        logger.warning(
            "--init-token is not %d: the head reads a text's first token, which in pre-training was %s",
            task.source_dictionary.bos(), task.source_dictionary.bos_word,
        )  # fmt: skip
    if task.cfg.regression_target:
        return
    labels = task.label_dictionary  # padded with symbols that no line has, and with the task's own <mask>
    used = sum(count > 0 for count in labels.count[labels.nspecial :]) - ("<mask>" in labels)
    if used > task.cfg.num_classes:
        raise OptionError(f"--num-classes {task.cfg.num_classes}: label/dict.txt has {used} labels; give {used}")


def _shape(head: Dict[str, Tensor]) -> str:
    classes = f"{len(head['out_proj.bias'])} classes" if "out_proj.bias" in head else "no projection"
    return classes + (f" and a dense layer of {len(head['dense.bias'])}" if "dense.bias" in head else "")

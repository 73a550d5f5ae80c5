"""`--task electra`: texts and translation pairs, masked as ELECTRA's generator reads them (arXiv 2003.10555)."""

import inspect
from dataclasses import dataclass, field
from typing import Any, Dict, List

from fairseq.tasks import register_task

from ..compat import Refusal
from ..data.electra_masking import ElectraNoise, ElectraText
from ..data.readable_batch import ReadableExample, masked_texts
from ._joined_texts import JoinedTexts, JoinedTextsConfig, check_joined_texts
from ._pretraining_texts import load_dictionary


@dataclass
class ElectraConfig(JoinedTextsConfig):
    """Options of the task."""

    mask_prob: float = field(default=0.15, metadata={"help": "share of a text's tokens that are masked"})
    leave_unmasked_prob: float = field(
        default=0.15, metadata={"help": "probability that a masked token stands there itself"}
    )


@register_task("electra", dataclass=ElectraConfig)
class Electra(JoinedTexts):
    """Pre-trains `--arch electra`: a generator fills masked places, a discriminator finds what it put there.

    An example is `<s> text </s>`: neighbouring sentences up to --tokens-per-sample, or a translation pair. Sentences,
    order and masked places depend on (--seed, epoch, place in the epoch) alone.
    """

    @classmethod
    def setup_task(cls, cfg: ElectraConfig, **unused: Any) -> "Electra":
        """Check the options and find the dictionary's symbols.

        Raises:
            Refusal: an option out of range, a missing folder or dictionary, or one without `<mask>`.
        """
        check_joined_texts(cfg)
        dictionary = load_dictionary(cfg)
        try:
            noise = ElectraNoise(cfg.mask_prob, cfg.leave_unmasked_prob).checked("--mask-prob", "--leave-unmasked-prob")
            return cls(cfg, dictionary, ElectraText(dictionary, noise, cfg.tokens_per_sample))
        except ValueError as error:
            raise Refusal(f"{error}") from None

    def check_model(self, model: Any, name: str) -> None:
        """See that the model has a generator and a discriminator.

        Raises:
            Refusal: it has not.
        """
        if "originals" not in inspect.signature(model.forward).parameters:
            raise Refusal(f"--arch {name} has no generator and discriminator; give electra or a preset of it")

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The criterion that `--criterion` names.

        Raises:
            Refusal: another than electra_hardness, which does not give the model what it asks for.
        """
        if cfg._name != "electra_hardness":
            raise Refusal(f"--criterion {cfg._name} trains no discriminator: give --criterion electra_hardness")
        return super().build_criterion(cfg, from_checkpoint)

    def describe_batch(self, sample: Dict[str, Any]) -> List[ReadableExample]:
        """For `show-batch`."""
        return masked_texts(sample, self.dictionary, sample["text"])

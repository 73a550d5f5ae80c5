"""Batches that hold examples of every objective: mT6's step is one batch of each, their losses added."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset

from .language_mixture import EpochPlan, Text, epoch_plan, every_row
from .objective import Objective

# N examples of an epoch, B examples of a batch

_PLAN, _EXAMPLE, _ORDER = range(3)  # what dice are for


class ObjectiveDataset(FairseqDataset):
    """Examples of several objectives, and batches that hold about as many tokens of each.

    Indices count through the examples of the first objective, then of the second, ...; an example is made of (seed,
    epoch, index) alone.

    Args:
        objectives: the mix.
        texts: for each objective the texts it is made of, at least one.
        seed: of the order, of the choice of sentences and of the noise.
        alpha: exponent of sampling, in training.
        training: whether sentences are sampled, epoch by epoch: the objective with most tokens comes about once, the
            others as often as gives as many tokens. Else every sentence comes once, always with the same noise.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        texts: Sequence[Sequence[Text]],
        *,
        seed: int = 1,
        alpha: float = 0.7,
        training: bool = True,
    ):
        self.objectives, self.texts = list(objectives), [list(each) for each in texts]
        self.seed, self.alpha, self.training = seed, alpha, training
        counts = np.array([sum(len(text.rows) for text in each) for each in self.texts])
        if training:
            tokens = [
                sum(int(np.maximum(*objective.sizes(text))[text.rows].sum()) for text in each)
                for objective, each in zip(self.objectives, self.texts, strict=True)
            ]
            counts = np.ceil(counts * max(tokens) / np.array(tokens)).astype(int)
        self.first = np.concatenate(([0], np.cumsum(counts)))  # index of each objective's first example
        self.epoch = -1  # `set_epoch` comes before everything else
        self.plans: List[EpochPlan] = []

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Other sentences come in another epoch."""
        return not self.training

    def set_epoch(self, epoch: int) -> None:
        """Choose the sentences of an epoch; validation knows only one."""
        epoch = epoch if self.training else 0
        if epoch == self.epoch:
            return
        self.epoch = epoch
        self.plans = []
        sizes = []
        for number, (objective, texts) in enumerate(zip(self.objectives, self.texts, strict=True)):
            count = int(self.first[number + 1] - self.first[number])
            rng = self._rng(_PLAN, number)
            plan = epoch_plan(texts, count, self.alpha, rng) if self.training else every_row(texts)
            self.plans.append(plan)
            sizes.append(objective.plan_sizes(texts, plan))
        self.source_N, self.target_N = (np.concatenate(side) for side in zip(*sizes, strict=True))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, index: int) -> Dict[str, Any]:
        number = int(np.searchsorted(self.first, index, side="right")) - 1
        plan, place = self.plans[number], index - int(self.first[number])
        text = self.texts[number][plan.text_N[place]]
        example = self.objectives[number].example(text, int(plan.row_N[place]), self._rng(_EXAMPLE, index))
        return {"id": index, "objective": self.objectives[number].name, "text": text.name, "example": example}

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of each example: the larger of source and target."""
        return np.maximum(self.source_N[indices], self.target_N[indices])

    def num_tokens(self, index: int) -> int:
        return int(max(self.size(index)))

    def size(self, index: int) -> Tuple[int, int]:
        """Tokens of source and target."""
        return int(self.source_N[index]), int(self.target_N[index])

    def ordered_indices(self) -> np.ndarray:
        """By length, equal ones in an order of chance; which objective they are of, `batch_by_size` sees to."""
        shuffled = self._rng(_ORDER).permutation(len(self)) if self.training else np.arange(len(self))
        return shuffled[np.argsort(self.num_tokens_vec(shuffled), kind="stable")]

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> Tuple[np.ndarray, List[int]]:
        """Leave out examples that are longer than `max_sizes`, (source, target) or both."""
        most = max_sizes if isinstance(max_sizes, (tuple, list)) else (max_sizes, max_sizes)
        fits = (self.source_N[indices] <= most[0]) & (self.target_N[indices] <= most[1])
        return indices[fits], indices[~fits].tolist()

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> List[np.ndarray]:
        """Batches with an equal share of `max_tokens` for each objective.

        In training every batch has examples of all objectives: those with fewer batches begin again.

        Args:
            indices: in the order of `ordered_indices`.
            max_tokens: of a batch, padding included.
            max_sentences: of each objective in a batch.
        """
        number_of = np.searchsorted(self.first, indices, side="right") - 1
        share = None if max_tokens is None else max_tokens // len(self.objectives)
        each = [
            super(ObjectiveDataset, self).batch_by_size(
                indices[number_of == number], share, max_sentences, required_batch_size_multiple
            )
            for number in range(len(self.objectives))
        ]
        batches = []
        for place in range(max(len(own) for own in each)):
            parts = [own[place % len(own)] for own in each if len(own) and (self.training or place < len(own))]
            batches.append(np.concatenate(parts))
        return batches

    def collater(self, items: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
        """One batch.

        Returns:
            `id` (B,), `nsentences`, `ntokens`, and `objectives`: for each objective by name its batch, and in it
            `text`, the names of language or pair.
        """
        if not items:
            return {}
        parts = {}
        for objective in self.objectives:
            mine = [item for item in items if item["objective"] == objective.name]
            if mine:
                batch = objective.collate([item["example"] for item in mine])
                parts[objective.name] = {**batch, "text": [item["text"] for item in mine]}
        return {
            "id": torch.tensor([item["id"] for item in items]),
            "objectives": parts,
            "nsentences": len(items),
            "ntokens": sum(part["ntokens"] for part in parts.values()),
        }

    def _rng(self, *numbers: int) -> np.random.Generator:
        """Dice for one purpose, and a number within it."""
        return np.random.default_rng([self.seed, self.epoch, *numbers])


class OneObjectiveDataset(ObjectiveDataset):
    """Examples of one objective, in batches that hold nothing else."""

    def __init__(self, objective: Objective, texts: Sequence[Text], **choices: Any):
        super().__init__([objective], [texts], **choices)

    def collater(self, items: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
        """The batch of the objective, with `id` (B,) and `text`, the names of language or pair."""
        batch = super().collater(items)
        return {**batch["objectives"][self.objectives[0].name], "id": batch["id"]} if batch else {}

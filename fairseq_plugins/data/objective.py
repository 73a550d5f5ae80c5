"""What an objective of pre-training is: a way to make examples of texts, and batches of examples."""

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import data_utils

from .language_mixture import EpochPlan, Text

# N examples


class Objective:
    """One way to make an example of a text."""

    name: str
    pad: int  # row of the padding symbol
    tags: Dict[str, int]  # language -> row of its tag; empty where texts carry none

    def example(self, text: Text, row: int, rng: np.random.Generator) -> Any:
        """The example of row `row` under the dice of `rng`."""
        raise NotImplementedError

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        """Tokens of source and target of every row of `text`; never less than `example` will have."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Any]) -> Dict[str, Any]:
        """A batch as the engine has it: `net_input`, `target`, `ntokens`, `nsentences`."""
        raise NotImplementedError

    def fitting(self, text: Text, most: int) -> Optional[Text]:
        """`text` without rows whose source or target might be longer than `most` tokens; None if none is left."""
        rows = text.rows[np.maximum(*self.sizes(text))[text.rows] <= most]
        return text._replace(rows=rows) if len(rows) else None

    def plan_sizes(self, texts: Sequence[Text], plan: EpochPlan) -> Tuple[np.ndarray, np.ndarray]:
        """`sizes` of the examples of a plan, (N,) each."""
        source_N, target_N = np.empty(len(plan.row_N), dtype=np.int32), np.empty(len(plan.row_N), dtype=np.int32)
        for number, text in enumerate(texts):
            mine = slice(*np.searchsorted(plan.text_N, [number, number + 1]))  # a plan goes text by text
            source, target = self.sizes(text)
            source_N[mine], target_N[mine] = source[plan.row_N[mine]], target[plan.row_N[mine]]
        return source_N, target_N

    def tagged(self, language: str, tokens: np.ndarray) -> np.ndarray:
        """`tokens` after the tag of their language, where texts carry tags."""
        tag = self.tags.get(language)
        return tokens if tag is None else np.concatenate(([tag], tokens))


def padded(rows: Sequence[np.ndarray], filler: int) -> torch.Tensor:
    """Rows of unequal length as one (rows, longest) tensor, filled at the right."""
    return data_utils.collate_tokens([torch.from_numpy(row) for row in rows], filler)

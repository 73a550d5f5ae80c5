"""A few lines of every direction to validate on, in batches of one direction each."""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from fairseq.data import FairseqDataset


class DirectionSamples(FairseqDataset):
    """The same lines of each direction at every validation.

    Batches are those of the directions' own data sets, with the direction's name under ``"direction"``.

    Args:
        datasets: "de-en" and the like -> its sentence pairs, at least one.
        lines: of each direction at most, 1 or more; evenly spread over its file, because neighbours are often of one
            document.
    """

    def __init__(self, datasets: Dict[str, Any], lines: int):
        super().__init__()
        self.names = list(datasets)
        self.datasets = list(datasets.values())
        self.rows = [np.linspace(0, len(it) - 1, min(lines, len(it))).round().astype(int) for it in self.datasets]
        counts = [len(rows) for rows in self.rows]
        self.direction_N = np.repeat(np.arange(len(counts)), counts)  # N lines of all directions
        self.row_N = np.concatenate(self.rows)

    def __getitem__(self, index: int) -> Any:
        direction = self.direction_N[index]
        return int(direction), self.datasets[direction][int(self.row_N[index])]

    def __len__(self) -> int:
        return len(self.row_N)

    def collater(self, samples: Sequence[Any]) -> Dict[str, Any]:
        """The batch of one direction; ``samples`` are of one."""
        if not samples:
            return {}
        direction = samples[0][0]
        batch = self.datasets[direction].collater([sample for _, sample in samples])
        return {**batch, "direction": self.names[direction]}

    def num_tokens(self, index: int) -> int:
        return max(self.size(index))

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return np.array([self.num_tokens(index) for index in indices])

    def size(self, index: int) -> Any:
        """Source and target tokens."""
        return self.datasets[self.direction_N[index]].size(int(self.row_N[index]))

    def ordered_indices(self) -> np.ndarray:
        """Direction by direction, each by length: batches hold little padding."""
        return np.lexsort((self.num_tokens_vec(np.arange(len(self))), self.direction_N))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> Any:
        """As any data set of pairs."""
        fits = np.array([_fits(self.size(index), max_sizes) for index in indices], dtype=bool)
        return indices[fits], indices[~fits].tolist()

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> List[Any]:
        """Batches of one direction each."""
        of_N = self.direction_N[indices]
        batches: List[Any] = []
        for direction in np.unique(of_N):
            its = indices[of_N == direction]
            batches += super().batch_by_size(its, max_tokens, max_sentences, required_batch_size_multiple)
        return batches

    @property
    def supports_prefetch(self) -> bool:
        return False


def _fits(size: Any, limits: Any) -> bool:
    if limits is None:
        return True
    limits = limits if isinstance(limits, (tuple, list)) else (limits,) * len(size)
    return all(limit is None or length <= limit for length, limit in zip(size, limits, strict=True))

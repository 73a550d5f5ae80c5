"""The engine's data sets of many directions, with the same examples and batches in less time and memory."""

import weakref
from typing import Any, Callable, List, Tuple

import numpy as np
from fairseq.data import LanguagePairDataset, PrependTokenDataset
from fairseq.data.multilingual import sampled_multi_dataset


class SampledMultiDataset(sampled_multi_dataset.SampledMultiDataset):
    """As the engine's, which seeds its draws with the class's name: hence the same one."""

    def ordered_indices(self) -> np.ndarray:
        """By source length, then target length, then chance.

        The engine sorts places by one length and then, stably, by the other. Here both lengths and the place are one
        number, so that numpy sorts numbers, no two of them equal, and not places.
        """
        sizes = self.sizes
        widest = 1 if sizes.ndim != 2 else 1 + int(sizes[:, 1].max(initial=0))
        if sizes.ndim != 2 or max(len(sizes), (1 + int(sizes[:, 0].max(initial=0))) * widest) > 2**32:
            return super().ordered_indices()
        indices = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        keys = sizes[:, 0].astype(np.uint32)
        keys *= np.uint32(widest)
        keys += sizes[:, 1].astype(np.uint32)
        packed = keys[indices].astype(np.uint64)
        del keys  # of 155 million examples each of these takes a gigabyte
        packed <<= np.uint64(32)
        packed |= np.arange(len(packed), dtype=np.uint32)
        packed.sort()
        packed &= np.uint64(2**32 - 1)
        return indices[packed.view(np.int64)]

    def num_tokens_vec(self, indices: Any) -> np.ndarray:
        """The longer side of each; compared where they stand, then gathered."""
        sizes = self.sizes
        return (sizes.max(axis=1) if sizes.ndim != 2 else np.maximum(sizes[:, 0], sizes[:, -1]))[np.asarray(indices)]

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> Tuple[np.ndarray, List[int]]:
        """Nothing is looked up where all are short enough, as prepare leaves them."""
        limits = max_sizes if isinstance(max_sizes, (tuple, list)) else (max_sizes, max_sizes)
        if self.sizes.ndim == 2 and all(_fit(sizes, limit) for sizes, limit in zip(self.sizes.T, limits, strict=True)):
            return indices, []
        return super().filter_indices_by_size(indices, max_sizes)


def _fit(sizes: np.ndarray, limit: Any) -> bool:
    return limit is None or sizes.max(initial=0) <= limit


def lighter(dataset: Any) -> Any:
    """Have a drawn data set sort faster, and each direction keep its lengths once and not up to three times.

    Args:
        dataset: of the stock task's train split. One of another class is left as it is.
    """
    if type(dataset) is sampled_multi_dataset.SampledMultiDataset:
        dataset.__class__ = SampledMultiDataset
        for pairs in dataset.datasets:
            if type(pairs) is LanguagePairDataset and pairs.sizes.ndim == 2:
                pairs.src_sizes, pairs.tgt_sizes = pairs.sizes.T
                for side, sizes in ((pairs.src, pairs.src_sizes), (pairs.tgt, pairs.tgt_sizes)):
                    if type(side) is PrependTokenDataset:
                        side._sizes = sizes
    return dataset


def opened_once(load: Callable[[str, Any, Any], Any]) -> Callable[[str, Any, Any], Any]:
    """`load` of the engine's data manager, that opens the files of de-en once for de-en and en-de.

    They are read through and mapped whenever they are opened, and stay open.
    """
    opened: Any = weakref.WeakValueDictionary()  # what no data set uses any more is closed

    def load_data(path: str, dictionary: Any, kind: Any) -> Any:
        key = path, id(dictionary), kind
        found = opened.get(key)
        if found is None:
            found = load(path, dictionary, kind)
            if found is not None:
                opened[key] = found
        return found

    return load_data

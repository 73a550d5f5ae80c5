"""Texts of binarised folders: pairs as `opus100 prepare` writes them, single languages as `opus100 mono` does."""

import logging
import os
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary, FairseqDataset, TokenBlockDataset, data_utils
from torch import Tensor

from .language_mixture import Text

logger = logging.getLogger(__name__)


def listed(value: str) -> List[str]:
    """`a,b,c`, or the same from a file of that name (commas or lines)."""
    if os.path.isfile(value):
        value = Path(value).read_text(encoding="utf-8")
    return [part for part in value.replace("\n", ",").replace(" ", "").split(",") if part]


def unordered(directions: Sequence[str]) -> List[str]:
    """Each pair of `de-en,en-de` once, as its folder's files are named: `de-en`.

    Raises:
        ValueError: not two languages and a dash.
    """
    pairs: Dict[str, None] = {}
    for direction in directions:
        languages = direction.split("-")
        if len(languages) != 2 or not all(languages) or languages[0] == languages[1]:
            raise ValueError(f"{direction!r} is not a pair of languages like de-en")
        pairs["-".join(sorted(languages))] = None
    return list(pairs)


def languages_of(folder: Path, split: str) -> List[str]:
    """Languages with a subfolder that holds `split`."""
    return sorted(path.parent.name for path in folder.glob(f"*/{split}.idx"))


def monolingual(
    folder: Path, language: str, split: str, dictionary: Dictionary, *, block: Optional[int]
) -> Optional[Text]:
    """The text `folder/language/split.bin`, without its empty sentences; None where there is none.

    Args:
        block: join neighbouring sentences up to so many tokens, and leave out longer ones; None: each is an example.
    """
    sentences = _load(folder / language / split, dictionary)
    if sentences is None:
        return None
    if block is not None:
        sentences = _Some(sentences, block)
        if not len(sentences):
            return None
        sentences = TokenBlockDataset(
            sentences, sentences.sizes, block, dictionary.pad(), dictionary.eos(), break_mode="complete"
        )
    sizes = np.asarray(sentences.sizes).astype(np.int64)
    return _text((language,), (sentences,), (sizes,))


def parallel(folder: Path, pair: str, split: str, dictionary: Dictionary) -> Optional[Text]:
    """The sentence pairs `folder/split.a-b.{a,b}.bin`, without those with an empty side; None where there are none.

    Raises:
        ValueError: one of the two sides is missing, or they are not of one length.
    """
    source, target = pair.split("-")
    for stem in (folder / f"{split}.{source}-{target}", folder / f"{split}.{target}-{source}"):
        sides = [_load(Path(f"{stem}.{language}"), dictionary) for language in (source, target)]
        if any(side is not None for side in sides):
            break
    else:
        return None
    found = [side for side in sides if side is not None]
    if len(found) < 2:
        raise ValueError(f"{stem}.{source if sides[0] is None else target}.bin is missing; run prepare again")
    if len(found[0]) != len(found[1]):
        raise ValueError(f"{stem}.* have {len(found[0])} and {len(found[1])} sentences; run prepare again")
    sizes = (np.asarray(found[0].sizes, dtype=np.int64), np.asarray(found[1].sizes, dtype=np.int64))
    return _text((source, target), (found[0], found[1]), sizes)


class _Some(FairseqDataset):
    """The sentences of a set that are neither empty nor longer than `most` tokens."""

    def __init__(self, sentences: FairseqDataset, most: int):
        sizes = np.asarray(sentences.sizes)
        self.sentences = sentences
        self.rows = np.flatnonzero((sizes >= 2) & (sizes <= most))
        self.sizes = sizes[self.rows]
        long = int((sizes > most).sum())
        if long:
            logger.warning(f"{long} of {len(sizes)} sentences are longer than {most} tokens and are left out")

    def __getitem__(self, index: int) -> Tensor:
        return self.sentences[int(self.rows[index])]

    def __len__(self) -> int:
        return len(self.rows)


def _text(
    languages: Tuple[str, ...], sentences: Tuple[FairseqDataset, ...], sizes: Tuple[np.ndarray, ...]
) -> Optional[Text]:
    rows = np.flatnonzero(np.minimum.reduce(sizes) >= 2)  # more than the end symbol
    return Text(languages, sentences, rows, sizes) if len(rows) else None


def _load(stem: Path, dictionary: Dictionary) -> Optional[FairseqDataset]:
    """A binarised set, in one or several files.

    Raises:
        ValueError: damaged files.
    """
    if not Path(f"{stem}.idx").is_file():
        return None
    try:
        return data_utils.load_indexed_dataset(str(stem), dictionary)
    except Exception as error:
        raise ValueError(f"{stem}.bin and .idx cannot be read ({error}); binarise that text again") from error

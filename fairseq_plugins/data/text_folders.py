"""Texts of binarised folders: pairs as `opus100 prepare` writes them, single languages as `opus100 mono` does."""

import logging
import os
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary, FairseqDataset, TokenBlockDataset, data_utils

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
    folder: Path, language: str, split: str, dictionary: Dictionary, *, most: int, whole_blocks: bool
) -> Optional[Text]:
    """The text `folder/language/split.bin`; None where there is none.

    Args:
        most: tokens of an example; longer ones are cut (blocks) or left out (sentences).
        whole_blocks: join neighbouring sentences up to `most` tokens; else each is an example.
    """
    sentences = _load(folder / language / split, dictionary)
    if sentences is None:
        return None
    if whole_blocks:
        sentences = TokenBlockDataset(
            sentences, sentences.sizes, most, dictionary.pad(), dictionary.eos(), break_mode="complete"
        )
    sizes = np.asarray(sentences.sizes)
    return _text(folder / language / split, (language,), (sentences,), (sizes,), (sizes >= 2) & (sizes <= most))


def parallel(folder: Path, pair: str, split: str, dictionary: Dictionary, *, most: int) -> Optional[Text]:
    """The sentence pairs `folder/split.a-b.{a,b}.bin`; None where there are none.

    Args:
        most: tokens of both sentences together; longer pairs are left out.
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
    sizes = (np.asarray(found[0].sizes), np.asarray(found[1].sizes))
    usable = (sizes[0] + sizes[1] >= 3) & (sizes[0] + sizes[1] <= most)
    return _text(stem, (source, target), (found[0], found[1]), sizes, usable)


def _text(
    stem: Path,
    languages: Tuple[str, ...],
    sentences: Tuple[FairseqDataset, ...],
    sizes: Tuple[np.ndarray, ...],
    usable: np.ndarray,
) -> Optional[Text]:
    rows = np.flatnonzero(usable)
    if len(rows) < len(usable):
        logger.warning(
            f"{stem}: {len(usable) - len(rows)} of {len(usable)} examples are empty or too long and left out"
        )
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

"""Binarised texts and pairs for mT6's pre-training, small enough for a test."""

import random
from pathlib import Path
from typing import List, Sequence

import numpy as np

from fairseq_plugins.data.symbols import dictionary_rows, dictionary_text

PIECES = [f"w{number}" for number in range(40)]


def write_set(stem: Path, sentences: Sequence[Sequence[str]], dictionary: object) -> None:
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    stem.parent.mkdir(parents=True, exist_ok=True)
    builder = MMapIndexedDatasetBuilder(f"{stem}.bin", dtype=np.uint16)
    for sentence in sentences:
        builder.add_item(dictionary.encode_line(" ".join(sentence), add_if_not_exist=False, append_eos=True))
    builder.finalize(f"{stem}.idx")


def draw(count: int, seed: str) -> List[List[str]]:
    dice = random.Random(seed)
    return [dice.choices(PIECES, k=dice.randint(3, 12)) for _ in range(count)]


def write_data(folder: Path, languages: Sequence[str] = ("de", "en", "fr"), seed: str = "") -> Path:
    """Pairs de-en (120) and en-fr (40), and texts of 150 sentences in each language, in one folder."""
    from fairseq.data import Dictionary

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dict.txt").write_text(dictionary_text(dictionary_rows(PIECES, languages)), encoding="utf-8")
    (folder / "lang_pairs.txt").write_text("de-en,en-de,en-fr,fr-en\n", encoding="utf-8")
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    for split, part in (("train", 1), ("valid", 10)):
        for pair, count in (("de-en", 120), ("en-fr", 40)):
            for language in pair.split("-"):
                sentences = draw(count // part, f"{seed}{pair}{split}{language}")
                write_set(folder / f"{split}.{pair}.{language}", sentences, dictionary)
        for language in languages:
            write_set(folder / language / split, draw(150 // part, f"{seed}{language}{split}"), dictionary)
    return folder

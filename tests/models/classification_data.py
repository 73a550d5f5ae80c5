"""A folder for the stock task sentence_prediction: is the first word one of the first twenty?"""

import random
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

SIZES = {"train": 200, "valid": 24, "test": 30}
WORDS = [f"w{number}" for number in range(40)]


def write_binarised(folder: Path, symbols: List[str], splits: Dict[str, List[str]]) -> None:
    """What fairseq-preprocess --only-source makes of lines over these symbols."""
    words = Dictionary()
    for symbol in symbols:
        words.add_symbol(symbol)
    words.finalize(padding_factor=8)
    folder.mkdir(parents=True)
    words.save(str(folder / "dict.txt"))
    for split, lines in splits.items():
        builder = MMapIndexedDatasetBuilder(f"{folder / split}.bin", dtype=np.uint16)
        for line in lines:
            builder.add_item(words.encode_line(line, add_if_not_exist=False))
        builder.finalize(f"{folder / split}.idx")


def write_classification_data(folder: Path) -> Path:
    """input0, label (low, high), and label/SPLIT.label with a number for each text; returns `folder`."""
    dice = random.Random(1)
    texts = {split: [dice.choices(WORDS, k=dice.randint(3, 9)) for _ in range(n)] for split, n in SIZES.items()}
    first = {split: [WORDS.index(text[0]) for text in of] for split, of in texts.items()}
    write_binarised(folder / "input0", WORDS, {split: [" ".join(text) for text in of] for split, of in texts.items()})
    labels = {split: ["low" if number < 20 else "high" for number in of] for split, of in first.items()}
    write_binarised(folder / "label", ["low", "high"], labels)
    for split, of in first.items():
        (folder / "label" / f"{split}.label").write_text("".join(f"{number / 40}\n" for number in of))
    return folder


def words_for(data: Path, *words: Any) -> List[str]:
    """`fairseq-train` of a small classifier; later words override."""
    task = "--task sentence_prediction --criterion sentence_prediction --num-classes 2 --init-token 0"
    shape = (
        "--max-positions 16 --arch transformer_mlm_base --encoder-layers 2 --encoder-embed-dim 32 "
        "--encoder-ffn-embed-dim 64 --encoder-attention-heads 4"
    )
    rest = (
        "--optimizer adam --lr 0.005 --batch-size 16 --num-workers 0 --seed 1 --no-epoch-checkpoints --log-format json "
        "--log-interval 1 --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric"
    )
    return [str(data), *task.split(), *shape.split(), *rest.split(), *map(str, words)]

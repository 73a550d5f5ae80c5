"""The verbs of the road on a corpus small enough for a test: word-by-word translation between three languages."""

import random
import sys
from pathlib import Path
from typing import Dict, List

from fairseq_plugins.opus100.__main__ import main
from tests.opus100.corpora import WORDS, write_split

REPOSITORY = Path(__file__).resolve().parents[2]
USER_DIR = REPOSITORY / "fairseq_plugins"
LONG_LINE = 7  # this line of every test set is far longer than the model's --max-positions

# the smallest stock network; its weights are not the point
TINY_MODEL = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2"
).split()


def write_parallel_corpus(root: Path, long_line: bool = True) -> Path:
    """de-en and en-fr with 200 train lines, zero-shot de-fr; test line 3 is empty, ``LONG_LINE`` may have 60 words."""
    for kind, pair in (("supervised", "de-en"), ("supervised", "en-fr"), ("zero-shot", "de-fr")):
        sizes = {"train": 200, "dev": 10, "test": 20} if kind == "supervised" else {"test": 20}
        for split, count in sizes.items():
            write_split(root, pair, split, parallel_lines(pair, split, count, long_line), kind)
    return root


def prepared_folder(folder: Path, vocab_size: int = 200, tags: str = "target") -> Path:
    """DATA of the parallel corpus, in ``folder``/data."""
    write_parallel_corpus(folder / "corpus")
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", vocab_size, "--workers", 1]
    assert verb("prepare", *words, "--tags", tags) == 0
    return folder / "data"


def parallel_lines(pair: str, split: str, count: int, long_line: bool) -> Dict[str, List[str]]:
    draw = random.Random(f"{pair} {split}")
    rows = [draw.choices(range(15), k=draw.randint(3, 9)) for _ in range(count)]
    if split == "test":
        rows[3], rows[LONG_LINE] = [], draw.choices(range(15), k=60 if long_line else 6)
    return {language: [" ".join(WORDS[language][word] for word in row) for row in rows] for language in pair.split("-")}


def verb(*words: object) -> int:
    """Run a verb in this process; returns its status."""
    return main([str(word) for word in words])


def verb_words(*words: object) -> List[str]:
    """The same as words for a process of its own."""
    return [sys.executable, "-m", "fairseq_plugins.opus100", *map(str, words)]


def train_words(data: Path, run: Path, updates: int, *fairseq: object, save_every: int = 1000) -> List[object]:
    """``train`` with the tiny stock model; ``fairseq`` are words for fairseq-train itself."""
    return [
        "train", "--data", data, "--run", run, "--arch", "transformer", "--max-tokens", 500, "--max-positions", 40,
        "--lr", 0.01, "--warmup-updates", 20, "--max-update", updates, "--save-interval-updates", save_every,
        "--log-interval", 1, "--threads", 1, "--cpu", "--", *TINY_MODEL, *fairseq,
    ]  # fmt: skip

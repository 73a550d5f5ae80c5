"""Helpers of the tests that drive the stock fairseq commands: tiny data, tiny models, one way to run a command."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
USER_DIR = str(REPOSITORY / "fairseq_plugins")

# One encoder and one decoder layer of stock `transformer`: the smallest network that uses every part of training.
TINY_TRANSFORMER = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --share-all-embeddings --dropout 0 "
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2 "
    "--decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2"
).split()


def write_tiny_translation_data(folder: Path, source: str = "de", target: str = "en", seed: int = 0) -> Path:
    """Write a fairseq data directory in which a target is its source reversed.

    Args:
        folder: receives train (200 pairs), valid (24) and test (11) in mmap format, and one shared dictionary.
        source, target: language codes.
        seed: of the sentences, 3 to 9 words out of 40.
    Returns:
        ``folder``
    """
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    words = [f"w{number}" for number in range(40)]
    dictionary = Dictionary()
    for count, word in enumerate(words):
        dictionary.add_symbol(word, n=100 - count)
    dictionary.finalize(padding_factor=8)
    folder.mkdir(parents=True, exist_ok=True)
    for language in (source, target):
        dictionary.save(str(folder / f"dict.{language}.txt"))
    draw = random.Random(seed)
    for split, size in (("train", 200), ("valid", 24), ("test", 11)):
        sentences = [draw.choices(words, k=draw.randint(3, 9)) for _ in range(size)]
        for language in (source, target):
            stem = folder / f"{split}.{source}-{target}.{language}"
            builder = MMapIndexedDatasetBuilder(f"{stem}.bin", dtype=np.uint16)
            for sentence in sentences:
                line = " ".join(sentence if language == source else reversed(sentence))
                builder.add_item(dictionary.encode_line(line, add_if_not_exist=False, append_eos=True))
            builder.finalize(f"{stem}.idx")
    return folder


def environment() -> Dict[str, str]:
    """The environment of a child process: one thread (more spin on small machines) and this checkout's package."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def fairseq_words(command: str, *words: object) -> List[str]:
    """The words of ``fairseq-<command>``, as installed beside this Python, with the package under test as user-dir."""
    user_dir = [] if command == "hydra-train" else ["--user-dir", USER_DIR]  # hydra reads it from its configuration
    return [str(Path(sys.executable).with_name(f"fairseq-{command}")), *map(str, words), *user_dir]


def run_fairseq(command: str, *words: object, stdin: str = "", cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Run a stock fairseq command with this package as its user-dir, on the CPU where that is an option.

    Args:
        command: what follows ``fairseq-``: train, generate, interactive, validate, hydra-train, ...
        words: the other words of the command line; turned into strings.
    Returns:
        the finished process, whatever its status, with ``stdout`` and ``stderr`` as text.
    """
    cpu = [] if command in ("hydra-train", "preprocess") else ["--cpu"]
    words = fairseq_words(command, *words, *cpu)
    return subprocess.run(words, input=stdin, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)


def train_words(
    data: Path, run: Path, updates: int, *words: object, model: Sequence[str] = TINY_TRANSFORMER
) -> List[str]:
    """The words of a short ``fairseq-train`` on :func:`write_tiny_translation_data`; later words override."""
    common = "--task translation -s de -t en --optimizer adam --lr 0.01 --max-tokens 400 --num-workers 0 --seed 1"
    logging = "--log-format json --log-interval 1"
    options = [*model, *common.split(), *logging.split(), "--save-dir", run, "--max-update", updates, *words]
    return [str(word) for word in (data, *options)]


def succeeded(process: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """``process``, or an AssertionError that shows the end of what it printed."""
    assert process.returncode == 0, f"status {process.returncode}:\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    return process


def training_losses(process: subprocess.CompletedProcess) -> Dict[int, float]:
    """Update number -> training loss, from a log of ``--log-format json --log-interval 1``."""
    lines = re.findall(r"train_inner \| (\{.*\})", process.stdout + process.stderr)
    return {int(line["num_updates"]): float(line["loss"]) for line in map(json.loads, lines)}


def checkpoint(run: Path, name: str = "checkpoint_last.pt") -> dict:
    """A checkpoint that a test has just written itself; everything in it is trusted."""
    return torch.load(run / name, map_location="cpu", weights_only=False)

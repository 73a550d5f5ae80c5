"""Binarised texts and pairs to pre-train on, small enough for a test, and tasks over them as commands have them."""

import random
from pathlib import Path
from typing import Any, List, NamedTuple, Sequence

import numpy as np

from fairseq_plugins.data.symbols import dictionary_rows, dictionary_text
from tests.helpers import run_fairseq

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


class PretrainingTask(NamedTuple):
    """A task with its criterion and a model."""

    name: str
    model: Sequence[str]
    criterion: str = ""  # that of the task's name

    BATCHES = ("--tokens-per-sample", "48", "--max-tokens", "200")
    RECIPE = (
        "--optimizer adam --lr 0.005 --num-workers 0 --seed 1 --log-format json --log-interval 1 "
        "--save-interval-updates 100 --validate-interval 100"
    ).split()

    def words(self, data: Any) -> List[str]:
        criterion = self.criterion or self.name
        return [str(data), "--task", self.name, "--criterion", criterion, *self.model, *self.BATCHES]

    def configuration(self, data: Any, *words: str) -> Any:
        """What `fairseq-train` arrives at."""
        from fairseq import options
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        args = options.parse_args_and_arch(options.get_training_parser(), [*self.words(data), *words])
        return convert_namespace_to_omegaconf(args)

    def task(self, data: Any, *words: str) -> Any:
        from fairseq import tasks

        return tasks.setup_task(self.configuration(data, *words).task)

    def build_model(self, data: Any, *words: str) -> Any:
        """The model, as `fairseq-train` asks the task for it."""
        from fairseq import tasks

        cfg = self.configuration(data, *words)
        return tasks.setup_task(cfg.task).build_model(cfg.model)

    def build_criterion(self, data: Any, *words: str) -> Any:
        """The criterion, likewise."""
        from fairseq import tasks

        cfg = self.configuration(data, *words)
        return tasks.setup_task(cfg.task).build_criterion(cfg.criterion)

    def loaded(self, data: Any, *words: str, split: str = "train", epoch: int = 1) -> Any:
        """A data set in one of its epochs."""
        made = self.task(data, *words)
        made.load_dataset(split, epoch=epoch)
        made.dataset(split).set_epoch(epoch)
        return made.dataset(split)

    def train(self, data: Any, run: Path, updates: int, *words: Any) -> Any:
        return run_fairseq(
            "train", *self.words(data), *self.RECIPE, "--save-dir", run, "--max-update", updates, *words
        )

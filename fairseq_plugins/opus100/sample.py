"""Write a small artificial corpus in OPUS-100's layout: four language pairs with English, four zero-shot test sets.

A grammar of this package (opus100/grammar) writes German, English, French, Russian and Turkish from the same meanings.
Dev and test hold word combinations (adjective + noun, subject + verb, verb + object) that train never holds, though
every single word form is in train: who only remembers sentences scores badly. The same options give the same files,
byte for byte; a killed command is simply given again. OUT/recipe.json holds the flags for `prepare` and `train` with
which scripts/quickstart.sh reaches its BLEU, and the command prints them as the next commands.
"""

import argparse
import shlex
from pathlib import Path
from typing import Dict, List, NamedTuple, Set, Tuple

from fairseq_plugins._verbs import UserError, whole_number
from fairseq_plugins.opus100.corpus import SUPERVISED, ZERO_SHOT
from fairseq_plugins.opus100.files import Progress, plain_os_errors, read_json, write_json, write_whole
from fairseq_plugins.opus100.grammar import PIVOT, WRITERS, MeaningSource, split_of_sentence

MAKER = "fairseq_plugins opus100 sample"  # in recipe.json: marks a folder as ours to overwrite
ZERO_SHOT_PAIRS = ("de-fr", "de-ru", "fr-tr", "ru-tr")
# Measured on this corpus: a peak of 6e-3 with twice the batch stayed above 3 bits a piece, this recipe falls below 0.4
# (examples/quickstart). One thread: a second one mostly waits when other programs run.
PREPARE = ["--vocab-size", "2500"]
TRAIN = [
    "--arch", "deepnet_mt_tiny", "--sampling", "concat", "--max-tokens", "1000", "--max-update", "2400", "--lr", "2e-3",
    "--warmup-updates", "300", "--dropout", "0", "--threads", "1", "--", "--lr-scheduler", "cosine",
]  # fmt: skip
PATIENCE = 2000  # meanings drawn for one accepted line before the corpus counts as too small


class Lines(NamedTuple):
    """The two sides of a set, line by line."""

    first: List[str]
    second: List[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``sample``."""
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write opus-100-corpus/ and recipe.json into")
    add("--train-lines", type=_count, default=8000, metavar="N", help="per pair with English (default: %(default)s)")
    add("--dev-lines", type=_count, default=100, metavar="N", help="per pair with English (default: %(default)s)")
    add("--test-lines", type=_count, default=200, metavar="N", help="per pair, zero-shot too (default: %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="of the random choice of sentences (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write OUT and say what comes next."""
    sizes = {"train": args.train_lines, "dev": args.dev_lines, "test": args.test_lines}
    with plain_os_errors(args.out):
        mark = read_json(args.out / "recipe.json")
        if (args.out / "opus-100-corpus").exists() and (mark is None or mark.get("made_by") != MAKER):
            raise UserError(f"{args.out} already holds another corpus; give another folder as OUT")
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "recipe.json", {
            "format": 1, "made_by": MAKER, "seed": args.seed, "lines": sizes, "prepare": PREPARE, "train": TRAIN
        })  # fmt: skip
        write_corpus(args.out / "opus-100-corpus" / "v1.0", args.seed, sizes)
    data, model = args.out / "data", args.out / "run"
    verb = ["python", "-m", "fairseq_plugins.opus100"]
    print(f"wrote {args.out}; next:")
    print(shlex.join([*verb, "prepare", "--corpus", str(args.out), "--out", str(data), *PREPARE]))
    print(shlex.join([*verb, "train", "--data", str(data), "--run", str(model), *TRAIN]))
    results = ["--output", str(args.out / "results")]
    print(shlex.join([*verb, "evaluate", "--data", str(data), "--run", str(model), *results]))


def write_corpus(level: Path, seed: int, sizes: Dict[str, int]) -> None:
    """Write every pair's files below ``level``, the folder of ``supervised/`` and ``zero-shot/``.

    Args:
        seed: of the choice of sentences; which combinations are held out does not depend on it.
        sizes: lines of train, dev and test.
    Raises:
        UserError: train is so small that dev or test cannot be made of its word forms.
    """
    languages = sorted(set(WRITERS) - {PIVOT})
    forms: Dict[str, Set[str]] = {}  # language -> word forms of its train sides; a pair's own for a supervised pair
    progress = Progress("sample", len(languages) + len(ZERO_SHOT_PAIRS), "pairs")
    done = 0
    for language in languages:
        pair: Tuple[str, str] = (min(language, PIVOT), max(language, PIVOT))
        train = draw(pair, "train", seed, sizes["train"])
        known = {name: word_forms(side) for name, side in zip(pair, train, strict=True)}
        forms[language] = known[language]
        sets = {"train": train, **{split: draw(pair, split, seed, sizes[split], known) for split in ("dev", "test")}}
        for split, lines in sets.items():
            _write(level / SUPERVISED, pair, split, lines)
        progress.show(done := done + 1)
    for name in ZERO_SHOT_PAIRS:
        first, second = name.split("-")
        _write(level / ZERO_SHOT, (first, second), "test", draw((first, second), "test", seed, sizes["test"], forms))
        progress.show(done := done + 1)
    progress.finish()


def draw(pair: Tuple[str, str], split: str, seed: int, count: int, known: "Dict[str, Set[str]] | None" = None) -> Lines:
    """``count`` different sentence pairs of one split.

    Args:
        known: language -> the word forms that may be used; None allows all.
    Raises:
        UserError: too few meanings fit ``known``.
    """
    seen: Set[str] = set()
    lines = Lines([], [])
    waiting = 0
    for meaning in MeaningSource(f"{seed} {'-'.join(pair)} {split}"):
        if len(lines.first) == count:
            break
        waiting += 1
        if waiting > PATIENCE:
            raise UserError(f"--train-lines is too small: no {split} sentence of {'-'.join(pair)} fits its words; "
                            "give a few thousand")  # fmt: skip
        if split_of_sentence(meaning) != split:
            continue
        texts = [WRITERS[language](meaning) for language in pair]
        if seen.intersection(texts):
            continue
        if known is not None and any(word_forms([text]) - known[name] for name, text in zip(pair, texts, strict=True)):
            continue
        seen.update(texts)
        lines.first.append(texts[0])
        lines.second.append(texts[1])
        waiting = 0
    return lines


def word_forms(lines: List[str]) -> Set[str]:
    """The different words as they are spelled, capitals included, without the marks beside them."""
    return {word.rstrip(",.?") for line in lines for word in line.split()}


def _write(folder: Path, pair: Tuple[str, str], split: str, lines: Lines) -> None:
    name = "-".join(pair)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for language, side in zip(pair, lines, strict=True):
        path = folder / name / f"opus.{name}-{split}.{language}"
        data = "".join(f"{line}\n" for line in side).encode()
        if not path.exists() or path.read_bytes() != data:  # an unchanged file keeps its date
            write_whole(path, data)


def _count(text: str) -> int:
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number

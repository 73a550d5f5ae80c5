"""What the tests of hostile input share: one small world of good files, verbs run in this process, and the promises.

The promises, of every refused command: no exception but SystemExit, a status that is not 0, one sentence on one line
that begins with `error: `, no file of the world lost or changed, and nothing written but below the folder of output.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import pytest
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from tests.opus100.road import train_words, verb, write_parallel_corpus
from tests.verb_parsers import PACKAGES

# of every property: the same examples every time, however long one takes; what fails is shown as it was found
FIXED = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
             phases=[Phase.generate])  # fmt: skip
Command = List[str]  # ["cli" or "opus100", verb, words ...]; {name} stands for a path of the world

# one good command for every verb but `path` and `doctor`, which have no options; every path that is written is in {out}
GOOD: Dict[str, Command] = {
    "average": ["{run}/checkpoint_best.pt", "{run}/checkpoint_last.pt", "--output", "{out}/a.pt"],
    "prune-experts": ["{moe}/checkpoint_best.pt", "--output", "{out}/p.pt"],
    "export": ["{run}/checkpoint_best.pt", "--to", "fairseq", "--output", "{out}/e.pt"],
    "translate": ["--tgt", "de", "--model", "{run}/checkpoint_best.pt", "--data", "{data}", "--cpu"],
    "show-batch": ["--", "{data}", "--task", "translation", "-s", "de", "-t", "en", "--max-tokens", "500"],
    "moe-inspect": ["{moe}/checkpoint_best.pt", "{data}", "--output", "{out}/m", "--batches", "1", "--cpu"],
    "depth-study": ["{data}", "--output", "{out}/d", "--layers", "1", "--updates", "1", "--shape", "8-8-2", "--cpu"],
    "merge-experts": ["{moe}/checkpoint_best.pt", "--ranks", "2", "--output", "{out}/x.pt"],
    "sample": ["{out}/s", "--train-lines", "600", "--dev-lines", "1", "--test-lines", "1"],
    "download": ["--out", "{out}/c", "--base-url", "{archives}"],
    "audit": ["--corpus", "{corpus}", "--out", "{out}/a", "--workers", "1"],
    "prepare": ["--corpus", "{corpus}", "--out", "{out}/p", "--vocab-size", "90", "--workers", "1"],
    "mono": ["--data", "{data}", "--text", "de={text}", "--out", "{out}/m", "--workers", "1"],
    "encode": ["--data", "{data}", "--inputs", "{text}", "--outputs", "{out}/pieces"],
    "add-symbols": ["--data", "{data}", "--out", "{out}/n", "--checkpoint", "{run}/checkpoint_best.pt"],
    "train": ["--data", "{data}", "--run", "{out}/r", "--dry-run", "--cpu", "--arch", "transformer"],
    "evaluate": ["--data", "{data}", "--run", "{run}", "--output", "{out}/e", "--workers", "1", "--cpu"],
    "compare": ["--data", "{data}", "--results", "{results}", "--samples", "100", "--output", "{out}/c"],
    "report": ["--results", "{results}", "--runs", "{run}", "--output", "{out}/r.html"],
}


class Option(NamedTuple):
    """An option, or a word, of a verb."""

    verb: str
    flag: str  # "--beam"; of a word without a flag its name
    action: argparse.Action

    @property
    def positional(self) -> bool:
        return not self.action.option_strings


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def options() -> List[Option]:
    """Every option of every verb, as its parser has it."""
    found = []
    for name in GOOD:
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(f"{package_of(name)}.{name.replace('-', '_')}").add_arguments(parser)
        for action in parser._actions:
            found.append(Option(name, (action.option_strings or [action.dest])[0], action))
    return found


def package_of(name: str) -> str:
    """The package that holds a verb."""
    known = {verb: of for main, of in PACKAGES.items() for verb in importlib.import_module(f"{main}.__main__").VERBS}
    return known[name]


class World:
    """The good files of `make_world`, and a fresh folder of output for every command."""

    def __init__(self, root: Path):
        self.root, self.out = root, root.with_name(f"{root.name}.out")
        self.files, self.times = snapshot(root), times(root)

    def words(self, name: str, *more: str) -> List[str]:
        """The good command of a verb, then other words."""
        there = {entry.name.partition(".")[0]: str(entry) for entry in self.root.iterdir()}
        command = [word.format(out=self.out, **there) for word in GOOD[name]]
        cut = command.index("--") if "--" in command else len(command)
        return [*command[:cut], *more, *command[cut:]]

    def with_value(self, option: Option, value: str) -> List[str]:
        """The good command of a verb with another value of one option."""
        if option.positional:
            words = self.words(option.verb)
            place = {"data": 1 if option.verb == "moe-inspect" else 0}.get(option.action.dest, 0)
            words[place] = value
            return words
        words = self.words(option.verb)
        if option.flag in words:  # with all of its values: a later one would only add to some of them
            start = words.index(option.flag)
            end = next((n for n, word in enumerate(words[start + 1 :], start + 1) if word.startswith("--")), len(words))
            words[start:end] = []
        cut = words.index("--") if "--" in words else len(words)
        return [*words[:cut], f"{option.flag}={value}", *words[cut:]]

    def call(self, name: str, words: Sequence[str], there: Optional[Dict[str, bytes]] = None) -> Ended:
        """Run a verb here and see that it keeps what is promised whatever it is given.

        Args:
            there: files that the folder of output holds already, by their path in it.
        Raises:
            AssertionError: it raises something, changes a file, writes beside its output, or says more than a sentence.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for file, data in (there or {}).items():
            (self.out / file).parent.mkdir(parents=True, exist_ok=True)
            (self.out / file).write_bytes(data)
        main = importlib.import_module(f"{package_of(name).removesuffix('.cli')}.__main__").main
        ended = run_here(lambda: main([name, *words]), self.out)
        about = f"{name} {' '.join(map(repr, words))}\n{ended.err}"
        assert "Traceback" not in ended.err, about
        assert times(self.root) == self.times, f"files were changed: {about}"
        beside = sorted(entry.name for entry in self.root.parent.iterdir())
        assert beside == sorted((self.root.name, self.out.name)), f"{beside}: {about}"
        assert not (self.out / "cwd").exists() or not any((self.out / "cwd").iterdir()), about
        if ended.status:
            errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and ended.err.endswith(f"{errors[0]}\n"), about
            assert errors[0].isprintable() and len(errors[0]) <= 2200, about
        return ended

    def refused(self, name: str, words: Sequence[str]) -> str:
        """The sentence with which a verb refuses these words."""
        ended = self.call(name, words)
        assert ended.status != 0, f"taken: {name} {' '.join(map(repr, words))}"
        return ended.err.splitlines()[-1]


def run_here(main: Any, scratch: Path) -> Ended:
    """Call a `main` in an empty current directory, its input empty and its output caught."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    home, stdin, cwd = os.getcwd(), sys.stdin, scratch / "cwd"
    cwd.mkdir()
    with open(os.devnull) as nothing, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.stdin = nothing
        os.chdir(cwd)
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            os.chdir(home)
            sys.stdin = stdin
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Ended(status, *texts)


def snapshot(folder: Path) -> Dict[str, str]:
    """What is in a folder: path -> hash, target of a link, or that it is a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def times(folder: Path) -> Dict[str, Any]:
    """What is in a folder, with what every change of a file changes; `snapshot` reads them all, which takes longer."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            of = os.lstat(os.path.join(path, name))
            found[os.path.join(path, name)] = (of.st_mode, of.st_ino, of.st_size, of.st_mtime_ns)
    return found


def make_world(root: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Corpus, prepared data, two trained models, results, text and archives, each made by its verb."""
    root.mkdir(parents=True)
    (root / "archives").mkdir()
    write_parallel_corpus(root / "corpus")
    (root / "text.txt").write_text("der Hund sieht die Katze\n" * 3 + "".join(f"Haus {n} \n" for n in range(60)))
    words = ["--vocab-size", 90, "--workers", 1]
    assert verb("prepare", "--corpus", root / "corpus", "--out", root / "data", *words) == 0
    train_here(monkeypatch, train_words(root / "data", root / "run", 2))
    experts = ["--moe-experts", 2, "--moe-freq", 1, "--share-all-embeddings"]
    words = train_words(root / "data", root / "moe", 2, *experts,
                        "--criterion", "label_smoothed_cross_entropy_with_moe")  # fmt: skip
    words[words.index("--arch") + 1] = "transformer_mt"
    train_here(monkeypatch, words)
    words = ["--run", root / "run", "--beam", 1, "--max-len", 8, "--workers", 1, "--identifier", "script"]
    assert verb("evaluate", "--data", root / "data", "--output", root / "results", *words) == 0
    return World(root)


def train_here(monkeypatch: pytest.MonkeyPatch, words: Sequence[object]) -> None:
    """The verb `train` with the engine in this process: its imports are most of what a training of 2 updates costs."""
    import logging

    import fairseq_plugins
    from fairseq_plugins.opus100 import train

    fairseq_plugins.register()  # before the engine's parser lists what there is
    from fairseq import checkpoint_utils
    from fairseq_cli.train import cli_main

    def run_in_this_process(command: List[str], environment: Dict[str, str], held: List[int]) -> int:
        monkeypatch.setattr(sys, "argv", command[command.index("fairseq_cli.train") :])
        before = list(logging.root.handlers)
        vars(checkpoint_utils.save_checkpoint).pop("best", None)  # of another training in this process
        try:
            cli_main()
        finally:
            logging.root.handlers[:] = before
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(train, "run_to_the_end", run_in_this_process)
        assert verb(*words) == 0


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just([None]), st.just({"": None}), st.just({"_name": "x"}), st.integers(10**30, 10**31), st.just("../x"),
)  # fmt: skip
TENSORS = st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=3).map(tuple))


@st.composite
def tampered(draw: Any, good: Dict[str, Any]) -> Any:
    """What a file holds, with one or two places, at any depth, changed or left out."""
    good = _copy(good)
    for _ in range(draw(st.integers(1, 2))):
        place = good
        for _ in range(draw(st.integers(0, 4))):
            inner = place[draw(st.sampled_from(sorted(place)))] if place else None
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                inner = inner[0]
            if not isinstance(inner, dict) or not inner or not all(isinstance(name, str) for name in inner):
                break
            place = inner
        if place:
            name = draw(st.sampled_from(sorted(place)))
            junk = draw(JUNK | TENSORS) if isinstance(place[name], torch.Tensor) else draw(JUNK)
            if draw(st.booleans()):
                place[name] = junk
            else:
                del place[name]
    return good


def _copy(value: Any) -> Any:
    """A copy to write into; options that stand in a Namespace become a dict, as a checkpoint may have them."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value

#!/usr/bin/env python
"""How many sentences per second: stock fairseq-generate against this package's engines, from one checkpoint?

    python scripts/benchmarks/serve.py CHECKPOINT DATA [--directions A-B,...] [--rounds 3] [--out FILE.md]

CHECKPOINT is exported once, for stock fairseq (no --user-dir) and for CTranslate2 in float32 and int8. The variants
take turns: whole commands of one process and one thread, with the same beam, length penalty, longest hypothesis
and batch limits. Sentences per second are those that the commands report themselves, loading left out: fairseq-generate
times the search alone, evaluate also reading, tags and text. Each variant's BLEU is on raw references; the benchmark
fails where it differs from stock fairseq's by more than 0.1 (int8: 0.5). Two processes side by side are reported apart.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

from _report import Report
from _turns import Spread, ratio, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout

from fairseq_plugins.data.symbols import TAG_SCHEMES  # noqa: E402
from fairseq_plugins.opus100.files import read_json  # noqa: E402
from fairseq_plugins.opus100.run_folder import read_manifest  # noqa: E402
from fairseq_plugins.opus100.scoring import Job, hypothesis_path, reference_path, score_files  # noqa: E402
from fairseq_plugins.opus100.tables import evaluated_directions, select_directions  # noqa: E402

TOLERANCE = {"int8": 0.5}  # BLEU; 0.1 for all others
STOCK = "fairseq-generate"


class Outcome(NamedTuple):
    """What one command did."""

    sentences_per_second: float  # as it says itself, without loading
    wall: float  # seconds of the whole command, loading included
    bleu: float  # mean over the directions


class Bench:
    """Exports of one checkpoint, and the commands that translate with them.

    Args:
        options: of the command line.
        work: empty folder.
    """

    def __init__(self, options: argparse.Namespace, work: Path):
        self.options, self.work = options, work
        manifest = read_manifest(options.data)
        self.scheme = manifest["tag_scheme"]
        known = evaluated_directions(manifest, "test")
        self.directions = select_directions(known, options.directions)
        export = [sys.executable, "-m", "fairseq_plugins", "export", str(options.checkpoint)]
        run([*export, "--to", "fairseq", "--output", str(work / "stock.pt")])
        for quantization in ("float32", "int8"):
            run([*export, "--to", "ctranslate2", "--data", str(options.data), "--quantization", quantization,
                 "--output", str(work / quantization)])  # fmt: skip

    def variants(self) -> Dict[str, Callable[[], Outcome]]:
        """By name, in the order of their turns."""
        options = self.options
        return {
            STOCK: self.generate,
            "evaluate, fairseq": lambda: self.evaluate(options.checkpoint, 1),
            "evaluate, ctranslate2 float32": lambda: self.evaluate(self.work / "float32", 1),
            "evaluate, ctranslate2 int8": lambda: self.evaluate(self.work / "int8", 1),
            "evaluate, fairseq, 2 workers": lambda: self.evaluate(options.checkpoint, 2),
            "evaluate, ctranslate2 int8, 2 workers": lambda: self.evaluate(self.work / "int8", 2),
        }

    def search(self) -> List[str]:
        """Options that both commands share."""
        options = self.options
        return ["--beam", str(options.beam), "--lenpen", "1.0", "--max-tokens", str(options.max_tokens),
                "--batch-size", str(options.batch_size), "--cpu"]  # fmt: skip

    def generate(self) -> Outcome:
        """Stock fairseq-generate, a command per direction: what a user without this package would run."""
        data, seconds, sentences, wall = self.options.data, 0.0, 0, 0.0
        folder = self.work / "generated"
        folder.mkdir(exist_ok=True)
        for direction in self.directions:
            source, target = direction.split("-")
            words = [str(Path(sys.executable).with_name(STOCK)), str(data), "--path", str(self.work / "stock.pt"),
                     "--task", "translation_multi_simple_epoch", "--source-lang", source, "--target-lang", target,
                     "--lang-pairs", str(data / "lang_pairs.txt"), "--lang-dict", str(data / "languages.txt"),
                     "--fixed-dictionary", str(data / "dict.txt"), *TAG_SCHEMES[self.scheme], "--gen-subset", "test",
                     "--max-len-b", str(self.options.max_len), "--remove-bpe", "sentencepiece",
                     "--required-batch-size-multiple", "1", *self.search()]  # fmt: skip
            start = time.perf_counter()
            printed = run(words)
            wall += time.perf_counter() - start
            lines = hypotheses(printed)
            hypothesis_path(folder, direction).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            sentences += len(lines)
            seconds += generation_seconds(printed)
        return Outcome(sentences / seconds, wall, self.bleu(folder))

    def evaluate(self, model: Path, workers: int) -> Outcome:
        """`opus100 evaluate` of all directions."""
        folder = self.work / "evaluated"
        shutil.rmtree(folder, ignore_errors=True)  # what is finished would not be translated again
        words = [sys.executable, "-m", "fairseq_plugins.opus100", "evaluate", "--data", str(self.options.data),
                 "--checkpoint", str(model), "--output", str(folder), "--directions", ",".join(self.directions),
                 "--max-len", str(self.options.max_len), "--workers", str(workers), *self.search()]  # fmt: skip
        start = time.perf_counter()
        run(words)
        wall = time.perf_counter() - start
        results = read_json(folder / "results.json")
        assert results is not None
        return Outcome(results["speed"]["sentences_per_second"], wall, self.bleu(folder))

    def bleu(self, folder: Path) -> float:
        """Mean over the directions."""
        jobs = [Job(hypothesis_path(folder, name), reference_path(self.options.data, "test", name),
                    name.split("-")[1], (), "script") for name in self.directions]  # fmt: skip
        return sum(score_files(job, lambda _: None).bleu for job in jobs) / len(jobs)


def run(words: List[str]) -> str:
    """What a command prints on one thread, or RuntimeError with the end of what it says."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    there = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(words, env=there, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout + "\n" + done.stderr


def hypotheses(printed: str) -> List[str]:
    """The texts of fairseq-generate, in the order of the test set.

    Raises:
        ValueError: a sentence is missing.
    """
    found = {int(number): text for number, text in re.findall(r"^D-(\d+)\t[^\t\n]*\t([^\n]*)$", printed, re.M)}
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"fairseq-generate left sentences out: {len(found)} came back")
    return [found[number] for number in range(len(found))]


def generation_seconds(printed: str) -> float:
    """Seconds of the search, as fairseq-generate reports them."""
    match = re.search(r"Translated ([\d,]+) sentences \([\d,]+ tokens\) in ([\d.]+)s", printed)
    if not match:
        raise ValueError("fairseq-generate did not say how long it took")
    return float(match[2])


def table(report: Report, outcomes: Dict[str, List[Outcome]], expected: Dict[str, float]) -> None:
    """A row per variant: medians over the rounds, with extremes; ratios round by round.

    Args:
        outcomes: of every round.
        expected: BLEU of every variant's first round.
    """
    stock = [outcome.sentences_per_second for outcome in outcomes[STOCK]]
    report.header(["command", "sentences/s", f"times {STOCK}", "seconds with loading", "BLEU", f"to {STOCK}"])
    for name, rounds in outcomes.items():
        speed: Spread = spread([outcome.sentences_per_second for outcome in rounds])
        times = ratio([outcome.sentences_per_second for outcome in rounds], stock)
        wall = spread([outcome.wall for outcome in rounds])
        report.row(name, speed, times, wall, f"{expected[name]:.2f}", f"{expected[name] - expected[STOCK]:+.2f}")


def too_far(bleu: Dict[str, float]) -> List[str]:
    """Variants whose BLEU is not stock fairseq's."""
    most = {name: next((value for key, value in TOLERANCE.items() if key in name), 0.1) for name in bleu}
    return [name for name, value in bleu.items() if abs(value - bleu[STOCK]) > most[name]]


def main(arguments: List[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="of transformer_mt or stock transformer, of opus100 train")
    parser.add_argument("data", type=Path, help="folder of opus100 prepare")
    parser.add_argument("--directions", default="supervised", help="of the test set (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every variant (default: %(default)s)")
    parser.add_argument("--beam", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--max-len", type=int, default=200, help="longest hypothesis (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="sentences (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=2000, help="source pieces per batch (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        variants = bench.variants()
        outcomes: Dict[str, List[Outcome]] = {name: [] for name in variants}
        for number in range(options.rounds):
            for name, translate in variants.items():
                outcomes[name].append(translate())
                print(f"round {number + 1}: {name}: {outcomes[name][-1]}", file=sys.stderr, flush=True)
    bleu = {name: rounds[0].bleu for name, rounds in outcomes.items()}
    title = "Translation: sentences per second on one thread"
    report = Report(title, "serve", ["CHECKPOINT", "DATA", *arguments[2:]], out=options.out)
    directions = f"{len(bench.directions)} directions ({', '.join(bench.directions)})"
    batches = f"batches of {options.batch_size} sentences and {options.max_tokens} pieces"
    report.add(f"{directions}, beam {options.beam}, {batches}, {options.rounds} rounds.", "")
    table(report, outcomes, bleu)
    print(f"wrote {report.out}")
    for name in too_far(bleu):
        print(f"{name}: BLEU {bleu[name]:.2f} is too far from {bleu[STOCK]:.2f}", file=sys.stderr)
    return int(bool(too_far(bleu)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

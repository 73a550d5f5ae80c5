#!/usr/bin/env python
"""How long does a training with hundreds of directions take to start, how much memory and how many open files?

    python scripts/benchmarks/many_directions.py DATA [--variants ours stock] [--loaders 0 2] [--out FILE.md]
    python scripts/benchmarks/many_directions.py --generate DATA [--share 0.1] [--dev-share 0.1]

DATA was written by `opus100 prepare`, or by --generate: random tokens in the sizes of OPUS-100, or a share of them.
Each row is whole processes of fairseq-train that make three updates of a model of 16 channels, in turns, and watched
from outside. `ours` is the command that `opus100 train` writes; `stock` differs in what loads data: the task
translation_multi_simple_epoch, a dictionary for every language, all dev lines. Model, loss and optimiser are the same.

Seconds are CPU time of the training process, so that other work on the machine does not count, and of the third update
wall-clock time too; all from the start of the process, the imports with it. "set-up" is drawing an epoch's examples,
sorting them and cutting batches, which every epoch repeats. Memory is the training process's: its peak, and at their
highest while watched "own" (anonymous and shared memory) and "mapped" (pages of files, which the system can take back).
"all" is the own memory of the process and its loaders after the third update, pages that several use counted once.
--cold first makes the system forget the data files.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

from _report import Report
from _turns import MIB, spread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the package of this checkout

from _generated_corpus import write_corpus  # noqa: E402

from fairseq_plugins.opus100 import train  # noqa: E402
from fairseq_plugins.opus100.facts import MULTILINGUAL  # noqa: E402
from fairseq_plugins.opus100.run_folder import read_manifest  # noqa: E402

UPDATES = 3
TINY = "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 1 --encoder-layers 1 " \
       "--decoder-attention-heads 1 --decoder-layers 1 --no-save --log-interval 1"  # fmt: skip
LAST = f"update {UPDATES}"
EVENTS = {  # what the log says -> name
    "estimated total data sizes of all shards": "loaded",
    "[train] per epoch batch_sampler set-up time": "batches",
    'begin validation on "valid"': "validates",
    "| INFO | valid |": "validated",
}
TICK = 0.05  # seconds between two looks at the process


class Start(NamedTuple):
    """What one process did."""

    first: float  # CPU seconds to the first update
    third: float
    wall: float  # seconds to the third
    setup: float  # CPU seconds of making an epoch's batches
    validation: Optional[float]  # CPU seconds; None if it was left out
    peak: float  # MiB of the training process, mapped pages too
    own: float  # MiB at the highest, without pages of files
    mapped: float  # MiB of files at the highest
    everyone: float  # MiB of its own of the process and its loaders together
    files: int  # open at most


def training(data: Path, variant: str, loaders: int, words: Sequence[str], run: Path) -> List[str]:
    """The command of a variant."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    own = ["--data", str(data), "--run", str(run), "--arch", "transformer", "--max-update", str(UPDATES), "--cpu"]
    own += ["--threads", "1", "--workers", str(loaders)]
    args = parser.parse_args([*own, "--", *TINY.split(), *words])
    args.data, args.run = data.absolute(), run.absolute()
    _, command = train.build_command(args, read_manifest(data))
    return command if variant == "ours" else as_stock(command)


def as_stock(command: Sequence[str]) -> List[str]:
    """The same command with the stock task, which reads a dictionary per language and validates on all lines."""
    kept, words = [], iter(command)
    for word in words:
        if word in ("--fixed-dictionary", "--valid-lines"):
            next(words)
        else:
            kept.append(word)
    kept[kept.index("--task") + 1] = MULTILINGUAL
    return kept


def watch(command: Sequence[str]) -> Start:
    """Run a training to its end.

    Raises:
        SystemExit: it failed, with what it printed last.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    seen = _Seen(process.pid)
    looking = threading.Thread(target=seen.look, daemon=True)
    looking.start()
    cpu: Dict[str, float] = {}
    wall, lines = 0.0, []
    assert process.stdout
    for line in process.stdout:
        lines.append(line)
        name = mark(line)
        if name is not None and name not in cpu:
            cpu[name] = _cpu_seconds(process.pid)
            if name == LAST:
                wall, seen.everyone = time.perf_counter() - begin, _anonymous_together(process.pid)
    status = process.wait()
    looking.join()
    if status or LAST not in cpu:
        raise SystemExit(f"status {status}: {' '.join(command)}\n{''.join(lines[-30:])}")
    return Start(
        cpu["update 1"], cpu[LAST], wall, cpu["batches"] - cpu["loaded"],
        cpu["validated"] - cpu["validates"] if "validated" in cpu else None,
        seen.peak, seen.own, seen.mapped, seen.everyone, seen.files,
    )  # fmt: skip


def mark(line: str) -> Optional[str]:
    """The event that a line of the log tells of."""
    for words, name in EVENTS.items():
        if words in line:
            return name
    found = re.search(r'\| INFO \| train_inner \|.*"num_updates": "(\d+)"', line)
    return found and f"update {found[1]}"


def _cpu_seconds(pid: int) -> float:
    """Of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class _Seen:
    """What a look at a process from time to time shows; MiB."""

    def __init__(self, pid: int):
        self.pid, self.peak, self.own, self.mapped, self.everyone, self.files = pid, 0.0, 0.0, 0.0, 0.0, 0

    def look(self) -> None:
        """Until it ends."""
        with contextlib.suppress(OSError, KeyError):  # it ended between two reads
            while True:
                status = _table(Path(f"/proc/{self.pid}/status"))
                self.peak = max(self.peak, status["VmHWM"])
                self.own = max(self.own, status["RssAnon"] + status["RssShmem"])
                self.mapped = max(self.mapped, status["RssFile"])
                self.files = max(self.files, len(os.listdir(f"/proc/{self.pid}/fd")))
                time.sleep(TICK)


def _anonymous_together(pid: int) -> float:
    """MiB of a process and its children that are of no file, shared pages counted once."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    tables = [_table(Path(f"/proc/{of}/smaps_rollup")) for of in (pid, *children)]
    return sum(table["Pss_Anon"] + table["Pss_Shmem"] for table in tables)


def _table(path: Path) -> Dict[str, float]:
    """The sizes in a file of /proc, in MiB."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return {name: int(number) * 1024 / MIB for name, number in found}


def forget(data: Path) -> None:
    """Have the system drop the files' pages from its cache."""
    for path in data.iterdir():
        if path.suffix in (".bin", ".idx"):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)  # only clean pages go
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def cells(starts: Sequence[Start]) -> Iterator[str]:
    """A row of the table: median, and where it is seconds lowest and highest."""
    for name in ("first", "third", "wall", "setup", "validation"):
        values = [getattr(start, name) for start in starts]
        yield "-" if None in values else str(spread(values))
    for name in ("peak", "own", "mapped", "everyone", "files"):
        yield f"{statistics.median(getattr(start, name) for start in starts):,.0f}"


def describe(data: Path) -> str:
    """Directions, lines and bytes of a folder."""
    manifest = read_manifest(data)
    pairs = manifest["pairs"].values()
    size = sum(path.stat().st_size for path in data.iterdir() if path.suffix in (".bin", ".idx"))
    kept, dev = (sum(pair.get(split, {}).get(key, 0) for pair in pairs)
                 for split, key in (("train", "kept"), ("dev", "lines")))  # fmt: skip
    return (f"{len(train.read_pairs(data))} directions, {kept:,} train and {dev:,} dev pairs, "
            f"{manifest['vocabulary']['rows']:,} symbols, {size / 2**30:.2f} GiB of .bin and .idx.")


def main(arguments: List[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of opus100 prepare, or to write with --generate")
    parser.add_argument("--generate", action="store_true", help="write DATA and measure nothing")
    parser.add_argument("--share", type=float, default=1.0, help="of OPUS-100's train lines (default: %(default)s)")
    parser.add_argument("--dev-share", type=float, default=1.0, help="of its dev lines (default: %(default)s)")
    parser.add_argument("--pieces", type=int, default=64_000, help="of the vocabulary (default: %(default)s)")
    parser.add_argument("--variants", nargs="*", default=["ours", "stock"], choices=["ours", "stock"])
    parser.add_argument("--loaders", type=int, nargs="*", default=[0, 2], help="processes (default: 0 and 2)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each row (default: %(default)s)")
    parser.add_argument("--no-validation", action="store_true", help="end after the third update")
    parser.add_argument("--cold", action="store_true", help="before each, have the system forget the data files")
    parser.add_argument("--fairseq", nargs=argparse.REMAINDER, default=[], help="last: more words for fairseq-train")
    parser.add_argument("--no-file", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, help="Markdown file; default a dated one in scripts/benchmarks/results")
    asked = parser.parse_args(arguments)
    if asked.generate:
        write_corpus(asked.data, asked.share, asked.dev_share, asked.pieces)
        return print(describe(asked.data))
    train.raise_open_file_limit(needed=8 * len(train.read_pairs(asked.data)))
    title = "Starting with many directions"
    report = Report(title, "many_directions", arguments, out=asked.out, write=not asked.no_file)
    report.add(describe(asked.data), "", "Seconds: median (lowest-highest); MiB and files: median. The script says "
               "what each is.", "")  # fmt: skip
    report.header(["task, loaders", "first update, s", "third update, s", "wall, s", "set-up, s", "validation, s",
                   "peak, MiB", "own", "mapped", "all", "open files"])  # fmt: skip
    names = [f"{variant}, {loaders}" for loaders in asked.loaders for variant in asked.variants]
    rows: Dict[str, List[Start]] = {name: [] for name in names}
    words = [*(["--disable-validation"] if asked.no_validation else []), *asked.fairseq]
    for _ in range(asked.rounds):
        for name, starts in rows.items():
            variant, loaders = name.split(", ")
            if asked.cold:
                forget(asked.data)
            with tempfile.TemporaryDirectory() as run:
                starts.append(watch(training(asked.data, variant, int(loaders), words, Path(run))))
            print(name, starts[-1], file=sys.stderr, flush=True)
    for name, starts in rows.items():
        report.row(name, *cells(starts))


if __name__ == "__main__":
    main(sys.argv[1:])

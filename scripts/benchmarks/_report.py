"""The Markdown of a benchmark: title, date, command, machine, and lines that are on disk as soon as they are known."""

import datetime
import shlex
from pathlib import Path
from typing import List, Optional, Sequence

from _turns import machine

RESULTS = Path(__file__).resolve().parent / "results"


class Report:
    """Prints lines and keeps a file of all of them up to date.

    Args:
        title: first line.
        script: name of the benchmark, `train_step`; also of its file in results/.
        arguments: the words of its command line; where the file goes is not part of the record.
        out: the file; None for a dated one in results/.
        write: whether there is a file at all.
        where: the machine.
    """

    def __init__(
        self,
        title: str,
        script: str,
        arguments: Sequence[str],
        *,
        out: Optional[Path] = None,
        write: bool = True,
        where: Optional[str] = None,
    ):
        today = datetime.date.today()
        self.out = (out or RESULTS / f"{script}_{today}.md") if write else None
        self.lines: List[str] = []
        command = shlex.join(["python", f"scripts/benchmarks/{script}.py", *_without_out(arguments)])
        self.add(f"# {title}", "", f"{today}, `{command}`", "", where or machine(), "")

    def add(self, *lines: str) -> None:
        """Print and keep."""
        print(*lines, sep="\n", flush=True)
        self.lines += lines
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def header(self, columns: Sequence[str]) -> None:
        """First two lines of a table."""
        self.add("| " + " | ".join(columns) + " |", "|" + "---|" * len(columns))

    def row(self, *cells: object) -> None:
        """One line of it."""
        self.add("| " + " | ".join(map(str, cells)) + " |")


def _without_out(arguments: Sequence[str]) -> List[str]:
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept

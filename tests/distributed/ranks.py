"""Several processes that work together on this machine."""

import subprocess
from pathlib import Path
from typing import Any, List, Sequence

from tests.helpers import REPOSITORY, TINY_TRANSFORMER, environment, fairseq_words, succeeded, train_words


def run_together(commands: Sequence[Sequence[str]], timeout: int = 600) -> List[subprocess.CompletedProcess]:
    """Run one process per command at the same time; all of them are gone afterwards.

    Returns:
        the finished processes, whatever their status, in the order of the commands.
    """
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, env=environment(), cwd=REPOSITORY, **pipes) for command in commands]
    finished = []
    try:
        for process in processes:
            output = process.communicate(timeout=timeout)
            finished.append(subprocess.CompletedProcess(process.args, process.returncode, *output))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return finished


def ranks_words(
    data: Path, run: Path, updates: int, *options: object, ranks: int = 2, model: Sequence[str] = TINY_TRANSFORMER
) -> List[List[str]]:
    """`fairseq-train` on the CPU, one command per rank."""
    run.mkdir(parents=True, exist_ok=True)
    meeting_point = run / f"meet_{updates}"  # a file instead of a port: no race for free ports
    common = ["--cpu", "--distributed-world-size", ranks, "--distributed-backend", "gloo", "--distributed-no-spawn"]
    common += ["--distributed-init-method", f"file://{meeting_point}"]
    words = train_words(data, run, updates, *common, *options, model=model)
    return [fairseq_words("train", *words, "--distributed-rank", rank) for rank in range(ranks)]


def train_on_ranks(*args: Any, **kwargs: Any) -> List[subprocess.CompletedProcess]:
    """Run `ranks_words(...)`; the finished processes, rank 0 first, all with status 0."""
    return [succeeded(process) for process in run_together(ranks_words(*args, **kwargs))]

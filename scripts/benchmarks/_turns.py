"""Variants that take turns: each is a process of its own, and every round asks them one after the other for one step.

What the machine does beside the benchmark then meets all variants alike, and one round's times can be divided.
"""

import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import torch

MIB = 2**20


class Seconds(NamedTuple):
    """What one step took."""

    wall: float
    cpu: float  # of the whole process, summed over its threads


class Worker:
    """A process that holds one variant and does what it is told, one request at a time.

    Args:
        python: interpreter that has the variant's packages.
        script: file that calls `serve` when its first argument is `--worker`.
        variant: which one.
        case: keyword arguments of the variant, plain values.
    """

    def __init__(self, python: str, script: Path, variant: str, case: Dict[str, Any]):
        self.variant = variant
        words = [python, str(script), "--worker", variant, json.dumps(case)]
        environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: str, *values: Any) -> Any:
        """Have the variant's method `what` called and wait for what it returns.

        Raises:
            RuntimeError: the worker ended; its own words are on the error stream.
        """
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([what, *values]) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for {self.variant} ended with code {self.process.wait()}")
        return json.loads(line)

    def step(self) -> Seconds:
        """One timed step."""
        return Seconds(*self.ask("timed_step"))

    def close(self) -> None:
        """End the process and give its memory back."""
        self.process.kill()
        self.process.communicate()


class Variant:
    """What a worker process holds. Subclasses set up in `__init__` and do their work in `step`."""

    def step(self) -> Any:
        """One step of what is measured."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """What precedes a step that is measured: another one, or of a long one enough to get its memory."""
        self.step()

    def release(self) -> None:
        """Give back what a step leaves behind."""

    def timed_step(self) -> Seconds:
        """Time one step, right after another whose memory is freed outside the clock.

        While others take their turns a virtual machine may hand freed memory back to its host, and getting it again may
        take longer than a step: that must not be what is compared.
        """
        self.warm_up()
        self.release()
        gc.collect()
        _wait()
        cpu, wall = time.process_time(), time.perf_counter()
        self.step()
        _wait()
        return Seconds(time.perf_counter() - wall, time.process_time() - cpu)

    def peak_memory(self) -> float:
        """MiB that a step adds at its peak to what the process holds while it waits."""
        self.step()  # loads the libraries' code, which is not what a step needs
        self.release()
        return self.peak_of_step()

    def peak_of_step(self) -> float:
        """The same for the next step, whichever that is."""
        if torch.cuda.is_initialized():
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return (torch.cuda.max_memory_allocated() - before) / MIB
        waiting = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (man 5 proc)
        self.step()
        return (resident("VmHWM") - waiting) / MIB


def serve(make: Callable[..., Variant], arguments: List[str]) -> None:
    """The worker's side: build the variant, then answer requests until the pipe closes."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not reach the pipe
    variant = make(arguments[0], **json.loads(arguments[1]))
    for line in sys.stdin:
        what, *values = json.loads(line)
        replies.write(json.dumps(getattr(variant, what)(*values)) + "\n")
        replies.flush()


def take_turns(workers: Dict[str, Worker], rounds: int) -> Dict[str, List[Seconds]]:
    """Each worker's steps, in rounds."""
    steps: Dict[str, List[Seconds]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            steps[name].append(worker.step())
    return steps


class Spread(NamedTuple):
    """Median of some rounds, and their extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: List[float]) -> Spread:
    """Of any list of numbers."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(above: List[float], below: List[float]) -> Spread:
    """Spread of the quotients round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def _wait() -> None:
    """Let a GPU finish: a step has only been handed to it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine() -> str:
    """One line for the head of a result."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    pages = next((line for line in _lines("/sys/kernel/mm/transparent_hugepage/enabled")), "unknown")
    return (
        f"{os.cpu_count()} x {names[0] if names else platform.processor()}; huge pages {pages}; {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def _lines(path: str) -> List[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at their peak (VmHWM)."""
    line = next(line for line in _lines("/proc/self/status") if line.startswith(which))
    return int(line.split()[1]) * 1024

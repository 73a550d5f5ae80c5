"""Worker processes that end with their parent, and one sentence when one of them cannot start or is killed."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import Progress

# spawn: a fork of a process that has run threads (torch, SentencePiece) can hang
_CONTEXT = multiprocessing.get_context("spawn")

Report = Callable[[int], None]  # "this much more is done"

_done: Any = None  # in a worker: the array that all workers count in
_failure: Optional[BaseException] = None  # in a worker: why it could not prepare
_SLOTS = 1024


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has where the system or a job scheduler says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_alone(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """Run a function in one process of its own and say every half minute that it still runs.

    Raises:
        UserError: the system killed the process.
    """
    start = time.monotonic()
    with _pool(1, None) as pool:
        future = pool.submit(function, *arguments)
        while not concurrent.futures.wait([future], 30).done:
            minutes = (time.monotonic() - start) / 60
            print(f"{what}: {minutes:.1f} minutes so far", file=sys.stderr, flush=True)
        return _result(future)


def run_all(
    function: Callable[[Any, Report], Any],
    jobs: List[Any],
    workers: int,
    progress: Progress,
    prepare: Optional[Tuple[Callable[..., None], Tuple[Any, ...]]] = None,
) -> Iterator[Tuple[Any, Any]]:
    """Yield (job, result) as the jobs finish, in any order.

    Args:
        function: importable; gets the job and a ``Report`` for the progress line.
        workers: processes; 1 runs everything here.
        prepare: (function, arguments) called once in every worker before its first job.
    Raises:
        UserError: the system killed a worker, or ``prepare`` met an OSError, MemoryError or RuntimeError (torch has
            no other for a full GPU). Everything else that ``prepare`` and ``function`` raise is raised here.
    """
    if workers == 1 or len(jobs) < 2:
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            progress.show(done)

        if prepare is not None and jobs:
            _prepare(*prepare)
        for job in jobs:
            yield job, function(job, report)
        return
    # Each process counts in a slot of its own, without a lock: one that is killed while it holds a lock stops us all.
    counts = _CONTEXT.RawArray("q", _SLOTS)
    with _pool(min(workers, len(jobs)), counts, prepare) as pool:
        waiting = {pool.submit(_call, function, job): job for job in jobs}
        while waiting:
            finished, _ = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), _result(future)
            progress.show(sum(counts))


@contextlib.contextmanager
def _pool(workers: int, *initial: Any) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A pool that is dropped at once, running jobs and all, when its block ends in an exception."""
    alive, lifeline = _CONTEXT.Pipe(duplex=False)  # nothing is ever sent: workers wait for its other end to close
    pool = concurrent.futures.ProcessPoolExecutor(workers, _CONTEXT, _start, (alive, *initial))
    try:
        yield pool
    except BaseException:
        lifeline.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        lifeline.close()
        alive.close()


def _start(alive: Any, counts: Any, prepare: Optional[Tuple[Callable[..., None], Iterable[Any]]] = None) -> None:
    """First thing in every worker."""
    global _done, _failure
    _done = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too and closes the lifeline

    def end_with_parent() -> None:
        try:
            alive.recv()
        except (EOFError, OSError):  # closed, or the parent is gone, even if it was killed
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        if prepare is not None:
            _prepare(*prepare)
    except BaseException as error:  # raised here it would break the pool, as if the system had killed this process
        _failure = error


def _prepare(function: Callable[..., None], arguments: Iterable[Any]) -> None:
    try:
        function(*arguments)
    except (OSError, MemoryError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"a process could not start to work: {reason}") from error


def _call(function: Callable[[Any, Report], Any], job: Any) -> Any:
    if _failure is not None:
        raise _failure

    def report(more: int) -> None:
        _done[os.getpid() % _SLOTS] += more

    return function(job, report)


def _result(future: concurrent.futures.Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory; give fewer --workers or a smaller sample"
        ) from None

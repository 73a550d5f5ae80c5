"""Files that appear whole or not at all, clear words for full disks, and a line that says how far a verb is."""

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Optional

from fairseq_plugins._verbs import UserError


class HashingWriter:
    """A binary file, written front to back, that knows its own sha256."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._digest = stream, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._stream.write(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """A temporary name to write under; renamed to ``path`` at the end, so that a kill leaves the old file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[HashingWriter]:
    """Write ``path`` front to back; it appears whole, on the disk and under its name, or not at all."""
    with whole_path(path) as temporary, open(temporary, "wb") as stream:
        yield HashingWriter(stream)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, data: bytes) -> str:
    """Write bytes in one go, whole or not at all; returns their sha256."""
    with whole_file(path) as out:
        out.write(data)
    return out.sha256


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, always with the same bytes for the same value."""
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Optional[Dict[str, Any]]:
    """The object in a JSON file, None if the file does not exist.

    Raises:
        UserError: the file exists but is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    return value


def sha256_of(path: Path) -> Optional[str]:
    """Hash of a file, None if it does not exist."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def plain_os_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, a missing right, a missing file and the like into one sentence.

    Raises:
        UserError: instead of any OSError but a closed pipe.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk of {where} is full; make room and run the same command again") from error
        raise UserError(f"{error.filename or where}: {reason}") from error


class Progress:
    """One status line on stderr, rewritten on a terminal and printed every ten seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str):
        self._what, self._total, self._unit = what, total, unit
        self._start = self._last = time.monotonic()
        self._tty = sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Report that ``done`` of the total is finished; cheap to call often."""
        now = time.monotonic()
        if now - self._last < (0.5 if self._tty else 10):
            return
        self._last = now
        left = (now - self._start) * (self._total - done) / max(done, 1)
        text = f"{self._what}: {done:,} of {self._total:,} {self._unit}, {_clock(left)} left"
        print(f"\r\033[K{text}" if self._tty else text, end="" if self._tty else "\n", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Replace the status line by how long it took."""
        text = f"{self._what}: {self._total:,} {self._unit} in {_clock(time.monotonic() - self._start)}"
        print(f"\r\033[K{text}" if self._tty else text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

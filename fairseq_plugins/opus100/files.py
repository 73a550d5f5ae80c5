"""Files that appear whole or not at all, clear words for full disks, and a line that says how far a verb is."""

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import read_dictionary


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


def read_json(path: Path, shape: Any = None) -> Optional[Dict[str, Any]]:
    """The object in a JSON file, None if the file does not exist.

    Args:
        path: of it.
        shape: what it must look like, see ``misfit``; None takes any object.
    Raises:
        UserError: the file exists but cannot be read, is not a JSON object or not of that shape.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object")
    if shape is not None and (where := misfit(value, shape)) is not None:
        raise UserError(f"{path} is damaged: {where or 'it'} is missing or not what was written there; make it again")
    return value


def misfit(value: Any, shape: Any) -> Optional[str]:
    """Where a value read from a file is not of a shape, None if it is.

    Args:
        value: of JSON.
        shape: a type or several; a function that says whether a value will do; ``[shape]`` for a list;
            ``{str: shape}`` for an object with any names; ``{"name": shape, "other?": shape}`` for one with these, the
            marked ones optional, and any others.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return ""
        if str in shape:
            inside = [(name, part, shape[str]) for name, part in value.items()]
        else:
            inside = [(name.rstrip("?"), value.get(name.rstrip("?"), _MISSING), of) for name, of in shape.items()
                      if not name.endswith("?") or name.rstrip("?") in value]  # fmt: skip
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return ""
        inside = [(str(number), part, shape[0]) for number, part in enumerate(value)]
    elif isinstance(shape, (type, tuple)):
        return None if isinstance(value, shape) else ""
    else:
        return None if shape(value) else ""
    for name, part, of in inside:
        if (where := misfit(part, of)) is not None:
            return f"{name} {where}".rstrip()
    return None


def whole_number(value: Any) -> bool:
    """For shapes: a count, which truth values are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def number(value: Any) -> bool:
    """For shapes: any finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def number_or_none(value: Any) -> bool:
    """For shapes: a number, or null where there is none."""
    return value is None or number(value)


def file_name(value: Any) -> bool:
    """For shapes: the name of a file of the folder or of one inside it; never one elsewhere."""
    if not isinstance(value, str) or "\0" in value or not value.isprintable():
        return False
    return not value.startswith("/") and ".." not in value.split("/")


def hashes(value: Any) -> bool:
    """For shapes: files of the folder -> sha256."""
    return misfit(value, {str: str}) is None and all(map(file_name, value))


_MISSING = object()


def read_symbols(path: Path) -> List[str]:
    """`data.symbols.read_dictionary` for verbs: every symbol of a ``dict.txt``, row 0 first.

    Raises:
        UserError: missing, unreadable or damaged.
    """
    try:
        return read_dictionary(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a line that is none, or not UTF-8, which names no file
        where = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise UserError(f"{where}; it is no dictionary of fairseq") from None


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

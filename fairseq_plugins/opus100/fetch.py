"""Fetch one file over HTTP(S), from file:// or from a path: resumes, checks the size, shows progress."""

import http.client
import io
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple, Optional

from fairseq_plugins import __version__
from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import Progress, read_json, sha256_of, write_json

_BLOCK = 1 << 18
_TIMEOUT = 60  # seconds without a byte
_TRIES = 6  # in a row that bring nothing


class NotThere(UserError):
    """The server answers that it has no such file (404, 410) or the path does not exist."""


class _Cut(Exception):
    """The connection ended early; what came so far is kept."""


class _Answer(NamedTuple):
    stream: BinaryIO
    start: int  # offset of the first byte of the stream
    total: Optional[int]  # size of the whole file, None if the server does not say
    version: str  # changes when the file on the server changes


def fetch(url: str, target: Path, sha256: Optional[str] = None, wait: Optional[Callable[[float], None]] = None) -> None:
    """Bring a file here, from where an earlier try stopped. If ``target`` exists, only its hash is checked.

    Args:
        url: http, https or file URL, or a path.
        target: appears only when the file is complete; until then ``<target>.part`` and ``<target>.part.json`` grow.
        sha256: expected hash, if known.
        wait: what to do between tries with a number of seconds; sleeps if None.
    Raises:
        NotThere: no such file.
        UserError: no such host, refused, too little disk space, wrong hash, or the connection keeps breaking.
    """
    if target.exists():
        if sha256 is not None and (found := sha256_of(target)) != sha256.lower():
            raise UserError(f"{target}: sha256 is {found}, not {sha256.lower()}; remove it or correct --sha256")
        return
    part, fruitless = target.with_name(target.name + ".part"), 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part)
            break
        except _Cut as cut:
            fruitless = 0 if part.exists() and part.stat().st_size > before else fruitless + 1
            if fruitless >= _TRIES:
                raise UserError(f"{url}: {cut}, {_TRIES} times in a row; run the same command again to go on") from None
            (wait or time.sleep)(min(2.0**fruitless, 30.0))
    if sha256 is not None and (found := sha256_of(part)) != sha256.lower():
        _forget(part)
        raise UserError(f"{url}: sha256 is {found}, not {sha256.lower()}; the file was thrown away")
    part.rename(target)
    _notes(part).unlink(missing_ok=True)


def _continue(url: str, part: Path) -> None:
    """One connection: append what is missing.

    Raises:
        _Cut: it ended before the file did.
    """
    notes = read_json(_notes(part), {"url?": str, "version?": str}) or {}
    have = part.stat().st_size if part.exists() and notes.get("url") == url else 0
    answer = _open(url, have, notes.get("version", ""))
    with answer.stream as stream:
        if answer.total is not None:
            missing, free = answer.total - answer.start, shutil.disk_usage(part.parent).free
            if missing > free:
                raise UserError(f"{url} needs {missing >> 20:,} MB more and {part.parent} has {free >> 20:,} MB free")
        write_json(_notes(part), {"url": url, "version": answer.version})
        progress = Progress(part.name.removesuffix(".part"), answer.total or 0, "bytes")
        with open(part, "r+b" if answer.start else "wb") as out:
            out.seek(answer.start)
            out.truncate()
            while block := _read(stream):
                out.write(block)
                progress.show(out.tell())
            size = out.tell()
    if answer.total is not None and size < answer.total:
        raise _Cut(f"the connection ended after {size:,} of {answer.total:,} bytes")
    if answer.total is not None and size > answer.total:
        _forget(part)
        raise UserError(f"{url} sent {size:,} bytes and announced {answer.total:,}; the file was thrown away")
    progress.finish()


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_BLOCK)
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Cut(f"the connection broke ({type(error).__name__})") from error


def _open(url: str, have: int, version: str) -> _Answer:
    """Ask for the file from byte ``have`` on; a server that cannot, or has another version by now, sends it all."""
    try:
        parts = urllib.parse.urlsplit(url)
        at_port = parts.port  # looked at here: urllib would trip over one that is none
    except ValueError as error:
        raise UserError(f"{url} is neither a URL nor a path ({error}); check the base URL") from None
    if parts.scheme in ("", "file") and at_port is None:
        return _open_path(url, have)
    request = urllib.request.Request(url, headers={"User-Agent": f"fairseq_plugins/{__version__}"})
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and total == str(have):  # nothing is missing
            return _Answer(io.BytesIO(), have, have, version)
        if error.code == 416:
            return _open(url, 0, "")
        if error.code in (404, 410):
            raise NotThere(f"{url}: the server has no such file ({error.code}); check pair and base URL") from None
        if error.code in (408, 429) or error.code >= 500:
            raise _Cut(f"the server answered {error.code}") from None
        raise UserError(f"{url}: the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, (TimeoutError, ConnectionResetError)):
            raise _Cut("the server does not answer") from None
        host = urllib.parse.urlsplit(url).netloc
        raise UserError(f"{url}: {host} cannot be reached ({error.reason}); check base URL and network") from None
    except (ValueError, http.client.InvalidURL):  # trying again would not help
        raise UserError(f"{url} is neither a URL nor a path; check the base URL") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Cut(f"the connection broke ({type(error).__name__})") from None
    length = answer.headers.get("Content-Length")
    start = have if answer.status == 206 else 0
    if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        answer.close()
        return _open(url, 0, "")
    strong = answer.headers.get("ETag", "")
    version = strong if strong and not strong.startswith("W/") else answer.headers.get("Last-Modified", "")
    return _Answer(answer, start, start + int(length) if length is not None else None, version)


def _open_path(url: str, have: int) -> _Answer:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)) if url.startswith("file:") else Path(url)
    if not path.is_file():
        raise NotThere(f"{path} is not a file; check the pair and the base URL")
    size, stream = path.stat().st_size, open(path, "rb")
    start = have if have <= size else 0
    stream.seek(start)
    return _Answer(stream, start, size, "")


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def join(base: str, name: str) -> str:
    """``base`` as a folder, a URL or a path, and a file in it."""
    return f"{base.rstrip('/')}/{name}"


"""Find and read a corpus in OPUS-100's layout (arXiv 2004.11867, release v1.0).

``<root>/[opus-100-corpus/v1.0/]{supervised,zero-shot}/<pair>/opus.<pair>-{train,dev,test}.<lang>``, plain UTF-8, one
sentence per line. A line ends at ``\\n`` alone: the corpus holds ``\\r``, U+2028, U+0085, form feeds inside lines, and
any reader that splits there (``str.splitlines``, universal newlines) shifts one side against the other.
"""

import codecs
import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import language_tag

SUPERVISED, ZERO_SHOT = "supervised", "zero-shot"
SPLITS = ("train", "dev", "test")

_FILE = re.compile(r"opus\.(?P<pair>.+)-(?P<split>train|dev|test)\.(?P<language>[^.]+)")
_BLOCK = 1 << 22  # bytes read at once when a whole file is scanned


@dataclass(frozen=True)
class Pair:
    """Two languages and their files."""

    name: str  # codes in alphabetical order: "de-en"
    languages: Tuple[str, str]  # the same two codes
    kind: str  # SUPERVISED or ZERO_SHOT
    files: Dict[str, Tuple[Path, Path]]  # split -> file of each language

    @property
    def directions(self) -> Tuple[str, str]:
        """Both translation directions: ``("de-en", "en-de")``."""
        return "-".join(self.languages), "-".join(reversed(self.languages))


class FileScan(NamedTuple):
    """One pass over a file."""

    lines: int
    size: int  # bytes
    sha256: str


def find_level(root: Path) -> Path:
    """The folder that holds ``supervised/``, at or below ``root``.

    Raises:
        UserError: nothing of the kind there.
    """
    for level in (root, root / "v1.0", root / "opus-100-corpus" / "v1.0"):
        if (level / SUPERVISED).is_dir():
            return level
    problem = "has no supervised/ folder" if root.is_dir() else "is not a folder"
    raise UserError(
        f"--corpus {root} {problem}; give the folder that holds opus-100-corpus/ (download or sample make one)"
    )


def find_pairs(root: Path, pivot: Optional[str] = None) -> Dict[str, Pair]:
    """All pairs of a corpus, supervised ones first, each group in alphabetical order.

    Args:
        root: see ``find_level``.
        pivot: the language that the corpus is centred on; None skips the check.
    Raises:
        UserError: no pair, a pair without its second side, a code that fairseq cannot carry, or no pair has the pivot.
    """
    level = find_level(root)
    pairs: Dict[str, Pair] = {}
    for kind in (SUPERVISED, ZERO_SHOT):
        for folder in sorted((level / kind).iterdir()) if (level / kind).is_dir() else []:
            pair = _read_folder(folder, kind) if folder.is_dir() else None
            if pair is None:
                continue
            if pair.name in pairs:
                raise UserError(f"{folder} is the pair {pair.name} again; leave only one of the two folders")
            pairs[pair.name] = pair
    if not any("train" in pair.files for pair in pairs.values()):
        raise UserError(f"{level / SUPERVISED} holds no <pair>/opus.<pair>-train.<lang> files")
    if pivot is not None and not any(pivot in pair.languages for pair in pairs.values()):
        common = set.intersection(*(set(pair.languages) for pair in pairs.values() if pair.kind == SUPERVISED))
        hint = f"; every pair has {common.pop()}" if len(common) == 1 else ""
        raise UserError(f"--pivot {pivot} is in no pair of {level}{hint}")
    return pairs


def _read_folder(folder: Path, kind: str) -> Optional[Pair]:
    """The pair in one folder, None if the folder holds no file of the layout."""
    found: Dict[str, Dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match and match["pair"] == folder.name:
            found.setdefault(match["split"], {})[match["language"]] = path
    if not found:
        return None
    languages = sorted({language for sides in found.values() for language in sides})
    if len(languages) != 2 or folder.name not in ("-".join(languages), "-".join(reversed(languages))):
        raise UserError(f"{folder} holds files in {', '.join(languages)}; a pair folder is named by its two languages")
    for language in languages:
        try:
            language_tag(language)
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from None
    for split, sides in found.items():
        for language in languages:
            if language not in sides:
                missing = folder / f"opus.{folder.name}-{split}.{language}"
                raise UserError(f"{missing} is missing, but the other side of the pair is there")
    first, second = languages
    files = {split: (found[split][first], found[split][second]) for split in SPLITS if split in found}
    return Pair(f"{first}-{second}", (first, second), kind, files)


def select_pairs(
    pairs: Dict[str, Pair], names: Optional[Sequence[str]], languages: Optional[Sequence[str]], pivot: str
) -> Dict[str, Pair]:
    """The pairs the user asked for; zero-shot pairs stay wherever both languages do.

    Args:
        names: pairs in either order of the two codes, or None for all.
        languages: keep pairs of these languages and the pivot only, or None.
    Raises:
        UserError: an unknown pair or language, or nothing left.
    """
    chosen = dict(pairs)
    if names is not None:
        wanted = {_known("pair", "-".join(sorted(name.split("-"))), pairs) for name in names}
        spoken = {language for name in wanted for language in pairs[name].languages}
        chosen = {
            name: pair
            for name, pair in pairs.items()
            if name in wanted or (pair.kind == ZERO_SHOT and spoken.issuperset(pair.languages))
        }
    if languages is not None:
        all_languages = {language for pair in pairs.values() for language in pair.languages}
        spoken = {_known("language", language, all_languages) for language in languages} | {pivot}
        chosen = {name: pair for name, pair in chosen.items() if spoken.issuperset(pair.languages)}
    if not any(pair.kind == SUPERVISED for pair in chosen.values()):
        raise UserError("--pairs and --languages leave no supervised pair to train on")
    return chosen


def _known(what: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, 3, 0.5) or known[:12]
    more = ", ..." if len(known) > len(near) else ""
    raise UserError(f"--{what}s: the corpus has no {what} {name!r}; it has {', '.join(near)}{more}")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a file without their ``\\n``; nothing else ends a line and the last ``\\n`` may be missing.

    Raises:
        UserError: a line is not UTF-8.
    """
    with open(path, "rb") as stream:  # binary files are split at b"\n" alone
        for number, line in enumerate(stream, 1):
            try:
                yield line.removesuffix(b"\n").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path} line {number} is not UTF-8 ({error.reason} at byte {error.start})") from None


def read_pairs(files: Tuple[Path, Path]) -> Iterator[Tuple[str, str]]:
    """Both sides in step.

    Raises:
        UserError: not UTF-8, or one side ends before the other.
    """
    try:
        yield from zip(read_lines(files[0]), read_lines(files[1]), strict=True)
    except ValueError:
        raise UserError(f"{files[0]} and {files[1]} have different numbers of lines") from None


def scan_file(path: Path) -> FileScan:
    """Count and hash a file and check that it is UTF-8, in blocks.

    Raises:
        UserError: not UTF-8 (names the line).
    """
    decoder, digest = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256()
    lines, size, last = 0, 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                _name_bad_line(path)
            digest.update(block)
            lines += block.count(b"\n")
            size += len(block)
            last = block[-1:]
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        _name_bad_line(path)
    return FileScan(lines + (last != b"\n"), size, digest.hexdigest())


def _name_bad_line(path: Path) -> None:
    for _ in read_lines(path):
        pass


def check_same_length(files: Tuple[Path, Path], scans: Tuple[FileScan, FileScan]) -> int:
    """The number of lines of both sides.

    Raises:
        UserError: the two sides differ.
    """
    if scans[0].lines != scans[1].lines:
        raise UserError(
            f"{files[0]} has {scans[0].lines} lines but {files[1]} has {scans[1].lines}: the sides of a pair must match"
        )
    return scans[0].lines


def split_list(text: str) -> List[str]:
    """Comma or space separated words, for options and files of pairs."""
    return [word for word in re.split(r"[,\s]+", text) if word]

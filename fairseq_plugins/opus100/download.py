"""Fetch OPUS-100 (Zhang et al. 2020, arXiv 2004.11867): the official tarball, single pairs, or the Hugging Face files.

All three end in the same layout, ROOT/opus-100-corpus/v1.0/{supervised,zero-shot}/<pair>/. The command can be stopped
at any time and run again: it goes on in the middle of a file where the server allows that. ROOT/download.json lists
what was fetched. The whole tarball holds 100 languages, 55 million training pairs.
"""

import argparse
import gzip
import lzma
import platform
import re
import shutil
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterator, List, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import language_tag
from fairseq_plugins.opus100.corpus import SPLITS, SUPERVISED, ZERO_SHOT, split_list
from fairseq_plugins.opus100.fetch import fetch, join
from fairseq_plugins.opus100.files import (
    Progress,
    file_name,
    misfit,
    plain_os_errors,
    read_json,
    whole_file,
    whole_number,
    whole_path,
    write_json,
)

BASE_URL = "https://object.pouta.csc.fi/OPUS-100/v1.0"
PARQUET_URL = "https://huggingface.co/datasets/Helsinki-NLP/opus-100/resolve/main"

# The 99 languages of the English pairs. `no`, `nb` and `nn` are three of them; so is `sh` beside `bs`, `hr` and `sr`.
LANGUAGES = (
    "af am an ar as az be bg bn br bs ca cs cy da de dz el eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id ig "
    "is it ja ka kk km kn ko ku ky li lt lv mg mk ml mn mr ms mt my nb ne nl nn no oc or pa pl ps pt ro ru rw se sh si "
    "sk sl sq sr sv ta te tg th tk tr tt ug uk ur uz vi wa xh yi yo zh zu"
).split()
ZERO_SHOT_LANGUAGES = "ar de fr nl ru zh".split()
UNTESTED_PAIRS = "an-en dz-en en-hy en-mn en-yo".split()  # too small for a dev and a test set of their own

_RECORD = "download.json"
_WORK = ".download"
_MEMBER = re.compile(r"opus\.(?P<pair>\w+-\w+)-(?:train|dev|test)\.\w+", re.ASCII)


def supervised_pairs() -> List[str]:
    """The 99 pairs with English, alphabetical."""
    return sorted("-".join(sorted((language, "en"))) for language in LANGUAGES)


def zero_shot_pairs() -> List[str]:
    """The 15 pairs that have a test set only."""
    return [f"{a}-{b}" for a in ZERO_SHOT_LANGUAGES for b in ZERO_SHOT_LANGUAGES if a < b]


def splits_of(pair: str) -> Tuple[str, ...]:
    """The splits that the release has of a pair."""
    if pair in zero_shot_pairs():
        return ("test",)
    return ("train",) if pair in UNTESTED_PAIRS else SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``download``."""
    add = parser.add_argument
    add("--out", "--corpus", type=Path, required=True, metavar="ROOT", dest="out", help="folder to write")
    add("--pairs", metavar="A-B,...", help="only these pairs, each from its own archive (default: the whole corpus)")
    add("--parquet", action="store_true", help="from the Hugging Face parquet files; needs pyarrow")
    add("--base-url", default=BASE_URL, metavar="URL", help="folder of the archives, also file:// or a path "
        "(default: %(default)s)")  # fmt: skip
    add("--parquet-url", default=PARQUET_URL, metavar="URL", help="folder of the parquet files (default: %(default)s)")
    add("--sha256", metavar="HEX", help="expected hash of the whole tarball")
    add("--keep-archives", action="store_true", help="leave the archives in ROOT after unpacking")


def run(args: argparse.Namespace) -> None:
    """Fetch what is missing."""
    pairs = None if args.pairs is None else [_pair(word) for word in split_list(args.pairs)]
    if pairs is not None and not pairs:
        raise UserError("--pairs names no pair")
    if args.sha256 is not None and (args.parquet or pairs is not None):
        raise UserError("--sha256 is for the whole tarball; leave out --pairs and --parquet")
    if not args.parquet and not hasattr(tarfile, "data_filter"):
        raise UserError(
            f"this Python ({platform.python_version()}) cannot unpack archives safely; use Python 3.11.4 or later, "
            "or --parquet"
        )
    with plain_os_errors(args.out):
        work = args.out / _WORK
        work.mkdir(parents=True, exist_ok=True)
        record = read_json(args.out / _RECORD, {str: {"files": _are_files}}) or {}
        if args.parquet:
            _fetch_parquet(args, pairs or supervised_pairs() + zero_shot_pairs(), record)
        else:
            for name in _archives(pairs):
                _fetch_archive(args, name, record)
        shutil.rmtree(work)
    count = sum(len(entry["files"]) for entry in record.values())
    print(f"{args.out} holds {count} files; next: python -m fairseq_plugins.opus100 prepare --corpus {args.out}")


def _pair(word: str) -> str:
    """The pair with its codes in order. They become part of paths, so they must be codes and nothing else.

    Raises:
        UserError: it is none.
    """
    codes = sorted(word.split("-"))
    try:
        if len(codes) != 2:
            raise ValueError("give two codes and a dash, as in de-en")
        for code in codes:
            language_tag(code)
    except ValueError as error:
        raise UserError(f"--pairs {word!r} is no pair of languages: {error}") from None
    return "-".join(codes)


def _archives(pairs: Optional[List[str]]) -> List[str]:
    if pairs is None:
        return ["opus-100-corpus-v1.0.tar.gz"]
    zero_shot = set(zero_shot_pairs())
    names = [f"opus-100-corpus-{pair}-v1.0.tar.gz" for pair in pairs if pair not in zero_shot]
    return names + ["opus-100-corpus-zeroshot-v1.0.tar.gz"] * any(pair in zero_shot for pair in pairs)


def _are_files(value: Any) -> bool:
    return misfit(value, {str: whole_number}) is None and all(map(file_name, value))


def _is_here(out: Path, entry: Optional[Dict[str, Any]]) -> bool:
    return entry is not None and all(
        (out / name).is_file() and (out / name).stat().st_size == size for name, size in entry["files"].items()
    )


def _remember(out: Path, record: Dict[str, Any], name: str, url: str, files: List[Path]) -> None:
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in sorted(files)}
    record[name] = {"url": url, "files": sizes}
    write_json(out / _RECORD, record)


# ---- archives --------------------------------------------------------------------------------------------------------


def _fetch_archive(args: argparse.Namespace, name: str, record: Dict[str, Any]) -> None:
    if _is_here(args.out, record.get(name)):
        print(f"{name}: unpacked already", file=sys.stderr)
        return
    kept = args.out / name
    archive = kept if kept.exists() else args.out / _WORK / name
    url = join(args.base_url, name)
    fetch(url, archive, args.sha256)
    files = unpack(archive, args.out)
    _remember(args.out, record, name, url, files)
    if args.keep_archives and archive != kept:
        archive.rename(kept)


def unpack(archive: Path, out: Path) -> List[Path]:
    """Unpack the files of the layout to where they belong, whatever folders the archive puts them in.

    Returns:
        the files written, each whole.
    Raises:
        UserError: damaged, or an archive that tries to write elsewhere or to make links.
    """
    written = []
    try:
        for member, stream in _members(archive, out):
            path = PurePosixPath(member.name)
            match = _MEMBER.fullmatch(path.name)
            if match is None:
                continue
            kind = ZERO_SHOT if ZERO_SHOT in path.parts or "zeroshot" in archive.name else SUPERVISED
            target = _place(out, kind, match["pair"], path.name)
            with whole_path(target) as temporary, open(temporary, "wb") as sink:
                shutil.copyfileobj(stream, sink, 1 << 20)
            written.append(target)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
        if isinstance(error, tarfile.FilterError):
            raise UserError(f"{archive} is not to be trusted: {error}; nothing of that entry was written") from None
        archive.unlink()
        raise UserError(f"{archive.name} is damaged and was removed ({error}); run the same command again") from None
    if not written:
        raise UserError(f"{archive.name} holds no opus.<pair>-<split>.<lang> file; check --base-url")
    return written


def _members(archive: Path, out: Path) -> Iterator[Any]:
    progress = Progress(f"unpacking {archive.name}", archive.stat().st_size, "bytes")
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        for member in tar:
            checked = tarfile.data_filter(member, str(out))
            if checked.isfile():
                yield checked, tar.extractfile(member)
            elif not checked.isdir():
                raise UserError(f"{archive} is not to be trusted: {member.name} is neither a file nor a folder")
            progress.show(raw.tell())
    progress.finish()


def _place(out: Path, kind: str, pair: str, name: str) -> Path:
    folder = out / "opus-100-corpus" / "v1.0" / kind / pair
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


# ---- parquet ---------------------------------------------------------------------------------------------------------


def _fetch_parquet(args: argparse.Namespace, pairs: List[str], record: Dict[str, Any]) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("--parquet needs pyarrow: pip install pyarrow, or leave --parquet out") from None
    for number, pair in enumerate(pairs, 1):
        if _is_here(args.out, record.get(pair)):
            continue
        print(f"{pair} ({number} of {len(pairs)})", file=sys.stderr, flush=True)
        files: Dict[str, Path] = {}
        for split in splits_of(pair):
            name = f"{'validation' if split == 'dev' else split}-00000-of-00001.parquet"
            target = args.out / _WORK / f"{pair}.{name}"
            fetch(join(args.parquet_url, f"{pair}/{name}"), target)
            files[split] = target
        kind = SUPERVISED if "train" in files else ZERO_SHOT
        written = [path for split, of in files.items() for path in parquet_to_text(of, args.out, kind, pair, split)]
        _remember(args.out, record, pair, join(args.parquet_url, pair), written)
        for path in files.values():
            path.unlink()


def parquet_to_text(source: Path, out: Path, kind: str, pair: str, split: str) -> List[Path]:
    """Write both sides of a parquet file of ``{"translation": {a: ..., b: ...}}`` as lines; returns the two files.

    A newline inside a sentence becomes a space: it would shift one side against the other.

    Raises:
        UserError: not such a file.
    """
    import pyarrow
    import pyarrow.parquet

    languages = pair.split("-")
    paths = [_place(out, kind, pair, f"opus.{pair}-{split}.{language}") for language in languages]
    try:
        table = pyarrow.parquet.ParquetFile(source)
        with whole_file(paths[0]) as first, whole_file(paths[1]) as second:
            for batch in table.iter_batches(10_000, columns=["translation"]):
                for side, sink in zip(languages, (first, second), strict=True):
                    texts = batch.column(0).field(side).to_pylist()
                    sink.write("".join(f"{(text or '').replace(chr(10), ' ')}\n" for text in texts).encode())
    except (pyarrow.ArrowException, KeyError, IndexError) as error:
        source.unlink()
        raise UserError(f"{source.name} is damaged or not of OPUS-100 ({error}); it was thrown away") from None
    return paths

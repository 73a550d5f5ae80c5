"""Binarise text in single languages with the SentencePiece model and the dictionary of a folder that `prepare` wrote.

Writes OUT/<lang>/train and valid, each sentence its pieces and </s>, and the dictionary as OUT/dict.txt and
OUT/<lang>/dict.txt. The task mt6_pretraining takes OUT as monolingual text; so does the stock multilingual_masked_lm,
and masked_lm takes OUT/<lang>. The valid lines are drawn from the text. No train line reads like one of them, or like a
dev or test line of DATA. The command can be stopped at any time and run again: finished languages are kept, and the
files come out the same.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins.data.symbols import language_tag
from fairseq_plugins.opus100.binarise import Encoder, SplitCount, binarise, load_encoder, loaded, token_dtype
from fairseq_plugins.opus100.corpus import read_lines
from fairseq_plugins.opus100.data_folder import DataFolder, Layout, link_or_copy
from fairseq_plugins.opus100.files import Progress, plain_os_errors, read_symbols, sha256_of, whole_number, write_whole
from fairseq_plugins.opus100.plan import scan_files
from fairseq_plugins.opus100.prepare import FORMAT, versions
from fairseq_plugins.opus100.run_folder import BOUND_FILES, read_manifest
from fairseq_plugins.opus100.workers import Report, run_all, usable_cores

_COUNTED = ("lines", "blank", "in_dev_or_test", "like_valid")  # beside what became of train and valid
LAYOUT = Layout(
    "mono",
    ("dict.txt", "languages.txt", ".*.tmp", "*/dict.txt", "*/train.bin", "*/train.idx", "*/valid.bin", "*/valid.idx",
     "*/.*.tmp"),
    ("*",),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``mono``."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA", help="folder written by prepare")
    add("--text", action="append", required=True, metavar="LANG=FILE[,FILE...]",
        help="plain UTF-8 text of a language of DATA, one sentence per line; once for every language")  # fmt: skip
    add("--out", type=Path, required=True, metavar="OUT", help="folder to write")
    add("--valid-lines", type=int, default=1000, metavar="N",
        help="lines of each language that become its valid set, a tenth at most (default: %(default)s)")  # fmt: skip
    add("--max-length", type=int, default=256, metavar="PIECES",
        help="longer lines are left out (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="of the choice of valid lines (default: %(default)s)")
    add("--workers", type=int, default=usable_cores(), metavar="N", help="processes (default: cores, %(default)s)")
    add("--force", action="store_true", help="throw away what an earlier run with other options left in OUT")


def run(args: argparse.Namespace) -> None:
    """Make OUT, or finish it, or find that it is complete."""
    check_at_least(args, valid_lines=1, max_length=1, workers=1, seed=0)
    args.data = args.data.resolve()
    text, manifest = read_text_options(args.text), read_manifest(args.data)
    rows = read_symbols(args.data / "dict.txt")
    check_languages(text, rows, args.data)
    with plain_os_errors(args.data):
        scans = scan_files([path for paths in text.values() for path in paths], args.workers)
        for path, scan in scans.items():
            if scan.lines == 0:
                raise UserError(f"--text: {path} is empty; leave it out or give other text")
        seen = {language: _raw_files(args.data, language) for language in text}
        inputs = {name: manifest["sha256"][name] for name in BOUND_FILES}
        inputs.update({f"raw/{path.name}": sha256_of(path) for paths in seen.values() for path in paths})
        for language, paths in text.items():
            inputs.update({f"{language} text {n} ({path.name})": scans[path].sha256 for n, path in enumerate(paths, 1)})
    options = {"valid_lines": args.valid_lines, "max_length": args.max_length, "seed": args.seed}
    folder = DataFolder(args.out.resolve(), {"options": options, "inputs": inputs}, LAYOUT)
    with plain_os_errors(args.out):
        if folder.open(args.force):
            print(f"{args.out} is complete and belongs to this text and these options; nothing to do")
            return
        lines = {language: sum(scans[path].lines for path in paths) for language, paths in text.items()}
        jobs = [TextJob(language, tuple(text[language]), tuple(seen[language]), folder.path / language, args.max_length,
                        args.valid_lines, args.seed) for language in sorted(text, key=lambda of: -lines[of])]
        records = _binarise_all(folder, args.data, jobs, lines, args.workers)
        made = _finish(folder, args.data, rows, records)
    for language, counts in made.items():
        train, valid = counts["train"], counts["valid"]
        print(f"{args.out / language}: {train['kept']:,} train and {valid['kept']:,} valid lines; left out: "
              f"{counts['blank']:,} blank, {train['dropped_long'] + valid['dropped_long']:,} over-long, "
              f"{counts['in_dev_or_test']:,} of DATA's dev and test, {counts['like_valid']:,} like a valid line")


def read_text_options(words: List[str]) -> Dict[str, List[Path]]:
    """Language -> its files, absolute.

    Raises:
        UserError: not ``LANG=FILE``, a file that does not exist, or one that is given twice.
    """
    text: Dict[str, List[Path]] = {}
    for word in words:
        language, equals, names = word.partition("=")
        if not (language and equals and all(names.split(","))):
            raise UserError(f"--text {word} is not understood; give LANG=FILE or LANG=FILE,FILE")
        for path in (Path(name).absolute() for name in names.split(",")):
            if not path.is_file():
                raise UserError(f"--text {word}: {path} is not a file")
            if any(path.samefile(other) for paths in text.values() for other in paths):
                raise UserError(f"--text {word}: {path} is given twice")
            text.setdefault(language, []).append(path)
    return text


def check_languages(languages: Iterable[str], rows: List[str], data: Path) -> None:
    """See that every language has its tag in DATA's dictionary.

    Raises:
        UserError: one has not.
    """
    known = [symbol for symbol in rows if symbol.startswith("__") and symbol.endswith("__")]
    for language in languages:
        try:
            tag = language_tag(language)
        except ValueError as error:
            raise UserError(f"--text: {error}") from None
        if tag not in known:
            raise UserError(f"--text {language}=...: {data / 'dict.txt'} has no symbol {tag}, but {' '.join(known)}; "
                            "give a language of DATA, or add its tag with add-symbols")


def _raw_files(data: Path, language: str) -> List[Path]:
    return [path for split in ("dev", "test") for path in sorted((data / "raw").glob(f"{split}.*-*.{language}"))]


class TextJob(NamedTuple):
    """All a worker needs to binarise the text of one language; every path absolute."""

    language: str
    files: Tuple[Path, ...]
    seen: Tuple[Path, ...]  # whose lines must not be trained on
    out: Path
    longest: int
    valid_lines: int
    seed: int


def plain(line: str) -> str:
    """What makes two lines the same sentence: their text, however spaced."""
    return " ".join(line.split())


class Sieve:
    """Deals the lines of a language out to train and valid, and counts the others.

    Raises:
        UserError: too few lines to give some away.
    """

    def __init__(self, job: TextJob):
        self._files = job.files
        self._seen = {plain(line) for path in job.seen for line in read_lines(path)}
        self.lines = self.blank = self.in_dev_or_test = 0
        usable = sum(1 for _ in self._usable(count=True))
        take = min(job.valid_lines, usable // 10)
        if not take:
            raise UserError(f"--text {job.language}=... has {usable} usable lines, too few to hold a tenth of them "
                            "out; give more text")
        chosen = iter(np.sort(np.random.default_rng(job.seed).choice(usable, take, replace=False)).tolist())
        wanted, self._valid = next(chosen), {}
        for number, line in enumerate(self._usable()):
            if number == wanted:
                self._valid.setdefault(plain(line), line)
                wanted = next(chosen, None)
        self.like_valid = 0

    def valid(self) -> List[str]:
        """The held-out lines, each text once, in the order of the files."""
        return list(self._valid.values())

    def train(self) -> Iterator[str]:
        """The lines that read like no held-out one."""
        self.like_valid = -len(self._valid)  # copies: every held-out line itself is met too
        for line in self._usable():
            if plain(line) in self._valid:
                self.like_valid += 1
            else:
                yield line

    def _usable(self, count: bool = False) -> Iterator[str]:
        for path in self._files:
            for line in read_lines(path):
                text = plain(line)
                if count:
                    self.lines += 1
                    self.blank += not text
                    self.in_dev_or_test += bool(text) and text in self._seen
                if text and text not in self._seen:
                    yield line


def binarise_text(
    job: TextJob, encoder: Encoder, rows: int, on_chunk: Report = lambda lines: None
) -> Dict[str, Any]:
    """Write the shards of one language.

    Returns:
        {"counts": {"lines": n, "blank": n, ..., "train": {...}, "valid": {...}}, "sha256": {file: hash}}
    """
    job.out.mkdir(exist_ok=True)
    sieve = Sieve(job)
    splits, hashes = {}, {}
    for split, lines in (("valid", sieve.valid()), ("train", sieve.train())):
        of: Dict[str, str] = {}
        prefixes, sides = (job.out / split,), ((line,) for line in lines)
        count = binarise(encoder, sides, prefixes, token_dtype(rows), of, job.longest, on_chunk)
        splits[split] = count._asdict()
        hashes.update({f"{job.language}/{name}": digest for name, digest in of.items()})
    counts = {name: vars(sieve)[name] for name in _COUNTED}
    return {"counts": {**counts, **splits}, "sha256": hashes}


def text_job(job: TextJob, report: Report) -> Dict[str, Any]:
    """Write the files and the record of one language."""
    with plain_os_errors(job.out):
        return loaded["folder"].record(job.language, binarise_text(job, loaded["encoder"], loaded["rows"], report))


def _binarise_all(
    folder: DataFolder, data: Path, jobs: List[TextJob], lines: Dict[str, int], workers: int
) -> Dict[str, Dict[str, Any]]:
    """Binarise every language that is not finished; language -> record."""
    split = dict.fromkeys(SplitCount._fields, whole_number)
    shape = {"counts": {"train": split, "valid": split, **dict.fromkeys(_COUNTED, whole_number)}}
    records = {of.language: record for of in jobs if (record := folder.finished(of.language, shape)) is not None}
    if records:
        print(f"{len(records)} of {len(jobs)} languages are finished already", file=sys.stderr)
    left = [job for job in jobs if job.language not in records]
    progress = Progress("encoding", sum(lines[job.language] for job in left), "lines")
    for job, record in run_all(text_job, left, workers, progress, (load_encoder, (folder, data))):
        records[job.language] = record
    progress.finish()
    return records


def _finish(
    folder: DataFolder, data: Path, rows: List[str], records: Dict[str, Dict[str, Any]]
) -> Dict[str, Dict[str, Any]]:
    """Dictionaries, list of languages and manifest; language -> counts."""
    languages = sorted(records)
    dictionary = write_whole(folder.path / "dict.txt", (data / "dict.txt").read_bytes())
    hashes = {"dict.txt": dictionary, **{f"{language}/dict.txt": dictionary for language in languages}}
    for language in languages:
        link_or_copy(folder.path / "dict.txt", folder.path / language / "dict.txt")
        hashes.update(records[language]["sha256"])
    text = "".join(f"{language}\n" for language in languages)
    hashes["languages.txt"] = write_whole(folder.path / "languages.txt", text.encode())
    counts = {language: records[language]["counts"] for language in languages}
    folder.close({"format": FORMAT, "languages": languages, "text": counts, "vocabulary": {"rows": len(rows)},
                  "sha256": hashes, "versions": versions()})
    return counts

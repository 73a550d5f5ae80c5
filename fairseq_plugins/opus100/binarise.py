"""Raw lines -> piece ids -> fairseq's memory-mapped format (``--dataset-impl mmap``), one pair at a time.

The files are what ``fairseq-preprocess`` writes for the same pieces; they are written here because the stock road goes
through text, dictionary look-ups and one tensor per line, and needs an own run for every pair.
"""

import contextlib
import struct
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import EOS_ROW, UNK_ROW
from fairseq_plugins.opus100.corpus import read_pairs
from fairseq_plugins.opus100.files import HashingWriter, read_symbols, whole_file
from fairseq_plugins.opus100.subwords import load_model

CHUNK = 10_000  # lines encoded at once; bounds the memory of a worker
_MAGIC = b"MMIDIDX\x00\x00"


def token_dtype(rows: int) -> np.dtype:
    """The integer type fairseq stores a dictionary of this many rows in (``best_fitting_int_dtype``)."""
    return np.dtype(np.uint16 if rows < 65500 else np.uint32)


class MMapWriter:
    """Writes one ``.bin`` / ``.idx`` pair; both appear together at the end of the ``with`` block of ``open_shard``."""

    _CODES = {np.dtype(np.uint16): 8, np.dtype(np.uint32): 9}  # fairseq's numbers of the types

    def __init__(self, data: HashingWriter, dtype: np.dtype):
        self._data, self._dtype = data, dtype
        self._sizes: List[np.ndarray] = []

    def add(self, tokens: np.ndarray, sizes: np.ndarray) -> None:
        """Append sequences: ``tokens`` holds them one after the other, ``sizes`` their lengths."""
        self._data.write(tokens.astype(self._dtype).tobytes())
        self._sizes.append(sizes.astype(np.int32))

    def write_index(self, out: HashingWriter) -> None:
        """Write the lengths and byte offsets of everything added."""
        sizes = np.concatenate([np.zeros(0, np.int32), *self._sizes])
        ends = np.cumsum(sizes, dtype=np.int64) * self._dtype.itemsize
        out.write(_MAGIC + struct.pack("<QBQ", 1, self._CODES[self._dtype], len(sizes)))
        out.write(sizes.tobytes())
        out.write((ends - sizes.astype(np.int64) * self._dtype.itemsize).tobytes())


@contextlib.contextmanager
def open_shard(prefix: Path, dtype: np.dtype, hashes: Dict[str, str]) -> Iterator[MMapWriter]:
    """A writer for ``<prefix>.bin`` and ``<prefix>.idx``; adds their sha256 to ``hashes`` when done."""
    data_path, index_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    with whole_file(index_path) as index:
        with whole_file(data_path) as data:
            writer = MMapWriter(data, dtype)
            yield writer
        writer.write_index(index)
    hashes[data_path.name], hashes[index_path.name] = data.sha256, index.sha256


class Encoder:
    """Text -> rows of the fairseq dictionary."""

    def __init__(self, model: Path, rows: List[str]):
        self._model = load_model(model)
        row_of = {symbol: row for row, symbol in enumerate(rows)}
        pieces = [self._model.id_to_piece(i) for i in range(self._model.get_piece_size())]
        # A piece without a row of its own (one that reads like a special symbol) is unknown to the model. So are
        # SentencePiece's control pieces, although their names are in the dictionary.
        special = [self._model.is_control(i) or self._model.is_unknown(i) for i in range(len(pieces))]
        self._row_of_id = np.array(
            [UNK_ROW if special[i] else row_of.get(piece, UNK_ROW) for i, piece in enumerate(pieces)], dtype=np.int64
        )

    def encode(self, lines: List[str]) -> Tuple[np.ndarray, np.ndarray]:
        """All pieces one after the other as rows, without end-of-sentence, and the number of pieces per line."""
        ids = self._model.encode(lines, out_type=int, num_threads=1)
        sizes = np.fromiter((len(line) for line in ids), np.int64, len(ids))
        flat = np.fromiter((i for line in ids for i in line), np.int64, int(sizes.sum()))
        return self._row_of_id[flat], sizes


loaded: Dict[str, Any] = {}  # in a worker: encoder, number of rows and folder, made once


def load_encoder(folder: Any, vocabulary: Path) -> None:
    """Make this process ready for jobs of ``folder``, under SentencePiece model and dict.txt of ``vocabulary``."""
    rows = read_symbols(vocabulary / "dict.txt")
    loaded.update(folder=folder, rows=len(rows), encoder=Encoder(vocabulary / "sentencepiece.model", rows))


def with_eos(tokens: np.ndarray, sizes: np.ndarray, keep: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Append end-of-sentence to every sequence and leave out those where ``keep`` is False.

    Args:
        tokens: all sequences one after the other.
        sizes: length of each, same length as ``keep``.
    """
    longer = np.insert(tokens, np.cumsum(sizes), EOS_ROW)
    return longer[np.repeat(keep, sizes + 1)], (sizes + 1)[keep]


class SplitCount(NamedTuple):
    """What became of the lines of one split of one pair."""

    lines: int
    kept: int
    dropped_empty: int
    dropped_long: int


def binarise(
    encoder: Encoder,
    lines: Iterable[Tuple[str, ...]],
    prefixes: Tuple[Path, ...],
    dtype: np.dtype,
    hashes: Dict[str, str],
    longest: int = 0,
    on_chunk: Callable[[int], None] = lambda lines: None,
) -> SplitCount:
    """Encode a split into one shard for each of its sides: two of a pair, one of text in one language.

    Args:
        lines: raw lines, all sides of one line together.
        prefixes: where the shards go, without ``.bin``.
        hashes: gets file name -> sha256.
        longest: 0 keeps every line (dev and test); otherwise lines with a blank side, or with a side of more pieces
            than this, are left out.
        on_chunk: called with the number of lines just encoded.
    Raises:
        UserError: no line is left. fairseq cannot open an empty shard, so none is written.
    """
    read = empty = too_long = 0
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(open_shard(prefix, dtype, hashes)) for prefix in prefixes]
        for chunk in _chunks(lines):
            sides = [encoder.encode([line[side] for line in chunk]) for side in range(len(prefixes))]
            keep = np.ones(len(chunk), dtype=bool)
            if longest:
                blank = np.any([sizes == 0 for _, sizes in sides], axis=0)
                long = np.any([sizes > longest for _, sizes in sides], axis=0) & ~blank
                keep, empty, too_long = ~(blank | long), empty + int(blank.sum()), too_long + int(long.sum())
            for writer, (tokens, sizes) in zip(writers, sides, strict=True):
                writer.add(*with_eos(tokens, sizes, keep))
            read += len(chunk)
            on_chunk(len(chunk))
        if read == empty + too_long:
            raise UserError(_nothing_left([prefix.name for prefix in prefixes], empty, too_long, longest))
    return SplitCount(read, read - empty - too_long, empty, too_long)


def _nothing_left(names: List[str], empty: int, too_long: int, longest: int) -> str:
    if len(names) == 1:
        return (f"nothing is left of {names[0]}: {empty:,} lines are blank and {too_long:,} have more than {longest} "
                "pieces; give other text, or raise --max-length")
    return (f"nothing is left of {' and '.join(names)}: {empty:,} line pairs are blank and {too_long:,} have a side of "
            f"more than {longest} pieces; leave the pair out, or raise --max-length")


def _chunks(lines: Iterable[Tuple[str, ...]]) -> Iterator[List[Tuple[str, ...]]]:
    chunk: List[Tuple[str, ...]] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class PairJob(NamedTuple):
    """All a worker needs to binarise one pair; every path absolute."""

    name: str
    languages: Tuple[str, str]
    files: Dict[str, Tuple[Path, Path]]  # split -> both sides
    out: Path
    longest: int
    hold_out: int  # train pairs that become the dev set of a pair that has none
    seed: int


_OUT_SPLIT = {"train": "train", "dev": "valid", "test": "test"}  # fairseq's word for dev is valid


def binarise_pair(
    job: PairJob, encoder: Encoder, rows: int, on_chunk: Callable[[int], None] = lambda lines: None
) -> Dict[str, Any]:
    """Write every file of one pair.

    Returns:
        {"counts": {"train": {...}, "dev": {"lines": n}, ...}, "sha256": {file: hash}}, the record of a finished pair.
    """
    hashes: Dict[str, str] = {}
    counts: Dict[str, Dict[str, int]] = {}
    held, given_away = (hold_out(job) if job.hold_out else NOTHING_HELD_OUT), 0
    for split in _OUT_SPLIT:
        if split in job.files:
            pairs: Iterable[Tuple[str, str]] = read_pairs(job.files[split])
            if split == "train" and held.pairs:
                everything = list(pairs)
                pairs = list(held.others(everything))
                given_away = len(everything) - len(pairs)
        elif split == "dev" and held.pairs:
            pairs = held.pairs
        else:
            continue
        prefixes = tuple(job.out / f"{_OUT_SPLIT[split]}.{job.name}.{language}" for language in job.languages)
        longest = job.longest if split == "train" else 0
        count = binarise(encoder, pairs, prefixes, token_dtype(rows), hashes, longest, on_chunk)
        if split == "train":
            lines = {"lines": count.lines + given_away, **({"held_out": given_away} if given_away else {})}
            counts[split] = {**count._asdict(), **lines}
        else:
            counts[split] = {"lines": count.lines}
        if split != "train":
            _copy_raw(job, split, held.pairs, hashes)
    return {"counts": counts, "sha256": hashes}


def _copy_raw(job: PairJob, split: str, held: List[Tuple[str, str]], hashes: Dict[str, str]) -> None:
    """References stay raw text: byte copies, with a last ``\\n`` where it is missing."""
    for side, language in enumerate(job.languages):
        name = f"raw/{split}.{job.name}.{language}"
        with whole_file(job.out / name) as out:
            if split in job.files:
                last = b"\n"
                with open(job.files[split][side], "rb") as source:
                    while block := source.read(1 << 20):
                        out.write(block)
                        last = block[-1:]
                if last != b"\n":
                    out.write(b"\n")
            else:
                out.write("".join(pair[side] + "\n" for pair in held).encode())
        hashes[name] = out.sha256


class HeldOut(NamedTuple):
    """Train pairs set aside as a dev set, and the sentences that must therefore not be trained on."""

    pairs: List[Tuple[str, str]]
    first: Set[str]
    second: Set[str]

    def others(self, pairs: Iterable[Tuple[str, str]]) -> Iterator[Tuple[str, str]]:
        """The pairs that share no side, stripped, with a held-out pair."""
        return ((a, b) for a, b in pairs if a.strip() not in self.first and b.strip() not in self.second)


NOTHING_HELD_OUT = HeldOut([], set(), set())


def hold_out(job: PairJob) -> HeldOut:
    """Choose ``job.hold_out`` pairs of train, at most a tenth of it, without blank sides.

    Train loses every pair that shares a stripped side with them (``HeldOut.others``), the rule by which OPUS-100
    itself keeps train and test apart.

    Raises:
        UserError: too few lines to give some away.
    """
    pairs = [(a, b) for a, b in read_pairs(job.files["train"]) if a.strip() and b.strip()]
    take = min(job.hold_out, len(pairs) // 10)
    if not take:
        raise UserError(f"{job.name} has no dev set and too few train lines to hold one out; leave the pair out")
    chosen = np.sort(np.random.default_rng(job.seed).choice(len(pairs), take, replace=False))
    held = [pairs[i] for i in chosen]
    return HeldOut(held, {a.strip() for a, _ in held}, {b.strip() for _, b in held})

"""Translate sentences of many directions with one model: mixed batches, any engine, nothing dropped.

Tags come from the checkpoint's own configuration and the input is the binarised text that `fairseq-generate` reads, so
that with stock beam search both give the same hypotheses. What searches is an engine (`engines/`).
"""

import struct
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.chosen_model import ChosenModel, load_engine
from fairseq_plugins.opus100.codec import Codec, Source
from fairseq_plugins.opus100.engines import Engine, Search

FILE_SPLIT = {"test": "test", "dev": "valid"}  # our name -> prefix of the binarised files
Sentence = Tuple[str, int]  # direction and line, counted from 0


class Translated(NamedTuple):
    """One batch, translated."""

    sentences: List[Sentence]
    texts: List[str]
    truncated: List[bool]  # whether the source was longer than the model takes
    seconds: float


def read_lengths(data: Path, subset: str, direction: str) -> List[int]:
    """Source lengths of a direction in pieces, end included.

    Raises:
        UserError: the binarised file is missing or unreadable.
    """
    indexed = _indexed(data, subset, direction)  # a name keeps it alive: it unmaps its sizes when it goes
    return indexed.sizes.tolist()


def _indexed(data: Path, subset: str, direction: str) -> Any:
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    source, target = direction.split("-")
    path = data / f"{FILE_SPLIT[subset]}.{'-'.join(sorted((source, target)))}.{source}"
    try:
        indexed = MMapIndexedDataset(str(path))
        sizes, width = indexed.sizes.astype(np.int64), np.dtype(indexed._index.dtype).itemsize
        if (sizes < 1).any() or sizes.sum() * width != Path(f"{path}.bin").stat().st_size:
            raise ValueError
    except (OSError, AssertionError, ValueError, LookupError, struct.error):
        raise UserError(f"{path}.idx or its .bin is missing or unreadable; run prepare again") from None
    return indexed


class Translator:
    """An engine that gets text: tags on, cut where too long, tags off.

    Args:
        engine: loaded.
        codec: of its dictionary and tag scheme.
    """

    def __init__(self, engine: Engine, codec: Codec):
        self._engine, self._codec = engine, codec

    def translate(self, sources: Sequence[Source]) -> Tuple[List[str], List[bool]]:
        """One batch: a text for every source, and whether the source had to be cut."""
        tagged = [self._codec.tag(source, self._engine.longest) for source in sources]
        found = self._engine.search([source.rows for source in tagged], [source.prefix for source in tagged])
        return [self._codec.text(rows) for rows in found], [source.truncated for source in tagged]


class BinarisedSources:
    """The binarised sources of one subset of DATA, of a dictionary with so many rows."""

    def __init__(self, data: Path, subset: str, rows: int):
        self._data, self._subset, self._rows = data, subset, rows
        self._files: Dict[str, Any] = {}

    def read(self, sentence: Sentence) -> Source:
        """One line.

        Raises:
            UserError: it holds rows that the dictionary has not.
        """
        direction, line = sentence
        if direction not in self._files:
            self._files[direction] = _indexed(self._data, self._subset, direction)
        rows = self._files[direction][line].tolist()
        if max(rows) >= self._rows:
            raise UserError(f"{self._data}: the binarised source of {direction} holds row {max(rows)}, and dict.txt "
                            f"ends at {self._rows - 1}; run prepare again")
        return Source(direction, rows)


def fit_batches(decoder_size: int, on_cpu: bool) -> Tuple[int, int]:
    """Source pieces and sentences per batch, by default.

    The keys and values that beam search keeps grow with the decoder's layers x width, so larger decoders get smaller
    batches: the memory stays that of 6 layers of width 512 (docs/evaluation.md has the sum). Smaller decoders get no
    larger ones.
    """
    max_tokens, sentences = (2000, 64) if on_cpu else (16000, 512)
    share = 6 * 512 / max(decoder_size, 6 * 512)
    return max(1, int(max_tokens * share)), max(1, int(sentences * share))


def make_batches(lengths: Dict[Sentence, int], max_tokens: int, batch_size: int) -> List[List[Sentence]]:
    """Sentences of all directions, longest first, in batches of at most ``max_tokens`` padded pieces.

    A single sentence over ``max_tokens`` is a batch of its own: nothing is left out.
    """
    batches: List[List[Sentence]] = []
    longest = 0
    for sentence in sorted(lengths, key=lambda sentence: (-lengths[sentence], sentence)):
        full = batches and (len(batches[-1]) + 1) * longest > max_tokens or batches and len(batches[-1]) >= batch_size
        if full or not batches:
            batches.append([])
            longest = lengths[sentence]
        batches[-1].append(sentence)
    return batches


_translator: Optional[Translator] = None  # of this process
_sources: Optional[BinarisedSources] = None


def load_translator(devices: Any, model: ChosenModel, data: Path, subset: str, search: Search) -> None:
    """First thing in every process that translates: load the model once.

    On CPU a process computes with one thread: beam search multiplies small matrices, and threads that wait for each
    other are slower than one (measured: docs/fairseq_traps.md, "Threads").

    Args:
        devices: a queue from which every process takes its device.
        model: what to load.
        data: folder of prepare.
        subset: "test" or "dev".
        search: how to decode.
    """
    global _translator, _sources
    codec = Codec(data, model.facts.tag_scheme)
    _translator = Translator(load_engine(model, codec, data, search, devices.get()), codec)
    _sources = BinarisedSources(data, subset, len(codec.symbols))


def translate(batch: List[Sentence], report: Callable[[int], None]) -> Translated:
    """Translate one batch with this process's model."""
    assert _translator is not None and _sources is not None
    start = time.perf_counter()
    try:
        texts, truncated = _translator.translate([_sources.read(sentence) for sentence in batch])
    except RuntimeError as error:  # CTranslate2 has no other for a full GPU, and torch's is one
        if "out of memory" not in str(error):
            raise
        raise UserError(f"the GPU has no memory for a batch of {len(batch)} sentences; give --batch-size "
                        f"{max(1, len(batch) // 2)} (finished directions are kept)") from None
    report(len(batch))
    return Translated(batch, texts, truncated, time.perf_counter() - start)


def find_devices(cpu: bool) -> List[str]:
    """GPUs of this machine, or the CPU."""
    import torch

    return ["cpu"] if cpu or not torch.cuda.is_available() else [f"cuda:{i}" for i in range(torch.cuda.device_count())]

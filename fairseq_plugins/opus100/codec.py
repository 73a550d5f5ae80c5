"""Text <-> what a multilingual model reads and writes: rows of the dictionary with language tags."""

from functools import cached_property
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

from fairseq_plugins.data.symbols import EOS_ROW, PAD_ROW, SPECIALS, TAG_SCHEMES, UNK_ROW, language_tag
from fairseq_plugins.opus100.binarise import Encoder
from fairseq_plugins.opus100.files import read_symbols
from fairseq_plugins.opus100.subwords import load_model


class Source(NamedTuple):
    """One sentence to translate."""

    direction: str  # "en-de"
    rows: List[int]  # of its pieces and the end symbol


class Tagged(NamedTuple):
    """A sentence as a model gets it."""

    rows: List[int]  # tag, pieces, end
    prefix: Optional[int]  # first row of every hypothesis, where the target language is named there
    truncated: bool  # whether the source was longer than the model takes


class Codec:
    """Dictionary, SentencePiece model and tag scheme of one model.

    Args:
        folder: with dict.txt and sentencepiece.model.
        tag_scheme: name in ``TAG_SCHEMES``.
    """

    def __init__(self, folder: Path, tag_scheme: str):
        self.symbols = read_symbols(folder / "dict.txt")
        self._row_of = {symbol: row for row, symbol in enumerate(self.symbols)}
        self._model = folder / "sentencepiece.model"
        self._pieces = load_model(self._model)
        flags = TAG_SCHEMES[tag_scheme]
        self.names_source = flags[flags.index("--encoder-langtok") + 1] == "src"
        self.names_target_first = "--decoder-langtok" in flags

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._model, self.symbols)

    def encode(self, lines: Sequence[str]) -> List[List[int]]:
        """The rows of every line as ``prepare`` binarises it, each with the end symbol."""
        rows, sizes = self._encoder.encode(list(lines))
        ends = sizes.cumsum().tolist()
        starts = [0, *ends[:-1]]
        return [[*rows[start:end].tolist(), EOS_ROW] for start, end in zip(starts, ends, strict=True)]

    def tag(self, source: Source, longest: int) -> Tagged:
        """Add the tags of a direction; what is then longer than ``longest`` rows is cut, and its end symbol stays."""
        spoken, wanted = source.direction.split("-")
        limit, rows = longest - 1, source.rows
        cut = len(rows) > limit
        if cut:
            rows = [*rows[: limit - 1], rows[-1]]
        first = self._tag(spoken if self.names_source else wanted)
        return Tagged([first, *rows], self._tag(wanted) if self.names_target_first else None, cut)

    def _tag(self, language: str) -> int:
        return self._row_of.get(language_tag(language), UNK_ROW)

    def text(self, rows: Sequence[int]) -> str:
        """A hypothesis, without its prefix, as text."""
        pieces = [self.symbols[row] for row in rows if row not in (EOS_ROW, PAD_ROW)]
        if SPECIALS[UNK_ROW] in pieces:  # SentencePiece has its own mark for it; the stock commands print <unk>
            return "".join(pieces).replace("\u2581", " ").strip()
        return self._pieces.decode(pieces).strip()

"""The rows of the one dictionary that every task of this package shares.

Row order, fixed for ever (checkpoints depend on it):

1. fairseq's own four: ``<s> <pad> </s> <unk>`` (rows 0 to 3; not written in ``dict.txt``),
2. the SentencePiece pieces in the order of the model,
3. language tags ``__xx__`` sorted by code,
4. ``<mask>``, ``<pseudo_mask>``,
5. ``<sentinel_1>`` to ``<sentinel_100>``,
6. fillers ``madeupword0000``... up to a multiple of 8 rows.

Tasks look these symbols up and never append: a stock task that appends at load time would give one row two meanings.
"""

import itertools
import re
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple, Union

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BOS_ROW, PAD_ROW, EOS_ROW, UNK_ROW = range(4)
MASK = "<mask>"
PSEUDO_MASK = "<pseudo_mask>"
SENTINEL_COUNT = 100
ROW_MULTIPLE = 8  # matrix sides that tensor cores like; also what fairseq-preprocess pads to

# How the languages of a direction reach the model: name -> flags of the stock task translation_multi_simple_epoch.
TAG_SCHEMES: Dict[str, Tuple[str, ...]] = {
    "target": ("--encoder-langtok", "tgt"),
    "source+target": ("--encoder-langtok", "src", "--decoder-langtok"),
}

_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TAG = re.compile(rf"__{_LANGUAGE.pattern}__")
_COUNT = re.compile(r"-?\d+")
_FILLER = re.compile(r"madeupword\d{4,}")


def language_tag(language: str) -> str:
    """``de`` -> ``__de__``, fairseq's ``--lang-tok-style multilingual``.

    Raises:
        ValueError: the code holds a character that fairseq's comma and dash separated lists cannot carry.
    """
    if not _LANGUAGE.fullmatch(language):
        raise ValueError(f"language code {language!r}: use letters, digits and _ only, starting with a letter")
    return f"__{language}__"


def is_language_tag(symbol: str) -> bool:
    """Whether the symbol says what language a text is in."""
    return _TAG.fullmatch(symbol) is not None


def sentinel(number: int) -> str:
    """The ``number``-th sentinel, counted from 1 as in T5 and mT6.

    Raises:
        ValueError: not in 1 .. 100.
    """
    if not 1 <= number <= SENTINEL_COUNT:
        raise ValueError(f"sentinel {number} is outside 1..{SENTINEL_COUNT}")
    return f"<sentinel_{number}>"


def task_symbols(languages: Iterable[str]) -> List[str]:
    """Parts 3 to 5 of the dictionary for these languages, in order."""
    tags = [language_tag(language) for language in sorted(set(languages))]
    return tags + [MASK, PSEUDO_MASK] + [sentinel(number) for number in range(1, SENTINEL_COUNT + 1)]


def is_filler(symbol: str) -> bool:
    """Whether the row only pads the dictionary to a multiple of 8 and means nothing."""
    return _FILLER.fullmatch(symbol) is not None


def usable_pieces(pieces: Iterable[str], languages: Iterable[str]) -> List[str]:
    """The pieces that get a row: in order, without those that cannot be told from one of our symbols.

    A piece that holds white space is left out too: fairseq splits tokenised lines at any white space.
    """
    reserved = set(SPECIALS) | set(task_symbols(languages))
    return [
        piece
        for piece in pieces
        if piece not in reserved and not is_filler(piece) and not any(character.isspace() for character in piece)
    ]


def dictionary_rows(pieces: Sequence[str], languages: Iterable[str]) -> List[str]:
    """All symbols, row 0 first, fillers last.

    Args:
        pieces: SentencePiece's normal pieces in model order (control and unknown pieces left out).
        languages: language codes.
    Raises:
        ValueError: a piece occurs twice.
    """
    languages = list(languages)
    rows = list(SPECIALS) + usable_pieces(pieces, languages) + task_symbols(languages)
    if len(set(rows)) != len(rows):
        raise ValueError("a piece occurs twice in the SentencePiece model")
    return filled_up(rows)


def filled_up(rows: List[str]) -> List[str]:
    """`rows` and as many new fillers as make a multiple of 8."""
    numbers = (number for number in itertools.count() if f"madeupword{number:04d}" not in rows)
    return rows + [f"madeupword{number:04d}" for number in itertools.islice(numbers, -len(rows) % ROW_MULTIPLE)]


def dictionary_text(rows: Sequence[str]) -> str:
    """``dict.txt`` as fairseq reads it: one ``symbol count`` a line, rows 0 to 3 left out, fillers with count 0."""
    if tuple(rows[: len(SPECIALS)]) != SPECIALS:
        raise ValueError(f"the first rows must be {' '.join(SPECIALS)}")
    return "".join(f"{symbol} {0 if is_filler(symbol) else 1}\n" for symbol in rows[len(SPECIALS) :])


def read_dictionary(path: Union[str, Path]) -> List[str]:
    """All symbols of a fairseq ``dict.txt``, row 0 first; understands ``#fairseq:overwrite`` as fairseq does.

    Raises:
        OSError: cannot be read.
        ValueError: not UTF-8, a line without a count, or a symbol twice.
    """
    rows, seen = list(SPECIALS), set(SPECIALS)
    with open(path, encoding="utf-8") as lines:  # universal newlines, like fairseq's own reader
        for number, line in enumerate(lines, 1):
            fields = line.rstrip().rsplit(" ", 1)
            overwrite = len(fields) == 2 and fields[1] == "#fairseq:overwrite"
            if overwrite:
                fields = fields[0].rsplit(" ", 1)
            if len(fields) != 2 or not _COUNT.fullmatch(fields[1]):
                raise ValueError(f"{path} line {number}: expected 'symbol count'")
            if fields[0] in seen and not overwrite:
                raise ValueError(f"{path} line {number}: {fields[0]!r} has a row already")
            seen.add(fields[0])
            rows.append(fields[0])
    return rows

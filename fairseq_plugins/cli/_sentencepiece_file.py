"""What a SentencePiece model file says of itself: pieces, and how text is normalised before they are looked for.

The file is a message of Protocol Buffers; the numbers of its fields are those of the library's
sentencepiece_model.proto. The library tells pieces and scores, but neither algorithm nor normalisation.
"""

import struct
from typing import Iterator, List, NamedTuple, Tuple, Union

_UNIGRAM, _BPE = 1, 2  # kinds of models
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # kinds of pieces
# What must have one value: (field of the model, field in it) -> name, the default, that value
_FIXED = {
    (2, 24): ("treat_whitespace_as_suffix", 0, 0),
    (2, 35): ("byte_fallback", 0, 0),
    (3, 3): ("add_dummy_prefix", 1, 1),
    (3, 4): ("remove_extra_whitespaces", 1, 1),
    (3, 5): ("escape_whitespaces", 1, 1),
}


class SentencePieceFile(NamedTuple):
    """A model such as `prepare` trains, or XLM-R's."""

    bpe: bool  # else unigram
    pieces: List[Tuple[str, float]]  # of text, with their scores, in order
    charsmap: bytes  # the library's compiled table of replacements, empty without one


def read_sentencepiece(data: bytes) -> SentencePieceFile:
    """Read a model file.

    Raises:
        ValueError: it is none, or one with an option or a kind of pieces that is not known here.
    """
    pieces, options = [], {2: b"", 3: b""}  # of the trainer and of the normaliser
    try:
        for number, value in _fields(data):
            if number == 1:
                found = dict(_fields(value))
                kind = found.get(3, _NORMAL)
                if kind not in (_NORMAL, _UNKNOWN, _CONTROL):
                    raise ValueError(f"it has the piece {bytes(found[1]).decode()} of the unusual kind {kind}")
                if kind == _NORMAL:
                    pieces.append((bytes(found[1]).decode(), struct.unpack("<f", found.get(2, bytes(4)))[0]))
            elif number in options:
                options[number] = value
        read = {part: dict(_fields(value)) for part, value in options.items()}
    except (IndexError, KeyError, TypeError, struct.error):
        raise ValueError("it is no SentencePiece model") from None
    for (part, field), (name, default, wanted) in _FIXED.items():
        if read[part].get(field, default) != wanted:
            raise ValueError(f"it has the option {name}={read[part][field]}")
    kind = read[2].get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise ValueError("it is neither a BPE nor a unigram model")
    return SentencePieceFile(kind == _BPE, pieces, bytes(read[3].get(2, b"")))


def replaced_by_space(charsmap: bytes) -> str:
    """The characters that a table turns into a space, where it does nothing else; empty where it does.

    It is a double array of bytes (darts-clone's), 32 bits a unit, before the replacements, each of which ends in NUL.
    """
    size = struct.unpack_from("<I", charsmap)[0]
    if charsmap[4 + size :] != b" \0":
        return ""
    units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    found, open_nodes = [], [(_offset(units[0]), b"")]
    while open_nodes:
        node, prefix = open_nodes.pop()
        for byte in range(1, 256):
            unit = units[node ^ byte]
            if unit & 0x800000FF != byte:
                continue
            child, word = (node ^ byte) ^ _offset(unit), prefix + bytes([byte])
            if unit >> 8 & 1:
                found.append(word.decode())
            open_nodes.append((child, word))
    return "".join(sorted(found)) if all(len(word) == 1 for word in found) else ""


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)


def _fields(message: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """Numbers and values of a message's fields: whole numbers, or bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        if place + size > len(message):
            raise IndexError
        place += size
        yield number, message[place - size : place]

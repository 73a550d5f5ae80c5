"""Turn plain text into lines of pieces, which fairseq-preprocess --srcdict DATA/dict.txt binarises.

    encode --data DATA --inputs train.txt valid.txt --outputs train.pieces valid.pieces
    encode --data DATA < text > pieces

The rows are then those that prepare and mono make of the same text. A line is a line of the output, an empty one too,
so that labels beside it stay in step. What the SentencePiece model has no piece for is <unk>.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Iterable, Iterator, List

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.binarise import CHUNK, Encoder
from fairseq_plugins.opus100.corpus import read_lines
from fairseq_plugins.opus100.files import plain_os_errors, read_symbols, whole_file

_STANDARD = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``encode``; those of files are named as in fairseq's own spm_encode.py."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA", help="folder of prepare: dict.txt, sentencepiece.model")
    add("--inputs", type=Path, nargs="+", default=[_STANDARD], metavar="FILE",
        help="plain UTF-8 text, one sentence per line; - is standard input (the default)")  # fmt: skip
    add("--outputs", type=Path, nargs="+", default=[_STANDARD], metavar="FILE",
        help="as many; - is standard output (the default)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Encode every input into its output.

    Raises:
        UserError: another number of outputs, one that is an input or named twice, an input that is missing or not
            UTF-8, or DATA is no folder of prepare.
    """
    if len(args.inputs) != len(args.outputs):
        raise UserError(f"--inputs names {len(args.inputs)} files and --outputs {len(args.outputs)}; name as many")
    for name in ("dict.txt", "sentencepiece.model"):
        if not (args.data / name).is_file():
            raise UserError(f"--data {args.data} has no {name}; give a folder that prepare wrote")
    for path in args.inputs:
        if path != _STANDARD and not path.is_file():
            raise UserError(f"--inputs: {path} is not a file")
    taken = {path.resolve(): "is also one of --inputs" for path in args.inputs if path != _STANDARD}
    for path in args.outputs:
        if path != _STANDARD and path.resolve() in taken:
            raise UserError(f"--outputs: {path} {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = "is named twice"
    symbols = read_symbols(args.data / "dict.txt")
    encoder = Encoder(args.data / "sentencepiece.model", symbols)
    for source, target in zip(args.inputs, args.outputs, strict=True):
        lines = read_lines(Path("/dev/stdin") if source == _STANDARD else source)
        with plain_os_errors(target):
            if target == _STANDARD:
                for block in pieces_of(lines, encoder, symbols):
                    sys.stdout.buffer.write(block)
            else:
                with whole_file(target) as out:
                    for block in pieces_of(lines, encoder, symbols):
                        out.write(block)


def pieces_of(lines: Iterable[str], encoder: Encoder, symbols: List[str]) -> Iterator[bytes]:
    """The text of the output, many lines at a time."""
    lines = iter(lines)
    while chunk := list(itertools.islice(lines, CHUNK)):
        rows, sizes = encoder.encode(chunk)
        pieces, ends = [symbols[row] for row in rows.tolist()], sizes.cumsum().tolist()
        starts = [0, *ends[:-1]]
        yield "".join(" ".join(pieces[start:end]) + "\n" for start, end in zip(starts, ends, strict=True)).encode()

"""Translate standard input to standard output, line by line and in order, as the lines come.

    translate --tgt de --model served < in > out                                an export for CTranslate2
    translate --tgt de --model run/checkpoint_best.pt --data DATA < in > out    a checkpoint, with fairseq's search

What is there is translated as soon as the input pauses or a batch is full, and written at once: the verb can stand in a
pipe that stays open. An empty line stays empty. Lines longer than the model takes are cut, with a notice that counts.
"""

import argparse
import os
import select
import sys
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.chosen_model import ChosenModel, check_model, choose_model, load_engine
from fairseq_plugins.opus100.codec import Codec, Source
from fairseq_plugins.opus100.decoding import Translator, find_devices, fit_batches, make_batches
from fairseq_plugins.opus100.engines import Search, check_search_options
from fairseq_plugins.opus100.run_folder import read_manifest

PAUSE = 0.05  # seconds without another line after which what is there is translated
_BLOCK = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, between which languages, how."""
    add = parser.add_argument
    add("--tgt", required=True, metavar="LANG", help="language to translate into")
    add("--src", metavar="LANG", help="language of the input; needed where the model was trained with source tags")
    add("--model", required=True, type=Path, metavar="PATH",
        help="folder of export --to ctranslate2, or a checkpoint")  # fmt: skip
    add("--data", type=Path, metavar="DATA", help="folder of prepare; needed for a checkpoint")
    add("--beam", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--lenpen", type=float, default=1.0, metavar="A", help="length penalty (default: %(default)s)")
    add("--max-len", type=int, default=200, metavar="N", help="longest translation in pieces (default: %(default)s)")
    add("--batch-size", type=int, metavar="N",
        help="lines translated together at most (default: 64 on CPU, less for large decoders)")  # fmt: skip
    add("--threads", type=int, default=1, metavar="N", help="on CPU (default: %(default)s)")
    add("--cpu", action="store_true", help="do not use a GPU (the default where none is found)")


def run(args: argparse.Namespace) -> Optional[int]:
    """Load, then translate until the input ends.

    Raises:
        UserError: a model that is missing or damaged, an unknown language, or options that do not go together.
    """
    check_search_options(vars(args))
    if sys.stdin is None or sys.stdout is None:
        raise UserError("translate reads standard input and writes standard output: one of them is closed")
    model, languages, folder = _find(args)
    codec = Codec(folder, model.facts.tag_scheme)
    direction = _direction(args, languages, codec)
    device = find_devices(args.cpu)[0]
    search = Search(args.beam, args.lenpen, args.max_len, model.exported.quantization if model.exported else "fp32")
    engine = load_engine(model, codec, folder, search, device, args.threads)
    tokens, sentences = fit_batches(model.facts.decoder_size, device == "cpu")
    stream = _Stream(Translator(engine, codec), codec, direction, engine.longest, tokens, args.batch_size or sentences)
    try:
        for lines in arriving(sys.stdin.fileno(), stream.batch_size):
            write_all(sys.stdout.fileno(), "".join(f"{text}\n" for text in stream.translate(lines)).encode())
    except KeyboardInterrupt:  # the usual end of a service: nothing is lost that was written
        return 130
    return None


def _find(args: argparse.Namespace) -> Tuple[ChosenModel, List[str], Path]:
    """The model, the languages it knows, and the folder with its dictionary."""
    model = choose_model(args.model)
    if model.exported:
        return model, model.exported.languages, args.model
    if not args.data:
        raise UserError(f"--model {args.model} is a checkpoint: give --data DATA, the folder it was trained with, or a "
                        "folder of export --to ctranslate2")
    manifest = read_manifest(args.data)
    check_model(model, manifest, args.data)
    return model, manifest["languages"], args.data


def _direction(args: argparse.Namespace, languages: List[str], codec: Codec) -> str:
    for flag, language in (("--tgt", args.tgt), ("--src", args.src)):
        if language is not None and language not in languages:
            raise UserError(f"{flag} {language}: the model knows {', '.join(languages)}")
    if args.src is None and codec.names_source:
        raise UserError(f"give --src LANG: this model was trained with source tags; it knows {', '.join(languages)}")
    return f"{args.src or args.tgt}-{args.tgt}"  # without source tags the source is named nowhere


def write_all(descriptor: int, data: bytes) -> None:
    """Write at once: what stayed in a buffer would be tried, and fail, a second time when Python ends.

    Raises:
        UserError: it cannot be written.
        BrokenPipeError: who reads it has gone; the frame of all verbs knows what to do.
    """
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output cannot be written: {error.strerror}") from None


def arriving(descriptor: int, most: int) -> Iterator[List[bytes]]:
    """Lines as they arrive, without their ends: `most` at a time, or fewer as soon as the input pauses or ends."""
    lines: List[bytes] = []
    begun: List[bytes] = []  # blocks of a line whose end has not come
    while True:
        ready = select.select([descriptor], [], [], PAUSE if lines else None)[0]  # read alone may not wait
        if not ready:
            yield lines
            lines = []
            continue
        block = os.read(descriptor, _BLOCK)
        if not block:
            break
        first, *others = block.split(b"\n")
        begun.append(first)
        if others:
            lines += [b"".join(begun), *others[:-1]]
            begun = [others[-1]]
        while len(lines) >= most:
            yield lines[:most]
            lines = lines[most:]
    last = b"".join(begun)
    lines += [last] if last else []
    if lines:
        yield lines


class _Stream:
    """Translates groups of lines and counts what had to be changed."""

    def __init__(
        self, translator: Translator, codec: Codec, direction: str, longest: int, max_tokens: int, batch_size: int
    ):
        self._translator, self._codec, self._direction, self._longest = translator, codec, direction, longest
        self._max_tokens, self.batch_size = max_tokens, batch_size
        self._lines = self._cut = 0

    def translate(self, lines: List[bytes]) -> List[str]:
        """A text for every line."""
        words = [line.decode("utf-8", "replace") for line in lines]
        broken = [number for number, (line, text) in enumerate(zip(lines, words, strict=True)) if line != text.encode()]
        rows = self._codec.encode(words)
        texts, cut = [""] * len(lines), []
        lengths = {(self._direction, number): len(row) for number, row in enumerate(rows) if len(row) > 1}
        for batch in make_batches(lengths, self._max_tokens, self.batch_size):
            numbers = [number for _, number in batch]
            found, truncated = self._translator.translate([Source(self._direction, rows[n]) for n in numbers])
            for number, text, shorter in zip(numbers, found, truncated, strict=True):
                texts[number] = text
                cut += [number] if shorter else []
        self._cut += len(cut)
        self._notice(broken, "not UTF-8; what cannot be read was replaced")
        self._notice(cut, f"longer than the model's {self._longest} pieces and cut ({self._cut} so far)")
        self._lines += len(lines)
        return texts

    def _notice(self, numbers: List[int], what: str) -> None:
        if numbers:
            named = ", ".join(str(self._lines + number + 1) for number in sorted(numbers)[:5])
            more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
            print(f"notice: line {named}{more}: {what}", file=sys.stderr, flush=True)

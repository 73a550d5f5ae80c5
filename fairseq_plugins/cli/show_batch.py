"""Print one batch as a reader wants it: source, decoder input and target as symbols, groups, and who sees whom.

    show-batch -- DATA --task mt6_pretraining --max-tokens 2048
    show-batch --batch 3 --examples 2 --picture batch.svg -- DATA --task translation -s de -t en --max-tokens 1000

After `--` stand the words of fairseq-train, read by fairseq's own parser; the batch is the one that this training
would get as number --batch of the epoch. With --arch the model's limits of length count as well, as they do there; its
weights are not made. Works with the tasks of this package and with translation, translation_multi_simple_epoch,
masked_lm, multilingual_masked_lm and language_modeling; other tasks need a method `describe_batch`.
"""

import argparse
import shutil
import sys
from pathlib import Path

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import plain_os_errors, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which batch, how much of it, and where to draw it."""
    add = parser.add_argument
    add("--split", metavar="NAME", help="data set (default: the one that is trained on)")
    add("--epoch", type=int, default=1, metavar="N", help="from 1 (default: %(default)s)")
    add("--batch", type=int, default=1, metavar="N", help="place in the epoch, from 1 (default: %(default)s)")
    add("--examples", type=int, default=4, metavar="N", help="how many of the batch to print (default: %(default)s)")
    add("--width", type=int, metavar="COLUMNS", help="of the text (default: the terminal's)")
    add("--picture", type=Path, metavar="FILE", help="also draw them, as SVG")
    add("words", nargs="*", metavar="-- FAIRSEQ ARGUMENTS", help="what fairseq-train would be told")


def run(args: argparse.Namespace) -> None:
    """Make the batch, print it, draw it.

    Raises:
        UserError: words that fairseq-train refuses, data that are missing, a batch that there is not, or a task whose
            batches nobody can read.
    """
    for flag in ("epoch", "batch", "examples"):
        if vars(args)[flag] < 1:
            raise UserError(f"--{flag} {vars(args)[flag]} must be at least 1")
    if args.width is not None and not 40 <= args.width <= 10_000:
        raise UserError(f"--width {args.width} must be at least 40 and at most 10,000")
    if not args.words:
        raise UserError("give the words of fairseq-train after --, for example: show-batch -- DATA --task translation")
    from fairseq_plugins.cli._batch_picture import picture
    from fairseq_plugins.cli._batch_reader import read_batch
    from fairseq_plugins.cli._batch_text import text

    batch = read_batch(args.words, args.split, args.epoch, args.batch)
    shown = batch._replace(examples=batch.examples[: args.examples])
    encoding = (sys.stdout.encoding or "ascii").lower()
    print(text(shown, args.width or shutil.get_terminal_size().columns, blocks=encoding.startswith("utf")))
    if args.picture is not None:
        with plain_os_errors(args.picture):
            write_whole(args.picture, picture(shown).encode())
        print(f"{args.picture} written")

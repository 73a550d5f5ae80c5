"""One command with several verbs: the frame shared by ``python -m fairseq_plugins`` and ``... .opus100``.

A verb is a module ``<package>/<verb>.py`` (dashes become underscores) with a docstring, ``add_arguments(parser)`` and
``run(args) -> Optional[int]``. Only the chosen verb's module is imported, so ``--help`` needs no torch.
"""

import argparse
import errno
import importlib
import io
import math
import os
import sys
from pathlib import Path
from typing import Dict, List, NoReturn, Optional

LARGEST = 2**31 - 1  # of whole numbers: SentencePiece and CTranslate2 hold them in 32 bits
_LONGEST = 2000  # characters of an error's sentence; a file may hold a name of any length


class UserError(Exception):
    """Bad input. The message is one sentence that names the flag or file and says what to do."""


def check_at_least(args: argparse.Namespace, **lowest: float) -> None:
    """See that each named option is at least so much; None, where another place chooses, is well.

    Raises:
        UserError: one is less, named by its flag.
    """
    for name, low in lowest.items():
        value = vars(args)[name]
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {low}")


class Parser(argparse.ArgumentParser):
    """argparse with types that refuse what no verb means, and with one sentence instead of the whole usage."""

    def __init__(self, **options: object):
        super().__init__(**options)
        for kind, convert in ((int, whole_number), (float, _finite_number), (Path, _path)):
            self.register("type", kind, convert)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]
        """As argparse does, but for `--flag=--`, of which older versions make an empty list."""
        for word in args or ():
            if word == "--":
                break
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: -- is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{one_line(f'error: {message}')}; {self.prog} --help says more\n")


def whole_number(text: str) -> int:
    """A whole number in words; a type of an option.

    Raises:
        argparse.ArgumentTypeError: it is none, or one that would not fit.
    """
    try:
        number = int(text)
    except ValueError:  # also of thousands of digits
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no whole number") from None
    if abs(number) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:50]} is beyond {LARGEST}")
    return number


def _finite_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no finite number")
    return number


def _path(text: str) -> Path:
    """A path that the system can look up, whether there is something or not."""
    if not text:  # Path("") would be the current directory
        raise argparse.ArgumentTypeError("the path is empty; give the name of a file or folder")
    try:
        os.stat(text)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{text[:50]}: {error.strerror}") from None
    return Path(text)


def one_line(message: str) -> str:
    """A message with what would break its line, or a terminal, written as an escape, and of a length one can read."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST // 2]} [...] {shown[-_LONGEST // 2 :]}"


def run_verbs(
    prog: str, description: str, package: str, verbs: Dict[str, str], argv: Optional[List[str]] = None
) -> int:
    """Run the verb that ``argv`` names and return the exit status.

    Args:
        prog: what the user typed before the verb, for the usage line.
        description: shown by ``prog --help``.
        package: the Python package that holds one module per verb.
        verbs: name -> one-line help, in the order to show.
        argv: the words after ``prog``; ``sys.argv[1:]`` if None.
    Returns:
        0 or the verb's own status; 2 for a ``UserError``, what the system refuses or a missing Python package; 130 when
        interrupted.
    Raises:
        SystemExit: from argparse, for ``--help`` (0) and for words it cannot parse (2).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few letters shows the others as numbers
        sys.stdout.reconfigure(errors="backslashreplace")
    for word in argv:
        if "\0" in word or word.encode("utf-8", "ignore").decode() != word:
            return _fail(f"error: {word[:50]!r} holds a NUL or bytes that are not UTF-8; write it otherwise", 2)
    if not argv or argv[0] not in verbs:
        _explain(prog, description, verbs, argv)
    verb = argv[0]
    try:
        module = importlib.import_module(f"{package}.{verb.replace('-', '_')}")
        parser = Parser(
            prog=f"{prog} {verb}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(parser)
        status = module.run(parser.parse_args(argv[1:])) or 0
        sys.stdout.flush()  # while a closed pipe can still be handled below
        return status
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == package.partition(".")[0]:
            raise  # a defect of this package, not of the installation
        return _fail(f"error: the Python package '{error.name}' is missing; run: python -m fairseq_plugins doctor", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to go on", 130)
    except BrokenPipeError:  # `... | head` closed our stdout; without this Python complains again while exiting
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a right, a disk, a name: never a defect of ours
        return _fail(f"error: {error.filename or verb}: {error.strerror or error}", 2)


def _explain(prog: str, description: str, verbs: Dict[str, str], argv: List[str]) -> None:
    """Print the list of verbs, or what is wrong with ``argv``; always raises SystemExit."""
    parser = Parser(prog=prog, description=description)
    commands = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, help_line in verbs.items():
        commands.add_parser(name, help=help_line, add_help=False)
    parser.parse_args(argv)
    parser.error("give the verb before any option")


def _fail(message: str, status: int) -> int:
    print(one_line(message), file=sys.stderr)
    return status

"""One command with several verbs: the frame shared by ``python -m fairseq_plugins`` and ``... .opus100``.

A verb is a module ``<package>/<verb>.py`` (dashes become underscores) with a docstring, ``add_arguments(parser)`` and
``run(args) -> Optional[int]``. Only the chosen verb's module is imported, so ``--help`` needs no torch.
"""

import argparse
import importlib
import os
import sys
from typing import Dict, List, Optional


class UserError(Exception):
    """Bad input. The message is one sentence that names the flag or file and says what to do."""


def check_at_least(args: argparse.Namespace, **lowest: int) -> None:
    """See that each named option is at least so much.

    Raises:
        UserError: one is less, named by its flag.
    """
    for name, low in lowest.items():
        if vars(args)[name] < low:
            raise UserError(f"--{name.replace('_', '-')} {vars(args)[name]} must be at least {low}")


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
        0 or the verb's own status; 2 for a ``UserError`` or a missing Python package; 130 when interrupted.
    Raises:
        SystemExit: from argparse, for ``--help`` (0) and for words it cannot parse (2).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] not in verbs:
        _explain(prog, description, verbs, argv)
    verb = argv[0]
    try:
        module = importlib.import_module(f"{package}.{verb.replace('-', '_')}")
        parser = argparse.ArgumentParser(
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


def _explain(prog: str, description: str, verbs: Dict[str, str], argv: List[str]) -> None:
    """Print the list of verbs, or what is wrong with ``argv``; always raises SystemExit."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    commands = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, help_line in verbs.items():
        commands.add_parser(name, help=help_line, add_help=False)
    parser.parse_args(argv)
    parser.error("give the verb before any option")


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status

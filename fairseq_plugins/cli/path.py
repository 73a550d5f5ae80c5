"""Print the directory to give to --user-dir: fairseq-train DATA --user-dir "$(python -m fairseq_plugins path)" ..."""

import argparse
from pathlib import Path

import fairseq_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> None:
    """Print the directory of the package that this Python imports."""
    print(Path(fairseq_plugins.__file__).parent)

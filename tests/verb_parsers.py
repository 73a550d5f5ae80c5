"""Command lines of documents and scripts, parsed by the verbs they call; nothing is run."""

import argparse
import importlib
import re
import shlex
from typing import List, Sequence

PACKAGES = {"fairseq_plugins": "fairseq_plugins.cli", "fairseq_plugins.opus100": "fairseq_plugins.opus100"}


def parse_verb(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a call.

    Args:
        words: what follows ``python``: ``-m fairseq_plugins[.opus100] VERB ...``.
    Raises:
        AssertionError: the verb does not exist or does not take these words.
    """
    assert words[0] == "-m" and words[1] in PACKAGES, f"not a call of this package: {shlex.join(words)}"
    verbs = importlib.import_module(f"{words[1]}.__main__").VERBS
    assert words[2] in verbs, f"{words[1]} has no verb {words[2]}"
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    module = importlib.import_module(f"{PACKAGES[words[1]]}.{words[2].replace('-', '_')}")
    module.add_arguments(parser)
    try:
        return parser.parse_args(list(words[3:]))
    except (SystemExit, argparse.ArgumentError) as error:
        raise AssertionError(f"{shlex.join(words)}: {error}") from None


def calls_in(markdown: str) -> List[List[str]]:
    """The words after ``python`` of every call of this package in the code blocks of a document."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", markdown, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python -m fairseq_plugins")]

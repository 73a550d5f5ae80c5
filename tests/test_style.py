"""Style and types, as `make check` runs them."""

import importlib.util
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY


@pytest.mark.parametrize(
    "words", [["ruff", "check", "fairseq_plugins", "tests", "setup.py"], ["mypy"]], ids=["ruff", "mypy"]
)
def test_clean(words):
    if importlib.util.find_spec(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

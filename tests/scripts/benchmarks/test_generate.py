import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.helpers import REPOSITORY

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


@pytest.mark.slow
def test_the_whole_benchmark_in_a_small_size():
    words = [sys.executable, str(BENCHMARKS / "generate.py"), "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    row = done.stdout.strip().splitlines()[-1]
    assert row.startswith("| 1 + 1, 16 | 50 | 3 x 5 | 5 |") and row.count("(") == 3


def test_another_hypothesis_is_noticed(module):
    found = {"stock": [[[5, 2], [6, 2]]], "ours": [[[5, 2], [7, 2]]]}
    workers = {
        name: SimpleNamespace(ask=lambda what, *_, name=name: found[name] if what == "hypotheses" else None)
        for name in found
    }
    with pytest.raises(ValueError, match="1 of 1 sentences"):
        module("generate").check(workers)

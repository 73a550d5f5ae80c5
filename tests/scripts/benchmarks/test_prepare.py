import subprocess
import sys

from tests.helpers import REPOSITORY
from tests.opus100.corpora import write_corpus

BENCHMARK = REPOSITORY / "scripts" / "benchmarks" / "prepare.py"


def test_a_small_table(tmp_path):
    write_corpus(tmp_path / "corpus")
    words = [str(tmp_path / "corpus"), "--vocab-size", "150", "--lines", "60", "120", "--rounds", "1"]
    words += ["--out", str(tmp_path / "table.md")]
    done = subprocess.run([sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text() == done.stdout
    assert "| 60 |" in done.stdout and "| 120 |" in done.stdout and "on 64 cores" in done.stdout


def test_a_line_through_costs(module):
    benchmark = module("prepare")
    costs = [benchmark.Cost(lines, 0, 2.0, 100 + 3 * lines) for lines in (10, 20, 40)]
    start, slope = benchmark.line_through(costs, "peak")
    assert abs(start - 100) < 1e-6 and abs(slope - 3) < 1e-6

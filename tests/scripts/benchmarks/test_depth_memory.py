import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmarks" / "depth_memory.py"


def run(*words):
    words = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_whole_benchmark_in_a_small_size(tmp_path):
    out = tmp_path / "results.md"
    done = run("--depths", 24, "--shape", "16-32-2", "--tokens", 2048, "--symbols", 40, "--rounds", 1, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = [line for line in out.read_text().splitlines() if line.startswith("| 24 ")]
    layers, parameters, held, kept, _, recomputed, _ = (cell.strip() for cell in row.strip("| ").split(" | "))
    attention, norms = 4 * (16 * 16 + 16), 2 * 16
    feed_forward = 2 * 16 * 32 + 16 + 32
    encoder, decoder = attention + feed_forward + 2 * norms, 2 * attention + feed_forward + 3 * norms
    assert int(parameters.replace(",", "")) == 40 * 16 + 12 * (encoder + decoder)
    assert int(held) == round(16 * int(parameters.replace(",", "")) / 2**20)  # float32: weight, gradient, two moments
    # a layer of the encoder keeps at least the inputs of its six matrix products and the ReLU's mask
    assert int(kept) > 24 * 2048 * 16 * 4 * 6 / 2**20
    assert int(recomputed) < int(kept) / 2
    assert len(re.findall(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", row)) == 2


def test_odd_depths_are_refused():
    done = run("--depths", 7)
    assert done.returncode == 2 and "--depths must be even numbers" in done.stderr


@pytest.mark.slow
def test_growth_is_measured_with_both_losses():
    words = [sys.executable, str(SCRIPT.with_name("cost_growth.py")), "--quick"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    row = done.stdout.strip().splitlines()[-1]
    assert row.startswith("| 2 | 50 | 8 | 5,312 |") and len(re.findall(r"\d \(\d", row)) == 2

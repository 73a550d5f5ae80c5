import re
import subprocess
import sys

import pytest
import torch

from tests.helpers import REPOSITORY

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def benchmark(module):
    return module("moe_feed_forward"), module("_moe_variants")


def test_assignment_has_the_load_it_is_asked_for(benchmark):
    _, variants = benchmark
    for top_k, load in ((1, 1.0), (1, 1.5), (2, 1.5)):
        case = variants.Case(tokens=400, experts=8, top_k=top_k, load=load)
        expert_NK = variants.assignment(case)
        assert expert_NK.shape == (400, top_k)
        assert top_k == 1 or bool((expert_NK[:, 0] != expert_NK[:, 1]).all())
        counts = torch.bincount(expert_NK.reshape(-1), minlength=8)
        assert abs(float(counts.max() / counts.float().mean()) - load) < 0.02


def test_room_goes_to_first_choices_of_early_tokens(benchmark):
    _, variants = benchmark
    expert_NK = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 2]])  # 8 choices, 3 experts: room for 3 each
    kept_NK = variants.kept(expert_NK, variants.Case(tokens=4, experts=3, top_k=2))
    assert kept_NK.tolist() == [[True, True], [True, True], [True, False], [True, True]]
    assert bool(variants.kept(expert_NK, variants.Case(4, 3, 2, capacity_factor=0.0)).all())


def test_compare_refuses_what_differs(benchmark):
    script, _ = benchmark
    right = {"output": torch.tensor([1.0, 2.0])}
    script.compare("ours", {"output": torch.tensor([1.0, 2.00001])}, right)
    for wrong in ({"output": torch.tensor([1.0, 2.1])}, {"output": torch.tensor([1.0, float("nan")])}, {}):
        with pytest.raises(ValueError, match="ours"):
            script.compare("ours", wrong, right)


def test_the_whole_benchmark_in_a_tiny_size(tmp_path):
    out = tmp_path / "results.md"
    words = [sys.executable, str(BENCHMARKS / "moe_feed_forward.py"), "--quick", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = out.read_text().splitlines()
    cases = [line for line in lines if re.match(r"\| 64 \| 1 \| 4 \|", line)]
    assert [cell.split("|")[5].strip() for cell in cases] == ["17.2 %"]
    assert all(re.search(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", line) for line in cases)
    assert sum(line.startswith(("| training", "| evaluation")) for line in lines) == 4  # dense and ours, each

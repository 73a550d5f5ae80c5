import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.helpers import REPOSITORY
from tests.opus100.road import verb, write_parallel_corpus

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's module, which is in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import train_step
    finally:
        sys.path.remove(str(BENCHMARKS))
    return train_step


def test_the_whole_benchmark_in_a_small_size(tmp_path):
    write_parallel_corpus(tmp_path / "corpus")
    words = ["--corpus", tmp_path / "corpus", "--out", tmp_path / "data", "--vocab-size", 200, "--workers", 1]
    assert verb("prepare", *words) == 0
    words = [sys.executable, BENCHMARKS / "train_step.py", tmp_path / "data", "--quick", "--only", "small", "memory"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    variants = [row[2] for row in rows if row[0].startswith("no dropout")]
    assert variants == ["stock", "ours", "bound: ours, were its matrix products all"]
    memory = {row[0]: row for row in rows if row[0] in ("stock", "chunked")}
    assert memory["stock"][3] == memory["chunked"][3], "the same loss"


def test_another_loss_is_noticed(benchmark):
    losses = {"stock": [3.0, 2.0], "ours": [3.0, 2.01]}
    workers = {
        name: SimpleNamespace(ask=lambda what, *_, name=name: losses[name] if what == "take_losses" else None)
        for name in losses
    }
    with pytest.raises(ValueError, match="ours: the loss of update 1 is 2.01, stock's is 2.0"):
        benchmark.check(workers)


def test_mixed_batches_hold_every_sentence_once():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import _training
    finally:
        sys.path.remove(str(BENCHMARKS))

    class Sentences(list):
        def num_tokens(self, index):
            return self[index]

        def collater(self, chosen):
            return chosen

    sentences = Sentences([3, 9, 4, 4, 1, 7, 5, 2, 8, 6])
    batches = [*_training.mixed(sentences, 20)]
    assert all(len(batch) * max(batch) <= 20 for batch in batches)
    assert len(sum(batches, [])) > 5 and len(batches) > 1

import subprocess
import sys

import torch

from tests.helpers import REPOSITORY
from tests.tasks.pretraining import write_data

BENCHMARK = REPOSITORY / "scripts" / "benchmarks" / "pretraining_data.py"


def test_a_small_table(tmp_path):
    data = str(write_data(tmp_path / "data"))
    words = [sys.executable, str(BENCHMARK), data, "--mono-data", data, "--rounds", "1", "--only", "sc,tsc"]
    done = subprocess.run([*words, "--out", str(tmp_path / "table.md")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert table == done.stdout and "--out" not in table
    row = table.strip().splitlines()[-1]
    assert row.startswith("| sc,tsc |") and row.count("(") == 3


def test_another_batch_is_noticed(module):
    same = module("pretraining_data")._same
    batch = {"id": torch.tensor([1, 2]), "parts": {"text": ["de"]}}
    assert same(batch, {"id": torch.tensor([1, 2]), "parts": {"text": ["de"]}})
    assert not same(batch, {"id": torch.tensor([1, 3]), "parts": {"text": ["de"]}})
    assert not same(batch, {"id": torch.tensor([1, 2]), "parts": {"text": ["en"]}})

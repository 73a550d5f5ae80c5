import re
import subprocess
import sys

import numpy as np
import pytest
from fairseq.data import data_utils

from fairseq_plugins.opus100.release import TRAIN_LINES
from fairseq_plugins.opus100.run_folder import read_manifest
from fairseq_plugins.opus100.training_command import has_split, read_pairs
from tests.helpers import REPOSITORY

BENCHMARK = REPOSITORY / "scripts" / "benchmarks" / "many_directions.py"
LOG = [
    "2026-12-01 01:25:03 | INFO | fairseq.data.multilingual.x | estimated total data sizes of all shards used in ...",
    "2026-12-01 01:25:46 | INFO | fairseq.tasks.x | [train] per epoch batch_sampler set-up time: 0:00:32.807769",
    '2026-12-01 01:26:01 | INFO | train_inner | {"epoch": 1, "loss": "16.7", "num_updates": "3", "lr": "1e-07"}',
    '2026-12-01 01:26:02 | INFO | fairseq_cli.train | begin validation on "valid" subset',
    '2026-12-01 01:26:09 | INFO | valid | {"epoch": 1, "valid_loss": "16.6", "valid_num_updates": "3"}',
    '2026-12-01 01:26:10 | INFO | train | {"epoch": 1, "train_loss": "16.7", "train_num_updates": "3"}',
]


def measured(*words):
    done = subprocess.run([sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    measured(str(folder), "--generate", "--share", "0.00002", "--dev-share", "0.001", "--pieces", "300")
    return folder


def test_the_generated_corpus_is_as_prepare_writes_one(data, module):
    directions = read_pairs(data)
    assert len(directions) == 188 and all(has_split(data, "valid", direction) for direction in directions)
    kept = {name: pair["train"]["kept"] for name, pair in read_manifest(data)["pairs"].items()}
    assert kept["de-en"] == 20 and kept["en-tk"] == 1 and len(kept) == len(TRAIN_LINES)
    sides = [data_utils.load_indexed_dataset(str(data / f"train.de-en.{side}"), None, "mmap") for side in ("de", "en")]
    rows = read_manifest(data)["vocabulary"]["rows"]
    for side in sides:
        assert len(side) == 20 and all(row[-1] == 2 and 3 < row[:-1].min() and row.max() < rows for row in side)
    one, other = module("_generated_corpus").sentence_sizes(np.random.default_rng(1), 100_000)
    assert 23 < one.mean() < 27 and one.max() == other.max() == 257 and np.corrcoef(one, other)[0, 1] > 0.8


def test_a_small_table(data, tmp_path):
    out = tmp_path / "table.md"
    words = [str(data), "--loaders", "1", "--rounds", "1", "--out", str(out), "--cold"]
    printed = measured(*words, "--fairseq", "--max-tokens", "512", "--max-source-positions", "258")
    assert out.read_text() == printed and "--out" not in printed and "188 directions" in printed
    ours, stock = [[cell.strip() for cell in row.split("|")[1:-1]] for row in printed.strip().splitlines()[-2:]]
    assert ours[0] == "ours, 1" and stock[0] == "stock, 1" and len(ours) == len(stock) == 11
    assert int(ours[-1].replace(",", "")) < int(stock[-1].replace(",", "")), "each file is opened once, not twice"
    assert all(re.match(r"[\d.]+ \([\d.]+-[\d.]+\)$", cell) for cell in (*ours[1:6], *stock[1:6]))


def test_events_of_a_log(module):
    names = [module("many_directions").mark(line) for line in LOG]
    assert names == ["loaded", "batches", "update 3", "validates", "validated", None]


def test_the_stock_command_differs_in_what_loads_data(data, tmp_path, module):
    benchmark = module("many_directions")
    ours = benchmark.training(data, "ours", 0, [], tmp_path)
    stock = benchmark.training(data, "stock", 0, [], tmp_path)
    gone = {"translation_multi_validated", "--fixed-dictionary", str(data / "dict.txt"), "--valid-lines"}
    assert set(ours) - set(stock) == gone and set(stock) - set(ours) == {"translation_multi_simple_epoch"}

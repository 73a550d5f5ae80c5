"""Data sets of many directions: the stock task's examples and batches, files opened once, lengths kept once."""

import numpy as np
import pytest
import torch
from fairseq import options, tasks
from fairseq.data.multilingual import sampled_multi_dataset

import fairseq_plugins
from fairseq_plugins.data import sampled_directions
from fairseq_plugins.opus100.run_folder import quiet_engine
from tests.opus100.corpora import write_corpus
from tests.opus100.road import verb

SAMPLING = {"temperature": ["--sampling-method", "temperature", "--sampling-temperature", "5"],
            "concat": ["--sampling-method", "concat"]}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("directions")
    write_corpus(folder / "corpus")
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 150, "--workers", 1]
    assert verb("prepare", *words, "--tags", "source+target") == 0
    return folder / "data"


def made_task(data, name, *words, longest=99):
    command = [str(data), "--task", name, "--arch", "transformer", *words]
    command += ["--max-source-positions", str(longest), "--max-target-positions", str(longest)]
    command += ["--lang-pairs", str(data / "lang_pairs.txt"), "--encoder-langtok", "src", "--decoder-langtok"]
    command += ["--lang-dict", str(data / "languages.txt"), "--fixed-dictionary", str(data / "dict.txt")]
    with quiet_engine():
        fairseq_plugins.register()
        task = tasks.setup_task(options.parse_args_and_arch(options.get_training_parser(), command))
        task.load_dataset("train")
    return task


def batches(task, longest):
    with quiet_engine():
        iterator = task.get_batch_iterator(
            task.dataset("train"), max_tokens=120, max_positions=(longest, longest), ignore_invalid_inputs=True,
            required_batch_size_multiple=8, seed=3,
        )  # fmt: skip
        return [list(iterator.next_epoch_itr()) for _ in range(2)]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("longest", [99, 12], ids=["all fit", "some too long"])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_batches_are_those_of_the_stock_task(data, sampling, longest):
    ours = made_task(data, "translation_multi_validated", *SAMPLING[sampling], longest=longest)
    stock = made_task(data, "translation_multi_simple_epoch", *SAMPLING[sampling], longest=longest)
    assert type(ours.dataset("train")) is sampled_directions.SampledMultiDataset
    assert type(stock.dataset("train")) is sampled_multi_dataset.SampledMultiDataset
    for epoch, (one, other) in enumerate(zip(batches(ours, longest), batches(stock, longest), strict=True)):
        assert len(one) == len(other) > 5
        assert all(same(a, b) for a, b in zip(one, other, strict=True)), epoch


def test_some_sentences_of_the_test_above_are_too_long(data):
    dataset = made_task(data, "translation_multi_validated", longest=12).dataset("train")
    indices = np.arange(len(dataset))
    kept, left_out = dataset.filter_indices_by_size(indices, (12, 12))
    assert len(kept) and len(left_out) and len(kept) + len(left_out) == len(indices)
    same_indices, none = dataset.filter_indices_by_size(indices, (99, None))
    assert same_indices is indices and none == []


def test_both_directions_read_the_same_files(data):
    def opened(task):
        sides = [side for pairs in task.dataset("train").datasets for side in (pairs.src, pairs.tgt)]
        return {id(side.dataset) for side in sides}, len(sides)

    files, sides = opened(made_task(data, "translation_multi_validated"))
    assert len(files) == sides / 2
    files, sides = opened(made_task(data, "translation_multi_simple_epoch"))
    assert len(files) == sides


def test_what_no_data_set_uses_is_opened_anew():
    class Shard:
        pass

    opened = []
    load = sampled_directions.opened_once(lambda path, *_: opened.append(path) or Shard())
    one, other = load("a", None, "mmap"), load("a", None, "mmap")
    assert one is other and load("b", None, "mmap") is not one and opened == ["a", "b"]
    del one, other
    load("a", None, "mmap")
    assert opened[-1] == "a"


def test_lengths_are_kept_once(data):
    for pairs in made_task(data, "translation_multi_validated").dataset("train").datasets:
        for side, sizes in ((pairs.src, pairs.src_sizes), (pairs.tgt, pairs.tgt_sizes)):
            assert side.sizes is sizes and np.shares_memory(sizes, pairs.sizes)
            assert sizes[2] == len(side[2])

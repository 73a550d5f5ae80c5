"""Batches of several objectives: shares, exact repetition, nothing lost in validation, padding."""

import numpy as np
import pytest
import torch

from fairseq_plugins.data.objective_dataset import ObjectiveDataset
from fairseq_plugins.data.pretraining_objectives import OBJECTIVES, PADDING_GROUP
from fairseq_plugins.data.span_corruption import SpanNoise

from .span_texts import symbols, text

HALF = SpanNoise(0.5, 3)


def sentences(count, seed):
    draw = np.random.default_rng(seed)
    return [draw.integers(4, 30, draw.integers(3, 20)).tolist() for _ in range(count)]


def dataset(training=True, seed=1, names=("sc", "tsc"), groups=3):
    objectives = [OBJECTIVES[name](symbols(), HALF, groups) for name in names]
    mono = [text(de=sentences(50, 1)), text(en=sentences(200, 2))]
    pairs = [text(de=sentences(60, 3), en=sentences(60, 4))]
    texts = [mono if name == "sc" else pairs for name in names]
    return ObjectiveDataset(objectives, texts, seed=seed, training=training)


def batches(of, tokens=120):
    return of.batch_by_size(of.ordered_indices(), max_tokens=tokens)


def content(of, epoch, tokens=120):
    """Everything in the batches of an epoch, as one list."""
    of.set_epoch(epoch)
    made = []
    for batch in batches(of, tokens):
        for name, part in of.collater([of[index] for index in batch])["objectives"].items():
            made.append((name, part["net_input"]["src_tokens"].tolist(), part["target"].tolist()))
    return made


def test_an_example_depends_on_seed_epoch_and_index_alone():
    first, again = dataset(), dataset()
    assert content(first, 3) == content(again, 3)
    first.set_epoch(5)
    assert content(first, 3) == content(again, 3), "another epoch in between changed it"
    assert content(first, 4) != content(again, 3)
    assert content(dataset(seed=2), 3) != content(again, 3)
    one = again[7]["example"].source.tolist()
    assert one == again[7]["example"].source.tolist(), "asked twice, made twice"


def test_every_training_batch_has_an_equal_share_of_each_objective():
    of = dataset()
    of.set_epoch(1)
    counts = {"sc": 0, "tsc": 0}
    for batch in batches(of):
        made = of.collater([of[index] for index in batch])
        assert list(made["objectives"]) == ["sc", "tsc"]
        for name, part in made["objectives"].items():
            assert max(part["net_input"]["src_tokens"].numel(), part["target"].numel()) <= 60
            counts[name] += part["net_input"]["src_tokens"].numel()
    assert counts["sc"] == pytest.approx(counts["tsc"], rel=0.15)


def test_validation_has_every_example_once_and_always_the_same():
    of = dataset(training=False)
    once = content(of, 1)
    assert once == content(of, 2) and of.can_reuse_epoch_itr_across_epochs
    rows = {name: sum(len(target) for n, _, target in once if n == name) for name in ("sc", "tsc")}
    assert rows == {"sc": 250, "tsc": 60}


def test_a_batch_says_what_it_holds_and_pads_on_the_right():
    of = dataset()
    of.set_epoch(1)
    items = [of[int(index)] for index in of.ordered_indices()[-40:]]
    made = of.collater(items)
    assert made["nsentences"] == 40 and made["id"].tolist() == [item["id"] for item in items]
    assert made["ntokens"] == sum(len(item["example"].target) for item in items)
    for name, part in made["objectives"].items():
        mine = [item["example"] for item in items if item["objective"] == name]
        groups_BT, target_BT = part["net_input"]["groups"], part["target"]
        assert torch.equal(groups_BT == PADDING_GROUP, target_BT == 1)
        for row, example in enumerate(mine):
            size = len(example.target)
            assert target_BT[row, :size].tolist() == example.target.tolist() and (target_BT[row, size:] == 1).all()
            expected = np.zeros(size) if example.group_T is None else example.group_T
            assert groups_BT[row, :size].tolist() == expected.tolist()
            assert part["net_input"]["src_lengths"][row] == len(example.source)


def test_ordinary_training_sends_no_groups():
    of = dataset(groups=1)
    of.set_epoch(1)
    made = of.collater([of[index] for index in range(5)])
    assert "groups" not in made["objectives"]["sc"]["net_input"]


def test_too_long_examples_are_told():
    of = dataset()
    of.set_epoch(1)
    kept, dropped = of.filter_indices_by_size(of.ordered_indices(), (12, 12))
    assert len(kept) + len(dropped) == len(of) and dropped
    assert all(max(of.size(int(index))) <= 12 for index in kept)
    assert all(max(of.size(index)) > 12 for index in dropped)


def test_golden_batch():
    pairs = text(de=[[10, 11, 12, 13, 14, 15], [20, 21, 22]], en=[[30, 31, 32, 33, 34, 35], [40, 41, 42]])
    of = ObjectiveDataset([OBJECTIVES["tpsc"](symbols(), HALF, 2)], [[pairs]], training=False)
    of.set_epoch(1)
    part = of.collater([of[0], of[1]])["objectives"]["tpsc"]
    assert part["text"] == ["de-en", "de-en"] and part["ntokens"] == 16
    assert part["net_input"]["src_tokens"].tolist() == [
        [30, 100, 34, 35, 2, 10, 101, 14, 15, 2],
        [20, 21, 100, 2, 40, 101, 2, 1, 1, 1],
    ]
    assert part["net_input"]["prev_output_tokens"].tolist() == [
        [2, 100, 31, 32, 2, 101, 11, 12, 13, 102],
        [2, 100, 2, 101, 41, 42, 1, 1, 1, 1],
    ]
    assert part["target"].tolist() == [
        [100, 31, 32, 33, 101, 11, 12, 13, 102, 2],
        [100, 22, 101, 41, 42, 2, 1, 1, 1, 1],
    ]
    assert part["net_input"]["groups"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, -1, -1, -1, -1]]

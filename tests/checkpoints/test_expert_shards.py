"""Checkpoints of expert-parallel ranks, joined and divided, by hand values."""

import argparse

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.checkpoints.expert_shards import RECORD, merge_checkpoints, read_record, split_checkpoint

FC1, ROUTER, GATE = "layers.0.feed_forward.experts.sublayers.0.fc1_weight", "layers.0.router.weight", "layers.0.gate"


def shard(rank=0, ranks=2, workers=None, updates=6, router=1.0, optimizer=True, names=(ROUTER, GATE, FC1)):
    """What rank `rank` saves: expert e of 4 is filled with e, its first moment with 10 + e; step 5, batch 8."""
    numbers = torch.arange(4.0).chunk(ranks)[rank]
    weight = numbers[:, None, None].expand(-1, 2, 3).clone()
    shared = torch.full((4, 3), router)
    state = {
        "args": None,
        "cfg": {
            "model": {"_name": "transformer_mt", "moe_experts": 4, "moe_expert_parallel_size": ranks},
            "distributed_training": {"distributed_world_size": workers or ranks},
        },
        "model": {ROUTER: shared, "tied.weight": shared, GATE: torch.ones(()), FC1: weight},
        "optimizer_history": [{"num_updates": updates}],
        "extra_state": {
            "train_iterator": {"epoch": 2, "iterations_in_epoch": 8, "version": 2},
            "ema": {ROUTER: shared + 1, FC1: weight + 100},
            RECORD: dict(rank=rank, ranks=ranks, workers=workers or ranks, optimizer_parameters=list(names)),
        },
        "last_optimizer_state": {
            "state": {
                0: {"step": 5, "exp_avg": shared * 2},
                2: {"step": 5, "exp_avg": weight + 10, "exp_avg_sq": weight + 20},  # 1 has never had a gradient
            },
            "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}],
            "loss_scale": 4.0,
        },
    }
    if not optimizer:
        del state["last_optimizer_state"]
    return state


def experts(tensor):
    """Which number fills each expert of a stacked parameter."""
    assert all(row.unique().numel() == 1 for row in tensor)
    return tensor[:, 0, 0].tolist()


def test_joined_experts_are_in_order_whatever_the_order_of_files():
    whole = merge_checkpoints([shard(rank, ranks=4) for rank in (2, 0, 3, 1)])
    assert experts(whole["model"][FC1]) == [0, 1, 2, 3]
    assert_close(whole["model"][ROUTER], torch.ones(4, 3))
    moments = whole["last_optimizer_state"]["state"]
    assert experts(moments[2]["exp_avg"]) == [10, 11, 12, 13] and experts(moments[2]["exp_avg_sq"]) == [20, 21, 22, 23]
    assert moments[2]["step"] == 5 and moments[0].keys() == {"step", "exp_avg"} and 1 not in moments
    assert_close(moments[0]["exp_avg"], torch.full((4, 3), 2.0))
    assert whole["last_optimizer_state"]["param_groups"] == [{"lr": 0.1, "params": [0, 1, 2]}]
    assert whole["last_optimizer_state"]["loss_scale"] == 4.0
    assert experts(whole["extra_state"]["ema"][FC1]) == [100, 101, 102, 103]


def test_a_joined_checkpoint_is_one_of_ordinary_training():
    whole = merge_checkpoints([shard(0), shard(1)])
    assert whole["cfg"]["model"] == {"_name": "transformer_mt", "moe_experts": 4, "moe_expert_parallel_size": 1}
    assert whole["cfg"]["distributed_training"]["distributed_world_size"] == 1
    record = read_record(whole)
    assert (record.rank, record.ranks, record.workers) == (0, 1, 1)
    # 8 batches on each of 2 ranks are 16 on one
    assert whole["extra_state"]["train_iterator"] == {"epoch": 2, "iterations_in_epoch": 16, "version": 2}
    assert whole["model"]["tied.weight"] is whole["model"][ROUTER]


@pytest.mark.parametrize("ranks", [2, 4])
def test_divided_and_joined_is_what_it_was(ranks):
    whole = merge_checkpoints([shard(0), shard(1)])
    parts = [split_checkpoint(whole, rank, ranks) for rank in range(ranks)]
    assert [experts(part["model"][FC1]) for part in parts] == [
        list(numbers) for numbers in torch.arange(4.0).view(ranks, -1).tolist()
    ]
    assert [read_record(part)[:3] for part in parts] == [(rank, ranks, ranks) for rank in range(ranks)]
    assert parts[0]["cfg"]["model"]["moe_expert_parallel_size"] == ranks
    assert parts[0]["extra_state"]["train_iterator"]["iterations_in_epoch"] == 16 // ranks
    again = merge_checkpoints(parts)
    assert_close(again["model"], whole["model"])
    assert_close(again["last_optimizer_state"]["state"], whole["last_optimizer_state"]["state"])
    assert again["cfg"] == whole["cfg"] and again["extra_state"][RECORD] == whole["extra_state"][RECORD]


def test_a_part_takes_only_its_own_room_in_a_file():
    part = split_checkpoint(shard(0, ranks=1), 1, 4)
    for tensor in (part["model"][FC1], part["last_optimizer_state"]["state"][2]["exp_avg"]):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_the_inputs_stay_as_they_were():
    inputs = [shard(0), shard(1)]
    split_checkpoint(merge_checkpoints(inputs), 0, 4)
    for given, fresh in zip(inputs, [shard(0), shard(1)], strict=True):
        assert given["cfg"] == fresh["cfg"] and given["extra_state"][RECORD] == fresh["extra_state"][RECORD]
        assert_close(given["model"], fresh["model"])


def test_replicated_experts_of_data_parallel_training_are_divided_too():
    """--moe-expert-parallel-size 1 on 2 workers: a whole checkpoint whose batches were shared by 2."""
    part = split_checkpoint(shard(0, ranks=1, workers=2), 3, 4)
    assert experts(part["model"][FC1]) == [3]
    assert part["extra_state"]["train_iterator"]["iterations_in_epoch"] == 8 * 2 // 4


def test_options_may_be_a_namespace():
    state = shard(0, ranks=1)
    state["cfg"]["model"] = argparse.Namespace(arch="transformer_mt", moe_expert_parallel_size=1)
    assert split_checkpoint(state, 0, 2)["cfg"]["model"].moe_expert_parallel_size == 2
    assert state["cfg"]["model"].moe_expert_parallel_size == 1


def test_without_optimizer_state():
    whole = merge_checkpoints([shard(0, optimizer=False, names=()), shard(1, optimizer=False, names=())])
    assert experts(whole["model"][FC1]) == [0, 1, 2, 3] and "last_optimizer_state" not in whole


def with_quantity(value, rank):
    state = shard(rank)
    state["last_optimizer_state"]["state"][2]["extra"] = value
    return state


@pytest.mark.parametrize(
    "given, says",
    [
        ([shard(0)], "spread over ranks 0 to 1; given were those of ranks \\[0\\]"),
        ([shard(0), shard(1), shard(1)], "given were those of ranks \\[0, 1, 1\\]"),
        ([shard(0), shard(1, updates=7)], "of different updates: 6, 7"),
        ([shard(0), shard(1, router=2.0)], f"{ROUTER} differs between ranks 0 and 1: they are of different trainings"),
        ([shard(0, names=()), shard(1)], "optimiser state cannot be told apart by parameter"),
        (
            [with_quantity(torch.ones(3), 0), with_quantity(torch.ones(3), 1)],
            f"the optimiser keeps a 'extra' for {FC1} that belongs to no single expert",
        ),
        ([with_quantity(1.0, 0), with_quantity(2.0, 1)], "that belongs to no single expert"),
        ([{"model": {}, "extra_state": {}}], "no checkpoint of a mixture-of-experts model"),
    ],
)
def test_what_does_not_belong_together_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        merge_checkpoints(given)


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="4 experts .* cannot be spread evenly over 3 ranks"):
        split_checkpoint(shard(0, ranks=1), 0, 3)
    with pytest.raises(ValueError, match="holds the experts of rank 1 out of 2 only"):
        split_checkpoint(shard(1), 0, 4)

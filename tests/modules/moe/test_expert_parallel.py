"""The exchange by hand values, with the other ranks played by a script; several real ranks: tests/distributed."""

import copy

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.testing import assert_close

from fairseq_plugins.modules.moe import expert_parallel
from fairseq_plugins.modules.moe.dispatch import Layout
from fairseq_plugins.modules.moe.expert_parallel import Exchange


class Wire:
    """Stands in for `torch.distributed` on rank 0 of 2: says what came from rank 1, and notes what was sent to it."""

    ReduceOp = dist.ReduceOp

    def __init__(self, from_other, slots_of_other=0):
        self.from_other = list(from_other)  # of each all-to-all in turn
        self.slots_of_other = slots_of_other
        self.sent = []

    def get_world_size(self, group):
        return 2

    def get_rank(self, group):
        return 0

    def all_to_all_single(self, output, rows, output_sizes=None, input_sizes=None, group=None):
        sizes = input_sizes or [len(rows) // 2] * 2
        mine, other = rows.split(sizes)
        self.sent.append(other.flatten().tolist())
        came = torch.tensor(self.from_other.pop(0), dtype=rows.dtype).view(-1, *rows.shape[1:])
        output.copy_(torch.cat([mine, came]))

    def all_reduce(self, tensor, op, group):
        assert op == dist.ReduceOp.MAX
        tensor.clamp_(min=self.slots_of_other)


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


@pytest.fixture
def wire(monkeypatch):
    def play(*from_other, **kwargs):
        played = Wire(from_other, **kwargs)
        monkeypatch.setattr(expert_parallel, "dist", played)
        return played

    return play


def test_received_rows_are_grouped_by_expert(wire):
    """4 experts; here are 2, 0, 1, 1 rows for them and a filler; rank 1 sends 1 row for expert 0 and 2 for expert 1."""
    played = wire([1, 2], [50, 60, 61], [1001, 1002])
    rows = column(10, 11, 20, 30, 99)
    exchange = Exchange("group")
    here, layout, ticket = exchange.to_experts(rows, Layout(torch.tensor([2, 2, 3, 4]).int()))
    assert played.sent == [[1, 1], [20, 30]]
    assert here.flatten().tolist() == [10, 11, 50, 60, 61]
    assert layout.slots is None and layout.ends_E.tolist() == [3, 5]
    home = exchange.from_experts(here + 1000, ticket)
    assert played.sent[2] == [1050, 1060, 1061]
    assert home.flatten().tolist() == [1010, 1011, 1001, 1002, 0]  # row by row as they left; 0 for the filler


def test_slots_travel_in_equal_blocks_of_the_largest_size(wire):
    """4 experts; one slot each here, two on rank 1: ours are filled up with 0, and what was filled up is cut again."""
    played = wire([50, 51, 60, 61], [1020, 0, 1030, 0], slots_of_other=2)
    exchange = Exchange("group")
    here, layout, ticket = exchange.to_experts(column(0, 10, 20, 30), Layout(torch.tensor([1, 2, 3, 4]).int(), 1))
    assert played.sent == [[20, 0, 30, 0]]
    assert here.flatten().tolist() == [0, 0, 50, 51, 10, 0, 60, 61]
    assert layout.slots == 4 and layout.ends_E.tolist() == [4, 8]
    home = exchange.from_experts(here + 1000, ticket)
    assert played.sent[1] == [1050, 1051, 1060, 1061]
    assert home.flatten().tolist() == [1000, 1010, 1020, 1030]


def test_host_group_agrees_on_slots_with_numbers_on_the_host(wire, monkeypatch):
    played = wire([0, 0], slots_of_other=1)
    groups = []
    played.all_reduce = lambda tensor, op, group: groups.append((tensor.device.type, group))
    Exchange("group", "host group").to_experts(torch.zeros(4, 1), Layout(torch.zeros(4).int(), 1))
    assert groups == [("cpu", "host group")]


def test_gradients_go_the_other_way(wire):
    """The gradient of a row is what its owner sends back; a filler's is 0."""
    played = wire([1, 0], [50.0], [7.0])
    rows = column(10, 20, 99).requires_grad_()
    here, _, _ = Exchange("group").to_experts(rows, Layout(torch.tensor([1, 1, 2, 2]).int()))
    (here * column(2, 3)).sum().backward()
    assert played.sent[2] == [3]
    assert rows.grad.flatten().tolist() == [2, 7, 0]


def test_ranks_hold_consecutive_experts(wire):
    wire()
    assert Exchange("group").held(8) == range(0, 4)
    with pytest.raises(ValueError, match="7 experts cannot be spread evenly over 2 workers"):
        Exchange("group").held(7)


def test_own_parameters_are_marked_and_each_pass_is_divided_once(wire):
    wire()
    experts = nn.Linear(1, 1)
    experts.bias.requires_grad_(False)
    Exchange("group").own(experts)
    assert all(parameter.expert is True for parameter in experts.parameters())
    for factor in (3.0, 5.0):  # two micro-batches
        (factor * experts(torch.ones(1, 1))).sum().backward()
    assert_close(experts.weight.grad, torch.tensor([[(3.0 + 5.0) / 2]]))


def test_a_copied_model_uses_the_same_group(wire):
    wire()
    exchange = Exchange(object())
    assert copy.deepcopy({"exchange": exchange})["exchange"] is exchange

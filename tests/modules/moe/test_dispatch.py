import math

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.modules.moe.dispatch import Layout, combine, dispatch, gather_tokens

EVERYBODY = torch.ones(4, 2, dtype=torch.bool)
CHOSEN = torch.tensor([[0, 1], [0, 2], [2, 0], [0, 1]])  # 4 tokens x 3 experts, two choices each


def test_hand_written_table():
    where, wanted = dispatch(CHOSEN[:, :1], EVERYBODY[:, :1], 3)
    assert wanted.tolist() == [3, 0, 1]
    assert where.token_R.tolist() == [0, 1, 3, 2]
    assert where.row_NK.tolist() == [[0], [1], [3], [2]]
    assert where.layout.ends_E.tolist() == [3, 3, 4] and where.layout.slots is None


def test_second_choices_come_after_all_first_ones():
    where, wanted = dispatch(CHOSEN, EVERYBODY, 3)
    assert wanted.tolist() == [4, 2, 2]
    # expert 0: tokens 0 1 3, then 2, whose second choice it is
    assert where.token_R.tolist() == [0, 1, 3, 2, 0, 3, 2, 1]
    where, _ = dispatch(CHOSEN, EVERYBODY, 3, capacity_factor=1.0)  # 8 / 3, rounded up: 3 rows each
    assert where.token_R.tolist() == [0, 1, 3, 0, 3, 2, 1]
    assert where.row_NK.tolist() == [[0, 3], [1, 6], [5, 7], [2, 4]]  # 7 rows: number 7 is none
    assert where.layout.ends_E.tolist() == [3, 5, 7]


def test_slots_leave_every_expert_the_same_room():
    where, _ = dispatch(CHOSEN, EVERYBODY, 3, capacity_factor=1.0, max_padding=1.3)
    assert where.layout.slots == 3 and len(where.token_R) == 9  # 7 rows are used, 9 / 7 < 1.3
    assert where.row_NK.tolist() == [[0, 3], [1, 7], [6, 9], [2, 4]]
    assert where.layout.ends_E.tolist() == [3, 5, 7]
    assert dispatch(CHOSEN, EVERYBODY, 3, max_padding=1.5)[0].layout.slots == 4  # the largest load: 12 for 8
    assert dispatch(CHOSEN, EVERYBODY, 3, max_padding=1.4)[0].layout.slots is None  # too much padding


def test_padding_takes_no_room():
    living = EVERYBODY.clone()
    living[0] = False
    where, wanted = dispatch(CHOSEN, living, 3, capacity_factor=1.0)
    assert wanted.tolist() == [3, 1, 2]
    assert where.token_R.tolist() == [1, 3, 3, 2, 1]  # 6 living choices: 2 rows each
    assert where.row_NK.tolist() == [[5, 5], [0, 4], [3, 5], [1, 2]]


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("capacity_factor", [0.0, 0.7])
def test_gather_and_combine_are_each_other_s_gradient(capacity_factor, slots):
    where, _ = dispatch(CHOSEN, EVERYBODY, 3, capacity_factor=capacity_factor, max_padding=9 if slots else 0)
    assert (where.layout.slots is not None) == slots
    x_ND = torch.randn(4, 5, dtype=torch.double, requires_grad=True)
    weight_NK = torch.rand(4, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: combine(gather_tokens(x, where).tanh(), w, where), (x_ND, weight_NK)
    )
    kept = where.row_NK < len(where.token_R)
    assert_close(combine(gather_tokens(x_ND, where), weight_NK, where), x_ND * (weight_NK * kept).sum(1, keepdim=True))


def test_nobody_is_routed():
    where, wanted = dispatch(CHOSEN, ~EVERYBODY, 3, capacity_factor=1.0)
    x_ND = torch.randn(4, 5, requires_grad=True)
    y_ND = combine(gather_tokens(x_ND, where), torch.ones(4, 2), where)
    assert not wanted.any() and not y_ND.any()
    y_ND.sum().backward()
    assert not x_ND.grad.any()


@pytest.mark.parametrize("capacity_factor", [0.7, 1.1, 1.2, 1.9])
def test_the_limit_never_exceeds_the_room_of_a_block(capacity_factor):
    """Rounded differently, one row of an expert would be the first of the next."""
    for choices in range(1, 400):
        limit = (torch.tensor(choices).double() * capacity_factor / 8).ceil().long()
        where, _ = dispatch(
            torch.zeros(choices, 1, dtype=torch.long),
            torch.ones(choices, 1, dtype=torch.bool),
            8,
            capacity_factor=capacity_factor,
            max_padding=99,
        )
        assert int(where.layout.ends_E[0]) == min(int(limit), choices)
        assert int(limit) <= math.ceil(float(choices) * capacity_factor / 8)
        rows = where.row_NK[where.row_NK < len(where.token_R)]
        assert len(rows.unique()) == len(rows)


def test_the_expert_of_a_row_by_hand():
    ends_E = torch.tensor([2, 2, 3], dtype=torch.int32)  # the second expert has no row, nobody has the last one
    assert Layout(ends_E).expert_of(torch.arange(4)).tolist() == [0, 0, 2, 2]
    assert Layout(ends_E, slots=2).expert_of(torch.arange(6)).tolist() == [0, 0, 1, 1, 2, 2]

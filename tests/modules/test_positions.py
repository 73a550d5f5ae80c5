import math

import torch

from fairseq_plugins.modules.positions import LearnedPositions, SinusoidalPositions, build_positions, position_ids


def test_padding_keeps_its_row_on_either_side():
    tokens = torch.tensor([[1, 1, 7, 8], [5, 6, 1, 1]])
    assert position_ids(tokens, padding_idx=1).tolist() == [[1, 1, 2, 3], [2, 3, 1, 1]]


def test_sinusoids_by_hand():
    positions = SinusoidalPositions(10, 4, padding_idx=1)
    row = positions(torch.tensor([3]))[0]
    expected = [math.sin(3), math.sin(3e-4), math.cos(3), math.cos(3e-4)]
    torch.testing.assert_close(row, torch.tensor(expected))
    assert not positions(torch.tensor([1])).any()
    assert not list(positions.state_dict()), "a table that can be computed does not belong in a checkpoint"


def test_learned_table_has_a_row_for_every_position():
    positions = LearnedPositions(6, 8, padding_idx=1)
    assert positions.weight.shape == (8, 8)
    assert not positions.weight[1].any()
    assert build_positions("none", 6, 8, 1) is None

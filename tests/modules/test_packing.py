import torch
from torch.testing import assert_close

from fairseq_plugins.modules.packing import WORTHWHILE, pack, packing, unpack

PADDING = torch.tensor([[False, False, True], [True, True, False]])


def test_by_hand():
    packed = packing(PADDING)
    assert packed.rows_N.tolist() == [0, 1, 5]
    x_BTD = torch.arange(12.0).view(2, 3, 2)
    assert pack(x_BTD, packed).tolist() == [[0, 1], [2, 3], [10, 11]]
    assert unpack(pack(x_BTD, packed), packed).tolist() == [[[0, 1], [2, 3], [0, 0]], [[0, 0], [0, 0], [10, 11]]]


def test_gradients():
    packed = packing(PADDING)
    x_BTD = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    x_ND = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pack(x, packed), (x_BTD,))
    assert torch.autograd.gradcheck(lambda x: unpack(x, packed), (x_ND,))


def test_little_padding_is_left_where_it_is():
    padding_BT = torch.zeros(10, 100, dtype=torch.bool)
    assert packing(padding_BT) is None
    padding_BT.view(-1)[: int(1000 * WORTHWHILE) - 1] = True
    assert packing(padding_BT) is None
    padding_BT.view(-1)[: int(1000 * WORTHWHILE) + 1] = True
    assert len(packing(padding_BT).rows_N) == 999 - int(1000 * WORTHWHILE)
    x_BTD = torch.randn(10, 100, 2)
    assert_close(unpack(pack(x_BTD, None), None), x_BTD)

import torch
from torch.testing import assert_close

from fairseq_plugins.modules.prediction_heads import SentenceHead

X_BD = torch.tensor([[1.0, -2.0], [0.5, 0.0]])


def set_weights(head):
    with torch.no_grad():
        head.out_proj.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        head.out_proj.bias.copy_(torch.tensor([0.0, 0.5, -1.0]))
        if head.dense is not None:
            head.dense.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
            head.dense.bias.fill_(0.25)
    return head


def test_the_linear_head_by_hand():
    head = set_weights(SentenceHead(2, 3))
    assert list(dict(head.named_parameters())) == ["out_proj.weight", "out_proj.bias"]
    assert_close(head(X_BD), torch.tensor([[1.0, -3.5, -2.0], [0.5, 0.5, -0.5]]))


def test_roberta_s_head_by_hand():
    head = set_weights(SentenceHead(2, 3, inner_dim=2))
    first, second = torch.tensor([-1.75, 0.25]).tanh(), torch.tensor([1.25, 0.75]).tanh()
    expected = torch.stack((first, 2 * second + 0.5, first + second - 1), dim=1)
    assert_close(head(X_BD), expected)


def test_dropout_acts_before_each_projection_in_training_alone():
    torch.manual_seed(0)
    head = SentenceHead(64, 3, inner_dim=64, dropout=0.5)
    seen = []
    for part in (head.dense, head.out_proj):
        part.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0] == 0).float().mean().item()))
    head(torch.ones(20, 64))
    assert all(0.4 < share < 0.6 for share in seen) and len(seen) == 2
    head.eval()(torch.ones(20, 64))
    assert seen[2:] == [0, 0]

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_plugins.modules.relation_loss import relation_loss

HEADS = 3
SIZES = [1, 7, 40, 200, 5000, None]  # scores at once; the examples below have 3 heads x up to 11 x 11


def projections(batch=4, length=11, widths=(12, 6), dtype=torch.double):
    """Teacher's A_i and A_j, student's A_i and A_j."""
    torch.manual_seed(0)
    learns = [(widths[0], False)] * 2 + [(widths[1], True)] * 2
    return [torch.randn(batch, length, width, dtype=dtype, requires_grad=own) for width, own in learns]


def plain(teacher_i, teacher_j, student_i, student_j, heads):
    """L_ij of one example without padding, straight from the paper."""

    def log_relations(i_TD, j_TD):
        i_HTW, j_HTW = (x_TD.unflatten(1, (heads, -1)).transpose(0, 1) for x_TD in (i_TD, j_TD))
        return (i_HTW @ j_HTW.mT / math.sqrt(i_HTW.size(2))).log_softmax(dim=2)

    teacher, student = log_relations(teacher_i, teacher_j), log_relations(student_i, student_j)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / (heads * len(teacher_i))


def gradients(loss_B, inputs):
    """Of a sum in which every example counts differently."""
    weight_B = torch.linspace(1, 3, len(loss_B), dtype=loss_B.dtype)
    return torch.autograd.grad((loss_B * weight_B).sum(), inputs)


@pytest.mark.parametrize("scores", SIZES)
def test_loss_and_gradients_are_those_of_the_formula(scores):
    tensors = projections()
    found_B = relation_loss(*tensors, heads=HEADS, scores=scores)
    wanted_B = torch.stack([plain(*example, HEADS) for example in zip(*tensors, strict=True)])
    assert_close(found_B, wanted_B)
    for got, wanted in zip(gradients(found_B, tensors[2:]), gradients(wanted_B, tensors[2:]), strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("scores", [7, 40, None])
def test_a_relation_with_itself_gets_both_gradients(scores):
    teacher, _, student, _ = projections()
    found_B = relation_loss(teacher, teacher, student, student, heads=HEADS, scores=scores)
    wanted_B = torch.stack([plain(t, t, s, s, HEADS) for t, s in zip(teacher, student, strict=True)])
    assert_close(gradients(found_B, [student])[0], gradients(wanted_B, [student])[0])


@pytest.mark.parametrize("heads, widths", [(1, (12, 6)), (6, (12, 6)), (2, (4, 8)), (4, (4, 4))])
def test_heads_and_widths(heads, widths):
    tensors = projections(widths=widths)
    found_B = relation_loss(*tensors, heads=heads, scores=30)
    wanted_B = torch.stack([plain(*example, heads) for example in zip(*tensors, strict=True)])
    assert_close(found_B, wanted_B)
    for got, wanted in zip(gradients(found_B, tensors[2:]), gradients(wanted_B, tensors[2:]), strict=True):
        assert_close(got, wanted)


def test_two_tokens_by_hand():
    """Two heads, of width 4 in the teacher and 1 in the student. What is not zero:

    teacher, head 0, row 0: scores 2 ln 3 / sqrt 4 and 0, so 3/4 and 1/4; student, head 1, row 1: 1/4 and 3/4.
    """
    teacher_i, teacher_j = torch.zeros(2, 1, 2, 8, dtype=torch.double)
    teacher_i[0, 0, 0], teacher_j[0, 0, 0] = 2 * math.log(3), 1
    student_i, student_j = torch.zeros(2, 1, 2, 2, dtype=torch.double)
    student_i[0, 1, 1], student_j[0, 1, 1] = math.log(3), 1
    by_hand = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) + 0.5 * math.log(4 / 3)
    assert_close(relation_loss(teacher_i, teacher_j, student_i, student_j, heads=2).item(), by_hand / (2 * 2))
    assert by_hand == pytest.approx(0.130812 + 0.143841, abs=1e-6)


@pytest.mark.parametrize("scores", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_is_its_teacher_loses_nothing(dtype, scores):
    i, j, *_ = projections(dtype=dtype)
    i, j = i.requires_grad_(), j.requires_grad_()
    padding_BT = torch.arange(11) >= torch.tensor([[11], [4], [9], [1]])
    loss_B = relation_loss(i, j, i, j, heads=HEADS, padding_BT=padding_BT, scores=scores)
    assert not loss_B.any()
    assert not any(gradient.any() for gradient in gradients(loss_B, [i, j]))


@pytest.mark.parametrize("garbage", [0.0, 1e4, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("scores", SIZES)
def test_padding_is_as_if_it_were_not_there(scores, garbage):
    """At the end, at the beginning, in between, everywhere."""
    lengths = {0: slice(0, 11), 1: slice(0, 4), 2: slice(3, 11), 3: slice(1, 11, 2), 4: slice(0, 0)}
    padding_BT = torch.ones(5, 11, dtype=torch.bool)
    for example, kept in lengths.items():
        padding_BT[example, kept] = False
    tensors = projections(batch=5)
    with torch.no_grad():
        for tensor in tensors:
            tensor[padding_BT] = garbage
    found_B = relation_loss(*tensors, heads=HEADS, padding_BT=padding_BT, scores=scores)
    alone = [[tensor[example, kept] for tensor in tensors] for example, kept in lengths.items()]
    assert found_B[4] == 0
    wanted_B = torch.stack([plain(*example, HEADS) for example in alone[:4]] + [found_B.new_zeros(())])
    assert_close(found_B, wanted_B)
    found, wanted = gradients(found_B, tensors[2:]), gradients(wanted_B, tensors[2:])
    for got, right in zip(found, wanted, strict=True):
        assert not got[padding_BT].any()
        assert_close(got[~padding_BT], right[~padding_BT])


@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck(padded):
    teacher_i, teacher_j, student_i, student_j = projections(batch=2, length=4)
    padding_BT = torch.arange(4) >= torch.tensor([[4], [3]]) if padded else None

    def loss(i, j):
        return relation_loss(teacher_i, teacher_j, i, j, heads=HEADS, padding_BT=padding_BT, scores=20)

    assert torch.autograd.gradcheck(loss, (student_i, student_j))
    assert torch.autograd.gradcheck(lambda i: loss(i, i), (student_i,))


def test_queries_with_keys_are_the_attention_of_minilm():
    """L_AT of version 1, from the probabilities that torch's own attention returns."""
    teacher, student = (torch.nn.MultiheadAttention(dim, HEADS, batch_first=True).double() for dim in (12, 6))
    x_BTD, x_BTE = projections()[1:3]
    probs, arguments = [], []
    for attention, x in ((teacher, x_BTD), (student, x_BTE)):
        torch.nn.init.normal_(attention.in_proj_bias)
        probs.append(attention(x, x, x, average_attn_weights=False)[1])
        arguments += F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=2)[:2]
    teacher_BHTT, student_BHTT = probs
    kl_BHT = (teacher_BHTT * (teacher_BHTT / student_BHTT).log()).sum(dim=3)
    assert_close(relation_loss(*arguments, heads=HEADS), kl_BHT.mean(dim=(1, 2)))


def test_no_block_holds_all_relations():
    """Nothing larger than the inputs is ever made, where all heads' relations are 16 times as large."""
    teacher, student = torch.randn(1, 64, 16), torch.randn(1, 64, 16, requires_grad=True)
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest.append(max((x.numel() for x in torch.utils._pytree.tree_leaves(made) if torch.is_tensor(x)),
                               default=0))  # fmt: skip
            return made

    with Watch():
        relation_loss(teacher, teacher, student, student, heads=4, scores=512).sum().backward()
    assert len(largest) > 100
    assert max(largest) == student.numel() == 4 * 64 * 64 // 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    tensors = projections(dtype=torch.float)
    halves = [tensor.detach().to(dtype).requires_grad_(tensor.requires_grad) for tensor in tensors]
    floats = [half.detach().float().requires_grad_(half.requires_grad) for half in halves]
    found_B, exact_B = (relation_loss(*some, heads=HEADS) for some in (halves, floats))
    assert found_B.dtype == torch.float32
    assert torch.equal(found_B, exact_B)
    for got, wanted in zip(gradients(found_B, halves[2:]), gradients(exact_B, floats[2:]), strict=True):
        assert torch.equal(got, wanted.to(dtype))


def test_small_gradients_survive_float16():
    """Near the optimum, with a loss scale: in float16 they would be zero before they are multiplied."""
    teacher, *_ = projections(batch=1, length=40, dtype=torch.float)
    grads = []
    for dtype in (torch.float16, torch.float64):
        student = (teacher * 1.001).half().to(dtype).requires_grad_()
        loss_B = relation_loss(*[teacher.half().to(dtype)] * 2, student, student, heads=HEADS)
        (1e-6 * 2.0**20 * loss_B.sum()).backward()
        grads.append(student.grad.double())
    assert 0 < grads[1].abs().max() / 2**20 < 6e-8
    assert_close(*grads, rtol=0.02, atol=float(grads[1].abs().max()) * 0.01)


def test_a_teacher_in_half_precision_beside_a_student_in_float32():
    teacher_i, teacher_j, student_i, student_j = projections(dtype=torch.float)
    found_B = relation_loss(teacher_i.bfloat16(), teacher_j.bfloat16(), student_i, student_j, heads=HEADS)
    rounded = [tensor.bfloat16().float() for tensor in (teacher_i, teacher_j)]
    assert torch.equal(found_B, relation_loss(*rounded, student_i, student_j, heads=HEADS))
    assert gradients(found_B, [student_i])[0].dtype == torch.float32


def test_autocast_leaves_products_alone():
    tensors = projections(dtype=torch.float)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_B = relation_loss(*tensors, heads=HEADS)
    exact_B = relation_loss(*tensors, heads=HEADS)
    assert torch.equal(found_B, exact_B)
    assert torch.equal(gradients(found_B, tensors[2:])[0], gradients(exact_B, tensors[2:])[0])


def test_only_what_learns_gets_a_gradient(monkeypatch):
    teacher_i, teacher_j, student_i, student_j = projections()
    teacher_i.requires_grad_()
    frozen = student_j.detach()
    loss_B = relation_loss(teacher_i, teacher_j, student_i, frozen, heads=HEADS)
    both_B = relation_loss(teacher_i, teacher_j, student_i, student_j, heads=HEADS)
    assert_close(gradients(loss_B, [student_i])[0], gradients(both_B, [student_i, student_j])[0])
    relation_loss(teacher_i, teacher_j, student_i, student_j, heads=HEADS).sum().backward()
    assert teacher_i.grad is None and student_i.grad is not None and student_j.grad is not None
    made = []
    monkeypatch.setattr(torch, "zeros_like", lambda *_, **__: made.append(1))
    with torch.no_grad():
        assert_close(relation_loss(teacher_i, teacher_j, student_i, student_j, heads=HEADS), loss_B.detach())
    assert not made, "evaluation computes no gradients"


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (2, 5)])
def test_no_tokens(shape):
    tensors = projections(*shape)
    padding_BT = torch.ones(shape, dtype=torch.bool)
    loss_B = relation_loss(*tensors, heads=HEADS, padding_BT=padding_BT)
    assert loss_B.shape == shape[:1] and not loss_B.any()
    loss_B.sum().backward()
    assert not tensors[2].grad.any()


@pytest.mark.parametrize(
    "widths, heads, words",
    [
        ((12, 6), 4, "4 relation heads do not divide the student's width 6"),
        ((10, 6), 3, "3 relation heads do not divide the teacher's width 10"),
        ((12, 6), 0, "0 relation heads"),
    ],
)
def test_heads_that_do_not_divide_a_width_are_refused(widths, heads, words):
    with pytest.raises(ValueError, match=words):
        relation_loss(*projections(widths=widths), heads=heads)


def test_shapes_that_do_not_belong_together_are_refused():
    teacher_i, teacher_j, student_i, student_j = projections()
    with pytest.raises(ValueError, match=r"teacher's projections have the shapes \(4, 11, 12\) and \(4, 10, 12\)"):
        relation_loss(teacher_i, teacher_j[:, :10], student_i, student_j, heads=HEADS)
    with pytest.raises(ValueError, match=r"teacher's projections are of \(4, 10\) examples and tokens"):
        relation_loss(teacher_i[:, :10], teacher_j[:, :10], student_i, student_j, heads=HEADS)
    with pytest.raises(ValueError, match=r"padding mask are of \(4, 9\)"):
        relation_loss(*projections(), heads=HEADS, padding_BT=torch.zeros(4, 9, dtype=torch.bool))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("scores", [1 << 16, None])
def test_on_a_gpu_as_on_a_cpu(scores):
    """Rows longer than one thread block's, too; the teacher in bf16."""
    tensors = projections(batch=3, length=1500, widths=(96, 48), dtype=torch.float)
    tensors[:2] = [tensor.bfloat16() for tensor in tensors[:2]]
    padding_BT = torch.arange(1500) >= torch.tensor([[1500], [700], [1400]])
    loss_B = relation_loss(*tensors, heads=HEADS, padding_BT=padding_BT)
    wanted = gradients(loss_B, tensors[2:])
    there = [tensor.detach().cuda().requires_grad_(tensor.requires_grad) for tensor in tensors]
    found_B = relation_loss(*there, heads=HEADS, padding_BT=padding_BT.cuda(), scores=scores)
    assert_close(found_B.cpu(), loss_B, rtol=1e-4, atol=1e-6)
    for got, right in zip(gradients(found_B.cpu(), there[2:]), wanted, strict=True):
        assert_close(got.cpu(), right, rtol=1e-3, atol=1e-6)

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch.testing import assert_close

from fairseq_plugins.modules.vocabulary_loss import focal, vocabulary_loss


def tensors(dtype=torch.double):
    torch.manual_seed(0)
    shapes = (13, 6), (11, 6), (11,)
    x_ND, weight_VD, bias_V = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return x_ND, weight_VD, bias_V, torch.randint(11, (13,))


@pytest.mark.parametrize("chunk", [1, 4, 13, 100, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_loss_and_gradients_are_those_of_the_stock_criterion(with_bias, smoothing, chunk):
    x_ND, weight_VD, bias_V, target_N = tensors()
    bias = bias_V if with_bias else None
    inputs = [x_ND, weight_VD, *([bias_V] if with_bias else [])]
    options = dict(smoothing=smoothing, count_correct=True, chunk=chunk)
    found = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias, **options)
    gradients = torch.autograd.grad(3 * found.loss, inputs)
    logits_NV = torch.nn.functional.linear(x_ND, weight_VD, bias)
    lprobs_NV = logits_NV.log_softmax(dim=1)
    loss, nll = label_smoothed_nll_loss(lprobs_NV, target_N, smoothing)
    assert_close(found.loss, loss)
    assert_close(found.nll, nll)
    assert found.correct == logits_NV.argmax(dim=1).eq(target_N).sum()
    for got, wanted in zip(gradients, torch.autograd.grad(3 * loss, inputs), strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_focus_and_weights(weighted, focus, chunk):
    x_ND, weight_VD, bias_V, target_N = tensors()
    factor_N = torch.linspace(0, 3, 13, dtype=torch.double) if weighted else None
    found = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias_V, focus=focus, weight_N=factor_N, chunk=chunk)
    inputs = [x_ND, weight_VD, bias_V]
    gradients = torch.autograd.grad(3 * found.loss, inputs)
    nll_N = -torch.nn.functional.linear(*inputs).log_softmax(dim=1).gather(1, target_N[:, None]).squeeze(1)
    loss = ((1 - torch.exp(-nll_N)) ** focus * nll_N * (1 if factor_N is None else factor_N)).sum()
    assert_close(found.loss, loss)
    assert_close(found.nll, nll_N.sum())
    for got, wanted in zip(gradients, torch.autograd.grad(3 * loss, inputs), strict=True):
        assert_close(got, wanted)


def test_focal_loss_by_hand():
    """(1 - 0.9)^2 x -ln 0.9 and (1 - 0.25)^2 x -ln 0.25 (Lin et al. 2017, Equation 4)."""
    loss, _ = focal(-torch.tensor([0.9, 0.25]).log(), 2.0)
    assert_close(loss, torch.tensor([0.001054, 0.779791]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("focus", [0.5, 1.0, 4.0])
def test_focal_loss_of_what_is_certain_is_a_number(focus):
    nll = torch.tensor([0.0, 1e-30, 1e-12, 1e-6, 50.0, 1e4])
    loss, slope = focal(nll, focus)
    assert loss.isfinite().all() and slope.isfinite().all() and loss[0] == 0
    assert_close(slope[-1], torch.tensor(1.0))
    double = nll.double().requires_grad_()
    wanted = (1 - torch.exp(-double)) ** focus * double
    assert_close(slope[3:].double(), torch.autograd.grad(wanted.sum(), double)[0][3:], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("index", range(3))
def test_focal_gradients_by_differences(index):
    """gradcheck asks for the gradients of one loss more than once, which this one refuses."""
    *inputs, target_N = tensors()
    weight_N, step = torch.rand(13, dtype=torch.double), 1e-6

    def loss():
        return vocabulary_loss(*inputs[:2], target_N, bias_V=inputs[2], focus=2.0, weight_N=weight_N, chunk=5).loss

    (gradient,) = torch.autograd.grad(loss(), inputs[index])
    direction = torch.randn_like(inputs[index])
    with torch.no_grad():
        inputs[index] += step * direction
        above = loss()
        inputs[index] -= 2 * step * direction
        slope = (above - loss()) / (2 * step)
    assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_what_is_frozen_gets_no_gradient_and_nothing_needs_one_in_evaluation():
    x_ND, weight_VD, _, target_N = tensors()
    vocabulary_loss(x_ND, weight_VD.detach(), target_N).loss.backward()
    assert x_ND.grad.abs().sum() > 0
    with torch.no_grad():
        assert not vocabulary_loss(x_ND, weight_VD, target_N).loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_is_float32_in_half_precision(dtype):
    x_ND, weight_VD, bias_V, target_N = tensors(torch.float)
    exact = vocabulary_loss(x_ND, weight_VD, target_N, smoothing=0.1)
    halves = [tensor.detach().to(dtype).requires_grad_() for tensor in (x_ND, weight_VD)]
    found = vocabulary_loss(*halves, target_N, smoothing=0.1)
    assert found.loss.dtype == torch.float32
    assert_close(found.loss, exact.loss, rtol=0.02, atol=0)
    (found.loss * 128).backward()  # as loss scaling does
    exact.loss.backward()
    assert halves[1].grad.dtype == dtype
    assert_close(halves[1].grad.float() / 128, weight_VD.grad, rtol=0.1, atol=0.1)


def test_small_probabilities_reach_float16_gradients():
    """Unscaled, a probability of 1e-9 would be zero in float16, and its symbol never pushed away."""
    x_ND = torch.ones(1, 1)
    weight_VD = torch.tensor([[20.0], [0.0]])
    grads = []
    for dtype in (torch.float16, torch.float64):
        weight = weight_VD.to(dtype).requires_grad_()
        (vocabulary_loss(x_ND.to(dtype), weight, torch.tensor([0])).loss * 2**14).backward()
        grads.append(weight.grad[1])
    assert grads[0].double() == pytest.approx(float(grads[1]), rel=0.05)
    assert grads[1] > 0


def test_gradients_can_be_asked_for_once():
    x_ND, weight_VD, _, target_N = tensors()
    loss = vocabulary_loss(x_ND, weight_VD, target_N).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_autocast():
    x_ND, weight_VD, bias_V, target_N = tensors(torch.float)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias_V)
    found.loss.backward()
    assert x_ND.grad.dtype == weight_VD.grad.dtype == bias_V.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_sums_alone(dtype):
    """The sum of all logits of all tokens is far beyond float16."""
    torch.manual_seed(0)
    x_ND, weight_VD = torch.randn(2048, 16) + 1, torch.randn(3000, 16) + 1
    target_N = torch.randint(3000, (2048,))
    exact = vocabulary_loss(x_ND.double(), weight_VD.double(), target_N, smoothing=0.1)
    with torch.autocast("cpu", dtype=dtype):
        found = vocabulary_loss(x_ND, weight_VD, target_N, smoothing=0.1)
    assert_close(found.loss.double(), exact.loss, rtol=0.005, atol=0)
    assert_close(found.nll.double(), exact.nll, rtol=0.005, atol=0)


def test_large_weights_in_float16():
    """Gradients of one token that weighs 5,000 would not fit, and no scale of the loss could help."""
    x_ND, weight_VD, _, target_N = tensors(torch.float)
    factor_N = torch.full((13,), 5000.0)
    exact = vocabulary_loss(x_ND, weight_VD, target_N, weight_N=factor_N)
    halves = [tensor.detach().half().requires_grad_() for tensor in (x_ND, weight_VD)]
    found = vocabulary_loss(*halves, target_N, weight_N=factor_N)
    assert_close(found.loss, exact.loss, rtol=0.01, atol=0)
    (found.loss / 1024).backward()
    (exact.loss / 1024).backward()
    for half, full in zip(halves, (x_ND, weight_VD), strict=True):
        assert_close(half.grad.float(), full.grad, rtol=0.05, atol=0.05)


def test_a_frequent_symbol_in_float16():
    """Its gradient is a sum over thousands of tokens that point the same way."""
    torch.manual_seed(0)
    x_ND = (torch.randn(8192, 8) + 2).half()
    weight_VD = torch.zeros(50, 8, dtype=torch.float16, requires_grad=True)
    loss = vocabulary_loss(x_ND, weight_VD, torch.zeros(8192, dtype=torch.long), chunk=8192).loss
    (loss / 8192).backward()
    assert_close(weight_VD.grad[0].float(), -0.98 * x_ND.float().mean(dim=0), rtol=0.01, atol=0)


def test_evaluation_computes_no_gradients(monkeypatch):
    x_ND, weight_VD, bias_V, target_N = tensors()
    made = []
    monkeypatch.setattr("fairseq_plugins.modules.vocabulary_loss.new_empty", lambda *shape: made.append(shape))
    with torch.no_grad():
        found = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias_V, smoothing=0.1)
    assert not made and not found.loss.requires_grad


def test_no_tokens():
    x_ND, weight_VD, _, target_N = tensors()
    found = vocabulary_loss(x_ND[:0], weight_VD, target_N[:0], count_correct=True)
    found.loss.backward()
    assert found.loss == 0 and found.correct == 0 and not weight_VD.grad.any()

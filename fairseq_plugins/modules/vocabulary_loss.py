"""Projection to the vocabulary and label-smoothed cross-entropy in one step, never holding all logits."""

import functools
from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .large_pages import new_empty

# N target tokens, D model dim, V vocabulary, C tokens of one chunk
CHUNK = 256  # tokens of one chunk on a CPU: enough for full speed, little enough to stay near the cores
CHUNK_BYTES = 64 << 20  # at most, of one chunk's logits in float32
CHUNK_BYTES_GPU = 256 << 20  # the same on a GPU, where a small product does not fill the device
HALF_SCALE = 1024.0  # float16 has no number under 6e-8, and a probability is often smaller


class VocabularyLoss(NamedTuple):
    """Sums over tokens, in nats."""

    loss: Tensor  # cross-entropy with smoothing, weights and focus; carries the gradient
    nll: Tensor  # without them
    correct: Optional[Tensor]  # tokens whose best symbol is the target, long; None where nobody asked


def vocabulary_loss(
    x_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias_V: Optional[Tensor] = None,
    smoothing: float = 0.0,
    focus: float = 0.0,
    weight_N: Optional[Tensor] = None,
    count_correct: bool = False,
    chunk: Optional[int] = None,
) -> VocabularyLoss:
    """Label-smoothed cross-entropy of `x @ weight.T + bias`, exact, in chunks of tokens.

    With smoothing e the target has 1 - e - e / (V - 1) more than each symbol's e / (V - 1), as in fairseq's criterion
    (Szegedy et al. 2016, Section 7, over the V - 1 wrong symbols). Gradients are computed beside the loss, so no logit
    is computed twice; the softmax is float32 whatever the products are. With a focus g each token counts (1 - p)^g
    times, p being the probability of its target (focal loss, Lin et al. 2017, Equation 4), and the gradient knows it.

    Args:
        x_ND: hidden states of the tokens that count, padding already left out.
        weight_VD, bias_V: the output projection.
        target_N: symbols, long.
        smoothing: e, in [0, 1); 0 where there is a focus or a weight.
        focus: g, at least 0.
        weight_N: factor of each token's loss, without a gradient of its own.
        count_correct: also find the best symbols, which takes as long as the softmax.
        chunk: tokens at a time; None chooses.
    """
    if torch.is_autocast_enabled(x_ND.device.type):
        dtype = torch.get_autocast_dtype(x_ND.device.type)
        x_ND, weight_VD = x_ND.to(dtype), weight_VD.to(dtype)
    assert not smoothing or (not focus and weight_N is None), "smoothing's share is added for all tokens alike"
    chunk = chunk or tokens_at_a_time(weight_VD)
    if not torch.is_grad_enabled():  # inside the function it never is, and gradients would be computed for nobody
        x_ND, weight_VD = x_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    with torch.autocast(x_ND.device.type, enabled=False):  # every product has its precision already
        loss, nll, correct = _VocabularyLoss.apply(
            x_ND, weight_VD, bias_V, target_N, smoothing, focus, weight_N, count_correct, chunk
        )
    return VocabularyLoss(loss, nll, correct if count_correct else None)


def tokens_at_a_time(weight_VD: Tensor) -> int:
    """How many tokens' logits are held at once."""
    row = 4 * len(weight_VD)
    return max(16, min(CHUNK, CHUNK_BYTES // row) if weight_VD.device.type == "cpu" else CHUNK_BYTES_GPU // row)


def focal(nll: Tensor, focus: float) -> Tuple[Tensor, Tensor]:
    """(1 - p)^g nll of targets with probability p = exp(-nll), and its derivative by nll."""
    wrong = -torch.expm1(-nll)  # 1 - p, without cancellation where p is near 1
    # nll / (1 - p) is 1 there, and only this form has no 0 / 0 for a focus below 1
    each = torch.where(wrong > 0, nll / wrong, 1)
    return wrong**focus * nll, wrong**focus * (1 + focus * torch.exp(-nll) * each)


def _add_product(sum_VD: Tensor, grad_VC: Tensor, x_CD: Tensor) -> None:
    """`sum += grad @ x` with a sum that is float32 at least, as a frequent symbol's would not fit into float16."""
    if sum_VD.dtype == grad_VC.dtype:
        sum_VD.addmm_(grad_VC, x_CD)
    elif grad_VC.dtype == torch.bfloat16:
        sum_VD += grad_VC @ x_CD
    elif grad_VC.device.type == "cuda" and _products_widen():
        sum_VD += torch.mm(grad_VC, x_CD, out_dtype=torch.float32)
    else:
        sum_VD.addmm_(grad_VC.to(sum_VD.dtype), x_CD.to(sum_VD.dtype))


@functools.lru_cache(maxsize=1)
def _products_widen() -> bool:
    """Whether this torch multiplies float16 into float32 on a GPU (from 2.8 on)."""
    x = torch.zeros(8, 8, dtype=torch.float16, device="cuda")
    try:
        torch.mm(x, x, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


class _VocabularyLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Optional[Tensor],
        target_N: Tensor,
        smoothing: float,
        focus: float,
        weight_N: Optional[Tensor],
        count_correct: bool,
        chunk: int,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        exact = torch.float64 if x_ND.dtype == torch.float64 else torch.float32
        vocabulary = len(weight_VD)
        share = smoothing / max(1, vocabulary - 1)
        at_target = 1 - smoothing - share
        scale = HALF_SCALE if x_ND.dtype == torch.float16 else 1.0
        # Gradients are kept in halves: a large weight comes to them with the gradient of the loss, which is scaled.
        most: Any = 1.0 if weight_N is None or not len(weight_N) else weight_N.max().to(exact).clamp(min=1)
        # of negative log-likelihoods, of the logarithms of softmax's sums, and of what each token's loss is beyond nll
        sums = x_ND.new_zeros(3, dtype=exact)
        plain = not focus and weight_N is None
        correct = target_N.new_zeros(())
        grad_x = torch.empty_like(x_ND) if needs_x else None
        grad_weight = new_empty(sums, *weight_VD.shape).zero_() if needs_weight else None
        grad_bias = weight_VD.new_zeros(vocabulary, dtype=exact) if needs_bias else None
        for start in range(0, len(x_ND), chunk):
            x_CD, target_C1 = x_ND[start : start + chunk], target_N[start : start + chunk, None]
            logits_CV = x_CD @ weight_VD.t()
            if bias_V is not None:
                logits_CV += bias_V
            logits_CV = logits_CV.to(exact)
            if count_correct:
                correct += logits_CV.argmax(dim=1, keepdim=True).eq(target_C1).sum()
            best_C1 = logits_CV.amax(dim=1, keepdim=True)
            at_C1 = logits_CV.gather(1, target_C1)
            power_CV = logits_CV.sub_(best_C1).exp_()
            sum_C1 = power_CV.sum(dim=1, keepdim=True)
            log_sum_C1 = best_C1 + sum_C1.log()
            nll_C1 = log_sum_C1 - at_C1
            sums[0] += nll_C1.sum()
            sums[1] += log_sum_C1.sum()
            if not plain:
                loss_C1, slope_C1 = focal(nll_C1, focus) if focus else (nll_C1, torch.ones_like(nll_C1))
                if weight_N is not None:
                    weight_C1 = weight_N[start : start + chunk, None].to(exact)
                    loss_C1, slope_C1 = loss_C1 * weight_C1, slope_C1 * (weight_C1 / most)
                sums[2] += (loss_C1 - nll_C1).sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            # d loss / d logits = softmax, less `at_target` there; smoothing's constant share follows below
            grad_CV = power_CV.mul_(scale / sum_C1)
            grad_CV.scatter_add_(1, target_C1, grad_CV.new_full(target_C1.shape, -at_target * scale))
            if not plain:
                grad_CV *= slope_C1
            if grad_bias is not None:
                grad_bias += grad_CV.sum(dim=0)
            grad_CV = grad_CV.to(x_ND.dtype)
            if grad_x is not None:
                torch.mm(grad_CV, weight_VD, out=grad_x[start : start + chunk])
            if grad_weight is not None:
                _add_product(grad_weight, grad_CV.t(), x_CD)
        nll, log_sums, beyond = sums.unbind()
        loss = nll if plain else nll + beyond
        if smoothing:
            # The sum of all logits needs no logits, and neither has its gradient a part that depends on them.
            x_sum_D, weight_sum_D = x_ND.sum(dim=0, dtype=exact), weight_VD.sum(dim=0, dtype=exact)
            logits_sum = x_sum_D @ weight_sum_D
            if bias_V is not None:
                logits_sum = logits_sum + len(x_ND) * bias_V.sum(dtype=exact)
            loss = at_target * nll + share * (vocabulary * log_sums - logits_sum)
            if grad_x is not None:
                grad_x -= (share * scale * weight_sum_D).to(grad_x.dtype)
            if grad_weight is not None:
                grad_weight -= share * scale * x_sum_D
            if grad_bias is not None:
                grad_bias -= share * scale * len(x_ND)
        ctx.grads = grad_x, grad_weight, grad_bias
        ctx.scale, ctx.dtype = scale / most, x_ND.dtype
        loss, nll = loss.clone(), nll.clone()
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, grad_nll: Tensor, _: Tensor) -> Tuple[Optional[Tensor], ...]:
        if ctx.grads is None:
            raise RuntimeError("the gradients of a vocabulary loss can be asked for only once")
        # In place: a table of the vocabulary's size must not be there twice.
        grads = [None if grad is None else grad.mul_(grad_loss / ctx.scale).to(ctx.dtype) for grad in ctx.grads]
        ctx.grads = None
        return (*grads, None, None, None, None, None, None)

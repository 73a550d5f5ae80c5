"""Projection to the vocabulary and label-smoothed cross-entropy in one step, never holding all logits."""

from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# N target tokens, D model dim, V vocabulary, C tokens of one chunk
CHUNK_BYTES = 32 << 20  # of one chunk's logits in float32: small against a model, large enough for full speed


class VocabularyLoss(NamedTuple):
    """Sums over tokens, in nats."""

    loss: Tensor  # label-smoothed cross-entropy; carries the gradient
    nll: Tensor  # without smoothing
    correct: Tensor  # tokens whose best symbol is the target, long


def vocabulary_loss(
    x_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias_V: Optional[Tensor] = None,
    smoothing: float = 0.0,
    chunk: Optional[int] = None,
) -> VocabularyLoss:
    """Label-smoothed cross-entropy of `x @ weight.T + bias`, exact, in chunks of tokens.

    With smoothing e the target has 1 - e - e / (V - 1) more than each symbol's e / (V - 1), as in fairseq's criterion
    (Szegedy et al. 2016, Section 7, over the V - 1 wrong symbols). Gradients are computed beside the loss, so no logit
    is computed twice; the softmax is float32 whatever the products are.

    Args:
        x_ND: hidden states of the tokens that count, padding already left out.
        weight_VD, bias_V: the output projection.
        target_N: symbols, long.
        smoothing: e, in [0, 1).
        chunk: tokens at a time; None chooses so that a chunk's logits take 32 MiB.
    """
    if torch.is_autocast_enabled(x_ND.device.type):
        dtype = torch.get_autocast_dtype(x_ND.device.type)
        x_ND, weight_VD = x_ND.to(dtype), weight_VD.to(dtype)
    if chunk is None:
        chunk = max(16, CHUNK_BYTES // (4 * len(weight_VD)))
    return VocabularyLoss(*_VocabularyLoss.apply(x_ND, weight_VD, bias_V, target_N, smoothing, chunk))


class _VocabularyLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Optional[Tensor],
        target_N: Tensor,
        smoothing: float,
        chunk: int,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        exact = torch.float64 if x_ND.dtype == torch.float64 else torch.float32
        share = smoothing / max(1, len(weight_VD) - 1)
        sums = x_ND.new_zeros(2, dtype=exact)
        correct = target_N.new_zeros(())
        grad_x = torch.empty_like(x_ND) if needs_x else None
        grad_weight = torch.zeros_like(weight_VD, dtype=exact) if needs_weight else None
        grad_bias = weight_VD.new_zeros(len(weight_VD), dtype=exact) if needs_bias else None
        for start in range(0, len(x_ND), chunk):
            x_CD, target_C1 = x_ND[start : start + chunk], target_N[start : start + chunk, None]
            logits_CV = x_CD @ weight_VD.t()
            if bias_V is not None:
                logits_CV += bias_V
            logits_CV = logits_CV.to(exact)
            correct += logits_CV.argmax(dim=1, keepdim=True).eq(target_C1).sum()
            log_sum_C1 = logits_CV.logsumexp(dim=1, keepdim=True)
            nll = (log_sum_C1 - logits_CV.gather(1, target_C1)).sum()
            loss = nll
            if smoothing:
                everything = len(weight_VD) * log_sum_C1.sum() - logits_CV.sum()
                loss = (1 - smoothing - share) * nll + share * everything
            sums += torch.stack([loss, nll])
            if not any(ctx.needs_input_grad[:3]):
                continue
            # d loss / d logits = softmax - share, and 1 - smoothing - share less at the target
            grad_CV = logits_CV.sub_(log_sum_C1).exp_()
            if smoothing:
                grad_CV -= share
            grad_CV.scatter_add_(1, target_C1, grad_CV.new_full(target_C1.shape, -(1 - smoothing - share)))
            if grad_bias is not None:
                grad_bias += grad_CV.sum(dim=0)
            grad_CV = grad_CV.to(x_ND.dtype)
            if grad_x is not None:
                torch.mm(grad_CV, weight_VD, out=grad_x[start : start + chunk])
            if grad_weight is not None:
                if grad_weight.dtype == grad_CV.dtype:
                    grad_weight.addmm_(grad_CV.t(), x_CD)
                else:
                    grad_weight += grad_CV.t() @ x_CD
        ctx.save_for_backward(*(grad for grad in (grad_x, grad_weight, grad_bias) if grad is not None))
        ctx.dtypes = [None if grad is None else x_ND.dtype for grad in (grad_x, grad_weight, grad_bias)]
        loss, nll = sums.unbind()
        loss, nll = loss.clone(), nll.clone()
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, grad_nll: Tensor, _: Tensor) -> Tuple[Optional[Tensor], ...]:
        saved = iter(ctx.saved_tensors)
        grads = [None if dtype is None else (next(saved) * grad_loss).to(dtype) for dtype in ctx.dtypes]
        return (*grads, None, None, None)

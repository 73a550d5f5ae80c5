"""How far a student's self-attention relations are from its teacher's, never holding all of them (MiniLM)."""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# B examples, T tokens, D teacher's width, E student's width, H relation heads
# G examples of one group, S tokens of its longest, P heads of some of its examples, R rows of one block, W width / H
SCORES = 1 << 18  # scores of one block and one model on a CPU: three such blocks stay near a core
SCORES_GPU = 1 << 26  # the same on a GPU, where a small product does not fill the device


def relation_loss(
    teacher_i_BTD: Tensor,
    teacher_j_BTD: Tensor,
    student_i_BTE: Tensor,
    student_j_BTE: Tensor,
    *,
    heads: int,
    padding_BT: Optional[Tensor] = None,
    scores: Optional[int] = None,
) -> Tensor:
    """Each example's L_ij = 1 / (H len) sum over heads and rows of KL(R^T || R^S), exact, in blocks of rows: (B,).

    R = softmax(A_i A_j^T / sqrt(W)) for each of H heads of width W into which a model's whole width is split (MiniLMv2,
    arXiv 2012.15828, Section 3.1). Queries with queries, keys with keys, values with values are MiniLMv2's. With the
    attention heads of both models as H, queries with keys are the attention transfer of MiniLM (arXiv 2002.10957,
    Section 3.1) and values with values its value relation (Section 3.2).

    The papers' loss of a batch is the mean; a criterion with B as its sample size sums. Memory grows with T, not with
    T x T: scores live for one block, in which the student's gradients are computed too. All of it is float32, or
    float64 where an input is. The teacher gets no gradient.

    Args:
        teacher_i_BTD, teacher_j_BTD: projections of the teacher before any split into heads and any scaling, A_i of
            the rows and A_j of the columns; may be the same tensor.
        student_i_BTE, student_j_BTE: the student's, of any width.
        heads: relation heads H.
        padding_BT: True at padding, wherever it is; what the projections hold there is never read. An example without
            tokens has loss 0.
        scores: scores of one model held at once, more only where a row is longer; None chooses.

    Raises:
        ValueError: heads that do not divide a width, or shapes that do not belong together.
    """
    _check(teacher_i_BTD, teacher_j_BTD, student_i_BTE, student_j_BTE, heads, padding_BT)
    scores = scores or (SCORES if student_i_BTE.device.type == "cpu" else SCORES_GPU)
    if not torch.is_grad_enabled():  # inside the function it never is, and gradients would be computed for nobody
        student_i_BTE, student_j_BTE = student_i_BTE.detach(), student_j_BTE.detach()
    with torch.autocast(student_i_BTE.device.type, enabled=False):
        return _RelationLoss.apply(
            teacher_i_BTD.detach(), teacher_j_BTD.detach(), student_i_BTE, student_j_BTE, heads, padding_BT, scores
        )


def _check(
    teacher_i: Tensor, teacher_j: Tensor, student_i: Tensor, student_j: Tensor, heads: int, padding: Optional[Tensor]
) -> None:
    if heads < 1:
        raise ValueError(f"{heads} relation heads: there must be at least 1")
    for name, i, j in (("teacher", teacher_i, teacher_j), ("student", student_i, student_j)):
        if i.dim() != 3 or i.shape != j.shape:
            raise ValueError(
                f"the {name}'s projections have the shapes {tuple(i.shape)} and {tuple(j.shape)}, "
                "which must be one of (examples, tokens, width)"
            )
        if i.size(2) % heads:
            raise ValueError(f"{heads} relation heads do not divide the {name}'s width {i.size(2)}")
    for name, other in (("the teacher's projections", teacher_i), ("the padding mask", padding)):
        if other is not None and other.shape[:2] != student_i.shape[:2]:
            raise ValueError(
                f"{name} are of {tuple(other.shape[:2])} examples and tokens, the student's projections of "
                f"{tuple(student_i.shape[:2])}"
            )


class _Group(NamedTuple):
    """Examples that are computed together, their tokens moved to the left."""

    example_G: Tensor
    token_GS: Tensor  # where each token was; after an example's last one, where some padding was
    padding_GS: Optional[Tensor]  # None where all are equally long
    lengths_G: Tensor

    def rows(self, x_BTD: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        """(G x H, S, W), zero at padding."""
        x_GSD = x_BTD[self.example_G[:, None], self.token_GS].to(dtype)
        if self.padding_GS is not None:
            x_GSD.masked_fill_(self.padding_GS[:, :, None], 0)
        return x_GSD.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()

    def put(self, x_BTD: Tensor, rows_PSW: Tensor, heads: int) -> None:
        """The way back."""
        rows_GHSW = rows_PSW.unflatten(0, (-1, heads))
        x_BTD[self.example_G[:, None], self.token_GS] = rows_GHSW.transpose(1, 2).flatten(2)


def _groups(x_BTD: Tensor, padding_BT: Optional[Tensor], heads: int, scores: int) -> List[_Group]:
    """Every example with tokens, the shortest first, as many together as have their scores in one block."""
    batch, length = x_BTD.shape[:2]
    if padding_BT is None:
        padding_BT = torch.zeros(batch, length, dtype=torch.bool, device=x_BTD.device)
    # stable, as tokens keep their order
    token_BT = padding_BT.to(torch.uint8).argsort(dim=1, stable=True)
    lengths: List[int] = (~padding_BT).sum(dim=1).tolist()
    waiting = sorted((example for example in range(batch) if lengths[example]), key=lengths.__getitem__)
    groups = []
    while waiting:
        size = 1
        while size < len(waiting) and (size + 1) * heads * lengths[waiting[size]] ** 2 <= scores:
            size += 1
        examples, waiting = waiting[:size], waiting[size:]
        longest = lengths[examples[-1]]
        lengths_G = torch.tensor([lengths[example] for example in examples], device=x_BTD.device)
        padding_GS = None
        if lengths[examples[0]] < longest:
            padding_GS = torch.arange(longest, device=x_BTD.device) >= lengths_G[:, None]
        example_G = torch.tensor(examples, device=x_BTD.device)
        groups.append(_Group(example_G, token_BT[example_G, :longest], padding_GS, lengths_G))
    return groups


class _RelationLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        teacher_i_BTD: Tensor,
        teacher_j_BTD: Tensor,
        student_i_BTE: Tensor,
        student_j_BTE: Tensor,
        heads: int,
        padding_BT: Optional[Tensor],
        scores: int,
    ) -> Tensor:
        both = torch.promote_types(teacher_i_BTD.dtype, student_i_BTE.dtype)
        dtype = torch.float64 if both == torch.float64 else torch.float32
        loss_B = student_i_BTE.new_zeros(len(student_i_BTE), dtype=dtype)
        needs_i, needs_j = ctx.needs_input_grad[2:4]
        # In full precision until backward has multiplied them: 1 / (H len) of a step is too little for float16.
        grad_i_BTE = torch.zeros_like(student_i_BTE, dtype=dtype) if needs_i else None
        grad_j_BTE = torch.zeros_like(student_j_BTE, dtype=dtype) if needs_j else None
        for group in _groups(student_i_BTE, padding_BT, heads, scores):
            teacher = tuple(group.rows(x, heads, dtype) for x in (teacher_i_BTD, teacher_j_BTD))
            student = tuple(group.rows(x, heads, dtype) for x in (student_i_BTE, student_j_BTE))
            kl_P, grad_i_PSW, grad_j_PSW = _divergence(teacher, student, group, needs_i or needs_j, heads, scores)
            share_G = 1 / (heads * group.lengths_G).to(dtype)
            loss_B[group.example_G] = kl_P.unflatten(0, (-1, heads)).sum(dim=1) * share_G
            share_P11 = share_G.repeat_interleave(heads)[:, None, None]
            for grad_BTE, grad_PSW in ((grad_i_BTE, grad_i_PSW), (grad_j_BTE, grad_j_PSW)):
                if grad_BTE is not None:
                    group.put(grad_BTE, grad_PSW.mul_(share_P11), heads)
        ctx.save_for_backward(grad_i_BTE, grad_j_BTE)
        ctx.dtypes = student_i_BTE.dtype, student_j_BTE.dtype
        return loss_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> Tuple[Optional[Tensor], ...]:
        grads = [
            None if grad is None else (grad * grad_B[:, None, None]).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (None, None, *grads, None, None, None)


def _divergence(
    teacher: Tuple[Tensor, ...], student: Tuple[Tensor, ...], group: _Group, needs: bool, heads: int, scores: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """KL summed over the rows of every head, and its gradients by the student's rows and columns, (P, S, W) each.

    A row of padding is zero in both models, and so are its scores: its relations are the same and its KL is 0.
    """
    teacher_i, teacher_j = teacher
    student_i, student_j = student
    many, length = student_i.shape[:2]
    for x in (teacher_i, student_i):
        x *= x.size(2) ** -0.5
    rows = max(1, min(length, scores // length))
    together = max(1, min(many, scores // (rows * length)))
    space_3N = [student_i.new_empty(together * rows * length) for _ in range(3)]
    padding_P1S = None if group.padding_GS is None else group.padding_GS.repeat_interleave(heads, 0)[:, None]
    kl_P = student_i.new_zeros(many)
    grad_i, grad_j = (torch.zeros_like(x) for x in student) if needs else student
    for first in range(0, many, together):
        heads_P = slice(first, first + together)
        for start in range(0, length, rows):
            rows_R = slice(start, start + rows)
            shape = (min(together, many - first), min(rows, length - start), length)
            at_teacher_PRS, at_student_PRS, apart_PRS = (space_N[: shape[0] * shape[1] * shape[2]].view(shape)
                                                         for space_N in space_3N)  # fmt: skip
            torch.bmm(teacher_i[heads_P, rows_R], teacher_j[heads_P].mT, out=at_teacher_PRS)
            torch.bmm(student_i[heads_P, rows_R], student_j[heads_P].mT, out=at_student_PRS)
            torch.sub(at_teacher_PRS, at_student_PRS, out=apart_PRS)
            if padding_P1S is not None:
                at_teacher_PRS.masked_fill_(padding_P1S[heads_P], -torch.inf)
                at_student_PRS.masked_fill_(padding_P1S[heads_P], -torch.inf)
            # KL = sum of R^T (scores' difference), less that of the logarithms of the softmax's sums
            log_sums_PR = _softmax(at_teacher_PRS).sub_(_softmax(at_student_PRS))
            kl_P[heads_P] += apart_PRS.mul_(at_teacher_PRS).sum(dim=2).sub_(log_sums_PR).sum(dim=1)
            if needs:
                slope_PRS = at_student_PRS.sub_(at_teacher_PRS)  # d KL / d scores of the student
                torch.bmm(slope_PRS, student_j[heads_P], out=grad_i[heads_P, rows_R])
                grad_j[heads_P].baddbmm_(slope_PRS.mT, student_i[heads_P, rows_R])
    return kl_P, grad_i.mul_(student_i.size(2) ** -0.5) if needs else grad_i, grad_j


def _softmax(x_PRS: Tensor) -> Tensor:
    """In place, and the logarithm of the sum that each row was divided by: (P, R)."""
    best_PR = x_PRS.amax(dim=2)
    torch.softmax(x_PRS, dim=2, out=x_PRS)
    return best_PR.sub_(x_PRS.amax(dim=2).log_())  # the largest probability is no less than 1 / S: no cancellation

"""MiniLM's relation loss by the plain formula and in blocks: variants for `_turns`."""

import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from _turns import MIB, Variant, resident
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package beside this script, whatever is installed

# B examples, T tokens, D teacher's width, E student's width, H relation heads
PLAIN, BLOCKS, INPUTS = "plain", "blocks", "inputs alone"


class Case(NamedTuple):
    """What all variants of a comparison share."""

    length: int
    examples: int
    relations: int = 3  # of Q-Q, K-K, V-V
    heads: int = 48
    teacher_dim: int = 768
    student_dim: int = 384
    device: str = "cpu"


def plain(
    teacher_i_BTD: Tensor,
    teacher_j_BTD: Tensor,
    student_i_BTE: Tensor,
    student_j_BTE: Tensor,
    *,
    heads: int,
    padding_BT: Optional[Tensor] = None,
) -> Tensor:
    """Each example's L_ij, from all heads' (T, T) softmaxes at once."""
    dtype = torch.promote_types(student_i_BTE.dtype, torch.float32)

    def scores(i: Tensor, j: Tensor) -> Tensor:
        i_BHTW, j_BHTW = (x.to(dtype).unflatten(2, (heads, -1)).transpose(1, 2) for x in (i, j))
        scores_BHTT = i_BHTW @ j_BHTW.mT / i_BHTW.size(3) ** 0.5
        if padding_BT is None:
            return scores_BHTT
        return scores_BHTT.masked_fill(padding_BT[:, None, None], torch.finfo(dtype).min)

    with torch.no_grad():
        teacher_BHTT = scores(teacher_i_BTD, teacher_j_BTD).softmax(dim=3)
    student_BHTT = scores(student_i_BTE, student_j_BTE).log_softmax(dim=3)
    kl_BT = F.kl_div(student_BHTT, teacher_BHTT, reduction="none").sum(dim=(1, 3))
    if padding_BT is None:
        return kl_BT.sum(dim=1) / (heads * kl_BT.size(1))
    return kl_BT.masked_fill(padding_BT, 0).sum(dim=1) / (heads * (~padding_BT).sum(dim=1))


def blocks(*projections: Tensor, heads: int, padding_BT: Optional[Tensor] = None) -> Tensor:
    """The same from this package."""
    from fairseq_plugins.modules.relation_loss import relation_loss

    return relation_loss(*projections, heads=heads, padding_BT=padding_BT)


LOSSES = {PLAIN: plain, BLOCKS: blocks}


def projections(case: Case, dtype: torch.dtype = torch.float32) -> Tuple[List[Tensor], List[Tensor]]:
    """Teacher's and student's Q, K, V, as many as there are relations; on a GPU the teacher's are bf16."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        [torch.randn(case.examples, case.length, dim, generator=generator, dtype=dtype) for _ in range(case.relations)]
        for dim in (case.teacher_dim, case.student_dim)
    )
    teacher = [x.to(case.device, dtype if case.device == "cpu" else torch.bfloat16) for x in teacher]
    return teacher, [x.to(case.device).requires_grad_() for x in student]


class Relations(Variant):
    """Holds projections; a step is forward and backward of the loss, the mean over the batch."""

    def __init__(self, name: str, case: Case):
        torch.set_num_threads(1)
        self.name, self.case = name, case
        for loss in LOSSES:  # loads the libraries' code, which is not what a step needs
            self._backward(loss, *projections(case._replace(length=2, examples=1)))
        self.teacher, self.student = projections(case)
        self.last = 0.0

    def step(self) -> None:
        if self.name != INPUTS:
            self.last = float(self._backward(self.name, self.teacher, self.student))

    def release(self) -> None:
        for x_BTE in self.student:
            x_BTE.grad = None

    def _backward(self, name: str, teacher: List[Tensor], student: List[Tensor]) -> Tensor:
        pairs = zip(teacher, student, strict=True)
        loss = sum(LOSSES[name](t, t, s, s, heads=self.case.heads).mean() for t, s in pairs)
        loss.backward()
        return loss.detach()

    def peak(self) -> float:
        """MiB of the process, or of what is on the GPU, at the peak of one step."""
        if self.case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() / MIB
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (man 5 proc): imports have theirs
        self.step()
        return resident("VmHWM") / MIB

    def save(self, path: str) -> None:
        """Write what the last step found."""
        torch.save({"loss": self.last, "gradients": [x.grad.cpu() for x in self.student]}, path)


def make(name: str, **case: int) -> Relations:
    """A worker's variant."""
    return Relations(name, Case(**case))


def exact(name: str, case: Case) -> Dict[str, Tensor]:
    """Losses and gradients in float64, of examples of which each is shorter than the one before."""
    teacher, student = projections(case._replace(device="cpu"), torch.float64)
    lengths_B1 = torch.linspace(case.length, 1, case.examples).long()[:, None]
    padding_BT = torch.arange(case.length) >= lengths_B1
    pairs = zip(teacher, student, strict=True)
    losses = [LOSSES[name](t, t, s, s, heads=case.heads, padding_BT=padding_BT) for t, s in pairs]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), student)
    return {"losses": torch.stack(losses).detach(), "gradients": torch.stack(gradients)}

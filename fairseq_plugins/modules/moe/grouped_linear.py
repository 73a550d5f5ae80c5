"""One linear map per expert over rows sorted by expert: a loop, a batched product or torch's grouped product."""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..large_pages import new_empty
from .dispatch import Layout

# R rows, I inputs, O outputs, E experts, S slots per expert
PATHS = ("loop", "bmm", "grouped_mm", "plain")


def choose_path(x_RI: Tensor, layout: Layout) -> str:
    """The rule: slots are a batched product; on a GPU torch's grouped product; else a loop.

    `loop` is the fastest on one CPU thread and the exact one for float64. On a GPU it would have to read the number of
    rows back, so there rows in slots go to `bmm`, which knows its shapes beforehand, and compact rows to `grouped_mm`,
    which reads `ends_E` on the device in bf16 on Hopper; elsewhere torch loops inside and waits for the device for it.
    With several CPU threads a loop
    of small products spends its time at barriers: `MoEFeedForward` then asks for slots, unless the load is so uneven
    that most of them would be empty. `plain` is the reference.
    """
    if layout.slots is not None:
        return "bmm"
    if x_RI.device.type == "cuda" and x_RI.dtype != torch.float64 and hasattr(F, "grouped_mm"):
        return "grouped_mm"
    return "loop"


def grouped_product_is_native(x: Tensor) -> bool:
    """Whether torch's grouped product runs as one kernel on the GPU of `x`: bf16 on Hopper and later."""
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    modern = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device)[0] >= 9
    return modern and dtype == torch.bfloat16 and hasattr(F, "grouped_mm")


def grouped_linear(
    x_RI: Tensor,
    weight_EOI: Tensor,
    bias_EO: Optional[Tensor],
    layout: Layout,
    path: Optional[str] = None,
    *,
    relu: bool = False,
) -> Tensor:
    """`x @ weight[e].T + bias[e]` for the rows of each expert e: (R, O). Rows of no expert hold anything.

    Args:
        x_RI: rows, laid out by `layout`.
        weight_EOI, bias_EO: one linear map per expert.
        layout: which rows belong to which expert.
        path: one of `PATHS`; None takes `choose_path`.
        relu: apply a ReLU where the result is written, which spares it and its gradient a tensor of their own.

    Raises:
        ValueError: an unknown path, or one that cannot read this layout.
    """
    path = choose_path(x_RI, layout) if path is None else path
    if path not in PATHS:
        raise ValueError(f"path {path} must be one of {', '.join(PATHS)}")
    if (path == "bmm") != (layout.slots is not None) and path in ("bmm", "grouped_mm"):
        raise ValueError(f"path {path} cannot read rows {'without' if layout.slots is None else 'in'} slots")
    if path == "grouped_mm":
        y_RO = _grouped(x_RI, weight_EOI, bias_EO, layout)
        return y_RO.relu_() if relu else y_RO
    if path == "plain":
        y_RO = _plain(x_RI, weight_EOI, bias_EO, spans(layout))
        return y_RO.relu() if relu else y_RO
    if torch.is_autocast_enabled(x_RI.device.type):
        dtype = torch.get_autocast_dtype(x_RI.device.type)
        x_RI, weight_EOI = x_RI.to(dtype), weight_EOI.to(dtype)
        bias_EO = None if bias_EO is None else bias_EO.to(dtype)
    if path == "bmm":
        return _Batched.apply(x_RI, weight_EOI, bias_EO, relu)
    return _Loop.apply(x_RI, weight_EOI, bias_EO, layout, relu)


def spans(layout: Layout) -> List[Tuple[int, int]]:
    """First row and end of every expert's rows; reads them back from the device."""
    ends = layout.ends_E.tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    if layout.slots is None:
        return spans
    return [(e * layout.slots, e * layout.slots + end - start) for e, (start, end) in enumerate(spans)]


class _Loop(Function):
    """A product per expert; all weight gradients are written once, into one stacked buffer.

    Ordinary autograd over slices of the stacked weights would make a gradient of full size per expert and add them up.
    """

    @staticmethod
    def forward(
        ctx: Any, x_RI: Tensor, weight_EOI: Tensor, bias_EO: Optional[Tensor], layout: Layout, relu: bool
    ) -> Tensor:
        ctx.spans, ctx.has_bias = spans(layout), bias_EO is not None
        y_RO = new_empty(x_RI, x_RI.size(0), weight_EOI.size(1))
        for expert, (start, end) in enumerate(ctx.spans):
            rows = y_RO[start:end]
            torch.mm(x_RI[start:end], weight_EOI[expert].t(), out=rows)
            if bias_EO is not None:
                rows += bias_EO[expert]  # while the rows are in the cache; addmm would copy it there first
            if relu:
                rows.relu_()
        ctx.save_for_backward(x_RI, weight_EOI, y_RO if relu else None)
        return _cleared(y_RO, ctx.spans)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> Tuple[Optional[Tensor], ...]:
        x_RI, weight_EOI, relu_RO = ctx.saved_tensors
        grad_RO = grad_RO.contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = new_empty(x_RI, *x_RI.shape) if needs_x else None
        grad_weight = new_empty(weight_EOI, *weight_EOI.shape) if needs_weight else None
        grad_bias = grad_RO.new_empty(weight_EOI.shape[:2]) if needs_bias and ctx.has_bias else None
        ones_1R = grad_RO.new_ones(1, len(grad_RO))  # a product sums columns faster than `sum` does
        for expert, (start, end) in enumerate(ctx.spans):
            rows = grad_RO[start:end]
            if relu_RO is not None:
                rows = _through_relu(rows, relu_RO[start:end])
            if grad_x is not None:
                torch.mm(rows, weight_EOI[expert], out=grad_x[start:end])
            if grad_weight is not None:
                torch.mm(rows.t(), x_RI[start:end], out=grad_weight[expert])
            if grad_bias is not None:
                torch.mm(ones_1R[:, : end - start], rows, out=grad_bias[expert : expert + 1])
        return (None if grad_x is None else _cleared(grad_x, ctx.spans)), grad_weight, grad_bias, None, None


def _through_relu(grad: Tensor, output: Tensor) -> Tensor:
    into = new_empty(grad, *grad.shape)
    return torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=into)


def _cleared(rows: Tensor, spans: List[Tuple[int, int]]) -> Tensor:
    """Zero in the rows of no expert, in place: memory that was never written may hold NaN."""
    for (_, end), (start, _) in zip(spans, [*spans[1:], (len(rows), 0)], strict=True):
        if end < start:
            rows[end:start] = 0
    return rows


class _Batched(Function):
    """One batched product over blocks of equal size.

    Ordinary autograd would make the weight's gradient transposed and turn it round in memory.
    """

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_EOI: Tensor, bias_EO: Optional[Tensor], relu: bool) -> Tensor:
        ctx.has_bias = bias_EO is not None
        x_ESI = x_RI.reshape(len(weight_EOI), -1, x_RI.size(1))
        y_RO = new_empty(x_RI, x_RI.size(0), weight_EOI.size(1))
        y_ESO = y_RO.view(len(weight_EOI), -1, weight_EOI.size(1))
        if bias_EO is None:
            torch.bmm(x_ESI, weight_EOI.transpose(1, 2), out=y_ESO)
        else:
            torch.baddbmm(bias_EO[:, None, :], x_ESI, weight_EOI.transpose(1, 2), out=y_ESO)
        if relu:
            y_RO.relu_()
        ctx.save_for_backward(x_RI, weight_EOI, y_RO if relu else None)
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> Tuple[Optional[Tensor], ...]:
        x_RI, weight_EOI, relu_RO = ctx.saved_tensors
        if relu_RO is not None:
            grad_RO = _through_relu(grad_RO.contiguous(), relu_RO)
        experts, outputs, inputs = weight_EOI.shape
        grad_ESO, x_ESI = grad_RO.reshape(experts, -1, outputs), x_RI.reshape(experts, -1, inputs)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = new_empty(x_RI, *x_RI.shape)
            torch.bmm(grad_ESO, weight_EOI, out=grad_x.view(x_ESI.shape))
        if ctx.needs_input_grad[1]:
            grad_weight = new_empty(weight_EOI, *weight_EOI.shape)
            torch.bmm(grad_ESO.transpose(1, 2), x_ESI, out=grad_weight)
        if ctx.needs_input_grad[2] and ctx.has_bias:
            ones = grad_ESO.new_ones(1, 1, 1).expand(experts, 1, grad_ESO.size(1))
            grad_bias = torch.bmm(ones, grad_ESO).squeeze(1)  # faster than `sum`
        return grad_x, grad_weight, grad_bias, None


def _grouped(x_RI: Tensor, weight_EOI: Tensor, bias_EO: Optional[Tensor], layout: Layout) -> Tensor:
    if torch.is_autocast_enabled(x_RI.device.type):  # autocast does not know this product
        dtype = torch.get_autocast_dtype(x_RI.device.type)
        x_RI, weight_EOI = x_RI.to(dtype), weight_EOI.to(dtype)
    row_R = torch.arange(len(x_RI), device=x_RI.device)
    nobody_R1 = (row_R >= layout.ends_E[-1])[:, None]
    # Rows of no expert are memory that was never written, in the result and in the gradient of the input.
    x_RI = _Cleared.apply(x_RI, nobody_R1)
    y_RO = F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=layout.ends_E)
    y_RO = _Contiguous.apply(y_RO).masked_fill(nobody_R1, 0)
    if bias_EO is None:
        return y_RO
    return y_RO + bias_EO.to(y_RO.dtype)[layout.expert_of(row_R)]


class _Cleared(Function):
    """The identity; its gradient is 0 where told."""

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, nobody_R1: Tensor) -> Tensor:
        ctx.save_for_backward(nobody_R1)
        return x_RI.view_as(x_RI)

    @staticmethod
    def backward(ctx: Any, grad_RI: Tensor) -> Tuple[Tensor, None]:
        return grad_RI.masked_fill(ctx.saved_tensors[0], 0), None


class _Contiguous(Function):
    """The identity; its gradient is contiguous, which the grouped product's backward insists on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _plain(x_RI: Tensor, weight_EOI: Tensor, bias_EO: Optional[Tensor], spans: List[Tuple[int, int]]) -> Tensor:
    parts, done = [], 0
    for expert, (start, end) in enumerate(spans):
        parts.append(x_RI.new_zeros(start - done, weight_EOI.size(1)))
        parts.append(F.linear(x_RI[start:end], weight_EOI[expert], None if bias_EO is None else bias_EO[expert]))
        done = end
    return torch.cat([*parts, x_RI.new_zeros(len(x_RI) - done, weight_EOI.size(1))])

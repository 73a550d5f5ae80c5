import functools

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from fairseq_plugins.modules.moe.dispatch import Layout
from fairseq_plugins.modules.moe.grouped_linear import choose_path, grouped_linear

COMPACT = Layout(torch.tensor([2, 2, 7, 8], dtype=torch.int32))  # 4 experts, the second without a row; 10 rows
SLOTS = Layout(torch.tensor([2, 2, 6, 7], dtype=torch.int32), slots=4)


def run(layout, path, rows, dtype=torch.float32, bias=True, relu=False):
    torch.manual_seed(0)
    x = torch.randn(rows, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(4, 12, 8, dtype=dtype, requires_grad=True)
    shift = torch.randn(4, 12, dtype=dtype, requires_grad=True) if bias else None
    y = grouped_linear(x, weight, shift, layout, path, relu=relu)
    own = torch.zeros(rows, dtype=torch.bool)
    ends = layout.ends_E.tolist()
    for expert, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        first = start if layout.slots is None else expert * layout.slots
        own[first : first + end - start] = True
    direction = torch.randn(rows, 12, dtype=dtype)
    (y * direction)[own].sum().backward()
    return [y[own], x.grad[own], weight.grad, *([shift.grad] if bias else [])]


@pytest.mark.parametrize("bias, relu", [(True, False), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize(
    "layout, rows, path",
    [(COMPACT, 10, "loop"), (COMPACT, 10, "grouped_mm"), (SLOTS, 16, "bmm"), (SLOTS, 16, "loop")],
)
def test_all_paths_agree_with_the_plain_one(layout, rows, path, bias, relu):
    if path == "grouped_mm" and not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    got_all, wanted_all = (run(layout, one, rows, bias=bias, relu=relu) for one in (path, "plain"))
    for got, wanted in zip(got_all, wanted_all, strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck(relu):
    weight = torch.randn(4, 3, 2, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    x = torch.randn(8, 2, dtype=torch.double, requires_grad=True)
    layout = Layout(COMPACT.ends_E)
    blocks = Layout(torch.tensor([2, 2, 4, 5], dtype=torch.int32), slots=2)
    for where, path in ((layout, "loop"), (blocks, "bmm")):
        map_rows = functools.partial(grouped_linear, layout=where, path=path, relu=relu)
        assert torch.autograd.gradcheck(map_rows, (x, weight, bias))


def test_frozen_weights_get_no_gradient():
    x, weight = torch.randn(8, 2, requires_grad=True), torch.randn(4, 3, 2)
    grouped_linear(x, weight, None, Layout(COMPACT.ends_E), "loop").sum().backward()
    assert x.grad.shape == (8, 2)


def test_the_rule_and_its_refusals():
    x = torch.randn(10, 8)
    assert choose_path(x, COMPACT) == "loop" and choose_path(x, SLOTS) == "bmm"
    for path, layout in (("bmm", COMPACT), ("grouped_mm", SLOTS), ("none", COMPACT)):
        with pytest.raises(ValueError, match=f"path {path}"):
            grouped_linear(x, torch.randn(4, 3, 8), None, layout, path)


def test_rows_of_no_expert_reach_no_gradient():
    """Two maps after each other; 512 rows, 200 used. Freed memory is NaN: what reads an unwritten row shows it."""
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    layout, found = Layout(torch.tensor([60, 120, 120, 200], dtype=torch.int32)), {}
    for path in ("grouped_mm", "plain"):
        torch.manual_seed(0)
        x = torch.randn(512, 16, requires_grad=True)
        first, second = (torch.randn(4, 16, 16, requires_grad=True) for _ in range(2))
        bias = torch.randn(4, 16, requires_grad=True)
        y = grouped_linear(grouped_linear(x, first, bias, layout, path, relu=True), second, bias, layout, path)
        poison = [torch.full((512, 16), float("nan")) for _ in range(64)]
        del poison
        y[:200].sum().backward()
        found[path] = [y[:200], x.grad, first.grad, second.grad, bias.grad]
    for got, wanted in zip(*found.values(), strict=True):
        assert_close(got, wanted, rtol=1e-3, atol=1e-3)

import re
import subprocess
import sys

import pytest
import torch

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmarks" / "relation_distillation.py"


@pytest.fixture(scope="module")
def parts(module):
    return module("_relations")


def test_the_plain_formula_by_hand(parts):
    """One head of width 1, rows of 3/4 and 1/4 and of halves, against halves; a third token is padding."""
    teacher_i, teacher_j = torch.tensor([[[3.0], [1.0], [7.0]]]).log(), torch.tensor([[[1.0], [0.0], [9.0]]])
    padding_BT = torch.tensor([[False, False, True]])
    student = torch.zeros(1, 3, 1)
    loss_B = parts.plain(teacher_i, teacher_j, student, student, heads=1, padding_BT=padding_BT)
    assert float(loss_B) == pytest.approx(0.130812 / 2, abs=1e-6)
    short = [x[:, :2] for x in (teacher_i, teacher_j, student, student)]
    assert float(parts.plain(*short, heads=1)) == pytest.approx(0.130812 / 2, abs=1e-6)


def test_both_variants_agree_with_padding(module, parts):
    case = parts.Case(length=9, examples=3, heads=2, teacher_dim=8, student_dim=4)
    right = parts.exact(parts.PLAIN, case)
    module("relation_distillation").compare(parts.exact(parts.BLOCKS, case), right, 1e-10)
    assert right["gradients"].shape == (3, 3, 9, 4) and right["gradients"].any()
    assert not right["gradients"][:, 2, 1:].any(), "the last example has one token"


def test_compare_refuses_what_differs(module):
    compare = module("relation_distillation").compare
    right = {"loss": 2.0, "gradients": [torch.tensor([1.0, -4.0])]}
    compare({"loss": 2.0, "gradients": [torch.tensor([1.0003, -4.0])]}, right, 1e-4)
    for wrong in ({"loss": 2.001}, {"loss": float("nan")}, {"gradients": [torch.tensor([1.0, -4.001])]}):
        with pytest.raises(ValueError, match=f"{[*wrong][0]} in blocks are"):
            compare({**right, **wrong}, right, 1e-4)


def test_the_whole_benchmark_in_a_tiny_size(tmp_path):
    out = tmp_path / "results.md"
    words = [sys.executable, str(SCRIPT), "--quick", "--only", "cpu", "--relations", "3", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.read_text().splitlines()]
    rows = [row for row in rows if row[0] == "24"]
    assert [row[:4] for row in rows] == [["24", "2", "3", "plain"], ["24", "2", "3", "blocks"]]
    assert all(re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", row[5]) for row in rows)

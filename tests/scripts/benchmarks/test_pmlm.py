import re
import subprocess
import sys

import pytest
import torch

from fairseq_plugins.modules.attention_masks import NOWHERE
from tests.helpers import REPOSITORY
from tests.tasks.pretraining import write_data

SCRIPT = REPOSITORY / "scripts" / "benchmarks" / "pmlm.py"
PAD, MASK, PSEUDO = 1, 10, 11


@pytest.fixture(scope="module")
def parts(module):
    return module("_pseudo_masked")


def batch():
    """UniLMv2's example, x4 x5 then x2, and a text of which x3 alone is masked."""
    return {
        "net_input": {
            "src_tokens": torch.tensor([[21, MASK, 23, MASK, MASK, 26], [31, 32, MASK, 34, PAD, PAD]]),
            "src_lengths": torch.tensor([6, 4]),
            "segments": torch.zeros(2, 6, dtype=torch.long),
            "pseudo_tokens": torch.tensor([[PSEUDO, PSEUDO, 24, 25, PSEUDO, 22], [PSEUDO, 33] + [PAD] * 4]),
            "pseudo_positions": torch.tensor([[3, 4, 3, 4, 1, 1], [2, 2] + [-1] * 4]),
            "pseudo_steps": torch.tensor([[-1, -1, 1, 1, -2, 2], [-1, 1] + [NOWHERE] * 4]),
            "pseudo_segments": torch.zeros(2, 6, dtype=torch.long),
        },
        "target": torch.tensor(
            [[1, 22, 1, 24, 25, 1, 24, 25, 1, 1, 22, 1], [1, 1, 33, 1, 1, 1, 33, 1, 1, 1, 1, 1]]
        ),
        "ntokens": 10,
        "nsentences": 2,
    }


def test_a_pass_for_every_step(parts):
    alone, first, second = parts.passes_of(parts.EACH, batch(), PAD)
    assert [each.losses for each in (alone, first, second)] == [("ae",), ("par",), ("par",)]
    assert "pseudo_tokens" not in alone.sample["net_input"]
    assert alone.sample["target"].tolist() == [[1, 22, 1, 24, 25, 1], [1, 1, 33, 1, 1, 1]]
    beside = first.sample["net_input"]
    assert beside["pseudo_tokens"].tolist() == [[PSEUDO, PSEUDO], [PSEUDO, PAD]]
    assert beside["pseudo_positions"].tolist() == [[3, 4], [2, -1]]
    assert beside["pseudo_steps"].tolist() == [[-1, -1], [-1, NOWHERE]]
    assert first.sample["target"].tolist() == [[PAD] * 6 + [24, 25], [PAD] * 6 + [33, PAD]]
    beside = second.sample["net_input"]  # of the one text that has a second step
    assert beside["src_tokens"].tolist() == [[21, MASK, 23, MASK, MASK, 26]]
    assert beside["pseudo_tokens"].tolist() == [[24, 25, PSEUDO]]
    assert beside["pseudo_steps"].tolist() == [[1, 1, -2]]
    assert second.sample["target"].tolist() == [[PAD] * 6 + [PAD, PAD, 22]]


def test_other_variants_have_one_pass_or_two(parts):
    sample = batch()
    (one,) = parts.passes_of(parts.ONE, sample, PAD)
    assert one == (("ae", "par"), sample)
    alone, beside = parts.passes_of(parts.TWO, sample, PAD)
    assert alone.losses == ("ae",) and beside == (("par",), sample)
    assert len(parts.passes_of(parts.AE_ALONE, sample, PAD)) == 1


class Fixed:
    def __init__(self, loss, gradient):
        self.found = {"results": {"ae": torch.tensor(loss)}, "gradients": {"weight": torch.tensor([gradient])}}

    def exact(self):
        return self.found


def test_other_losses_or_gradients_are_refused(module):
    check = module("pmlm").check
    check({"one pass": Fixed(2.0, 1.0), "two passes": Fixed(2.0, 1.0)})
    for wrong, what in ((Fixed(2.0001, 1.0), "results"), (Fixed(2.0, float("nan")), "gradients")):
        with pytest.raises(ValueError, match=f"two passes has other {what} than one pass"):
            check({"one pass": Fixed(2.0, 1.0), "two passes": wrong})


def test_one_mask_is_what_the_layers_get(parts):
    """And a step leaves no trace of it."""
    model = parts.Model(parts.Case(length=24, texts=1, vocabulary=40))
    encoder, seen = model.network.encoder, []
    encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].self_mask))
    pieces, one = (parts.Attention(name, model) for name in (parts.PIECES, parts.MASK))
    for variant in (pieces, one, pieces):
        variant.step()
    assert [isinstance(mask, tuple) for mask in seen] == [True, False, True]
    assert seen[1].shape[-2:] == one.steps_BL.shape[-1:] * 2


@pytest.mark.parametrize("real_texts", [False, True])
def test_the_whole_benchmark_in_a_tiny_size(tmp_path, real_texts):
    out = tmp_path / "results.md"
    data = [str(write_data(tmp_path / "data"))] if real_texts else []
    words = [sys.executable, str(SCRIPT), *data, "--quick", "--only", "tiny", "pieces", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in out.read_text().splitlines()]
    losses = {row[2]: row for row in rows if row[0] == "2 x 24" and len(row) == 9 and "pass" in row[2] + row[3]}
    assert [losses[name][3] for name in ("one pass", "two passes")] == ["1", "2"]
    once, twice = (float(losses[name][4]) for name in ("one pass", "two passes"))
    assert 1 < once < 2 and abs(twice - once - 1) < 0.011
    assert int(losses["a pass per step"][3]) > 2
    attention = [row for row in rows if row[0] == "2 x 24" and row[2] in ("yes", "no")]
    assert [row[2] for row in attention] == ["yes", "no"]
    assert all(re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", row[6]) for row in attention)

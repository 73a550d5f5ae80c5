"""Experts spread over 2 and 4 gloo ranks compute what one rank computes on all ranks' tokens together, in float64."""

import sys

import pytest
import torch
from torch.testing import assert_close

import fairseq_plugins
from tests.distributed.expert_jobs import CASES, MICRO_BATCHES, batches_of, build, clipped, train
from tests.distributed.ranks import run_together
from tests.helpers import succeeded

fairseq_plugins.register()

pytestmark = pytest.mark.distributed

EXACT = dict(rtol=1e-9, atol=1e-11)
MAX_NORM = 0.5


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What every rank found, rank 0 first."""
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"{rank}.pt" for rank in range(request.param)]
    meeting = str(folder / "meeting")
    job = [sys.executable, "-m", "tests.distributed.expert_jobs"]
    jobs = [[*job, str(rank), str(request.param), meeting, str(result)] for rank, result in enumerate(results)]
    for process in run_together(jobs):
        succeeded(process)
    return [torch.load(result, weights_only=True) for result in results]


@pytest.fixture(scope="module")
def one_rank(ranks):
    """case -> the layer after training on the tokens of all ranks, and what that gave."""
    together = [
        tuple(torch.cat(parts, dim=1) for parts in zip(*micro_batch, strict=True))
        for micro_batch in zip(*(batches_of(rank) for rank in range(len(ranks))), strict=True)
    ]
    layers = {case: build(case, None, None) for case in CASES}
    return {case: (layer, train(layer, together)) for case, layer in layers.items()}


def held(tensor, rank, ranks):
    """What a rank holds of a stacked parameter."""
    return tensor.chunk(ranks)[rank]


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_of_the_tokens_are_those_of_one_rank(case, ranks, one_rank):
    _, whole = one_rank[case]
    for key in ("outputs", "tokens"):
        for micro_batch in range(MICRO_BATCHES):
            parts = torch.cat([found[case][key][micro_batch] for found in ranks], dim=1)
            assert parts.abs().max() > 0.1
            assert_close(parts, whole[key][micro_batch], **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_losses_of_the_ranks_add_up_to_that_of_one_rank(case, ranks, one_rank):
    for micro_batch, loss in enumerate(one_rank[case][1]["losses"]):
        assert_close(sum(found[case]["losses"][micro_batch] for found in ranks), loss, **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_all_gradients_are_those_of_one_rank(case, ranks, one_rank):
    """Over two micro-batches, so that the experts' are scaled once and not once per micro-batch."""
    layer, _ = one_rank[case]
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        for rank, found in enumerate(ranks):
            expected = held(parameter.grad, rank, len(ranks)) if name.startswith("experts.") else parameter.grad
            assert_close(found[case]["parameters"][name], expected, **EXACT, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("case", CASES)
def test_clipping_is_that_of_one_rank(case, ranks, one_rank):
    """The norm counts the router once and every expert once; all ranks scale by the same factor."""
    layer, _ = one_rank[case]
    gradients = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    shared = torch.stack([gradient.norm() for name, gradient in gradients.items() if "experts." not in name]).norm()
    assert norm > shared * 1.01 and norm > MAX_NORM * 1.01  # else the test could not tell
    assert_close(clipped(layer, 0.0)[0].double(), norm, rtol=1e-5, atol=0)  # without marks: fairseq's own
    for rank, found in enumerate(ranks):
        assert torch.equal(found[case]["norm"], ranks[0][case]["norm"])
        assert_close(found[case]["norm"].double(), norm, rtol=1e-5, atol=0)
        for name, gradient in gradients.items():
            expected = held(gradient, rank, len(ranks)) if name.startswith("experts.") else gradient
            assert_close(found[case]["clipped"][name], (expected * MAX_NORM / norm).float(), rtol=1e-4, atol=1e-8)


def test_gradcheck_of_the_exchange(ranks):
    """Both layouts, ranks with different numbers of rows, fillers included."""
    assert [found["gradcheck"] for found in ranks] == [[True, True]] * len(ranks)

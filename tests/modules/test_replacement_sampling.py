"""p_G, p_S and p_S*: the spec's example digit by digit, exact expectations over a vocabulary that can be counted."""

import math

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.modules.replacement_sampling import (
    LEAST_LOSS,
    Hardness,
    Scores,
    draw,
    restrict,
    sample_replacements,
    weigh_by_loss,
)

VOCABULARY = 7
ALLOWED_V = torch.tensor([False, True, True, True, True, False, True])


def scores(tokens=5, seed=0, dtype=torch.double):
    dice = torch.Generator().manual_seed(seed)
    shapes = (tokens, 4), (VOCABULARY, 4), (VOCABULARY,)
    return Scores(*(torch.randn(shape, generator=dice, dtype=dtype).requires_grad_() for shape in shapes))


def all_of(these):
    return torch.nn.functional.linear(*these)


def test_the_example_of_the_plausible_but_wrong_token():
    """Vocabulary a, b, c; a is the original; b is drawn at 60 % instead of 8."""
    generator = torch.tensor([[0.90, 0.08, 0.02]], dtype=torch.double)
    original = torch.tensor([0.95, 0.60, 0.10], dtype=torch.double)  # the discriminator's probability of "original"
    loss = torch.cat((-original[:1].log(), -(1 - original[1:]).log()))[None]
    assert [round(value, 3) for value in loss[0].tolist()] == [0.051, 0.916, 0.105]
    assert [round(value, 4) for value in (generator * loss)[0].tolist()] == [0.0462, 0.0733, 0.0021]
    best = weigh_by_loss(generator.log(), loss).exp()
    assert [round(value, 3) for value in best[0].tolist()] == [0.380, 0.603, 0.017]


def test_weighted_losses_are_unbiased_under_every_sampler_and_constant_under_the_best():
    dice = torch.Generator().manual_seed(1)
    loss_CV = torch.rand(5, VOCABULARY, generator=dice, dtype=torch.double) + 0.01
    log_generator_CV = restrict(all_of(scores()), ALLOWED_V)
    wanted_C = (log_generator_CV.exp() * loss_CV).sum(dim=1)
    estimated_CV = torch.rand(5, VOCABULARY, generator=dice, dtype=torch.double) + 0.1
    samplers = {
        "generator": log_generator_CV,
        "estimated": weigh_by_loss(log_generator_CV, estimated_CV),
        "own": restrict(torch.randn(5, VOCABULARY, generator=dice, dtype=torch.double), ALLOWED_V),
        "best": weigh_by_loss(log_generator_CV, loss_CV),
    }
    variance = {}
    for name, log_sampler_CV in samplers.items():
        probability = log_sampler_CV[:, ALLOWED_V].exp()
        weighted = (log_generator_CV - log_sampler_CV)[:, ALLOWED_V].exp() * loss_CV[:, ALLOWED_V]
        mean_C = (probability * weighted).sum(dim=1)
        assert_close(mean_C, wanted_C)
        variance[name] = (probability * (weighted - mean_C[:, None]) ** 2).sum(dim=1)
    assert variance["best"].max() < 1e-28
    assert variance["generator"].min() > 1e-6


@pytest.mark.parametrize("chunk", [1, 2, None])
@pytest.mark.parametrize("kind", ["none", "loss", "dist"])
def test_what_is_drawn_comes_as_often_as_the_sampler_says(kind, chunk):
    generator, head = scores(), scores(seed=3)
    original_N = torch.tensor([1, 2, 3, 4, 6])
    sampler = None if kind == "none" else Hardness(kind).sampler(head, original_N, ALLOWED_V)
    log_generator_NV = restrict(all_of(generator), ALLOWED_V)
    if kind == "none":
        wanted_NV = log_generator_NV
    elif kind == "dist":
        wanted_NV = restrict(all_of(head), ALLOWED_V)
    else:
        wanted_NV = weigh_by_loss(log_generator_NV, torch.nn.functional.softplus(all_of(head)))
    dice, draws = torch.Generator().manual_seed(0), 2000
    counts_NV = torch.zeros(5, VOCABULARY, dtype=torch.double)
    for _ in range(draws):
        sample = sample_replacements(generator, ALLOWED_V, sampler=sampler, noise=dice, chunk=chunk)
        counts_NV[torch.arange(5), sample.tokens_N] += 1
    at = torch.arange(5), sample.tokens_N
    assert_close(sample.log_generator_N, log_generator_NV[at])
    assert_close(sample.log_sampler_N, wanted_NV[at])
    assert_close(sample.ratio_N, (log_generator_NV - wanted_NV)[at].exp())
    assert not sample.log_sampler_N.requires_grad
    assert not counts_NV[:, ~ALLOWED_V].any()
    probability = wanted_NV.exp().detach()
    deviation = (probability * (1 - probability) / draws).sqrt()
    assert ((counts_NV / draws - probability).abs() <= 4.5 * deviation).all()


def test_temperature_is_the_generators():
    found = sample_replacements(scores(), ALLOWED_V, temperature=0.5)
    wanted_NV = restrict(2 * all_of(scores()), ALLOWED_V)
    assert_close(found.log_generator_N, wanted_NV[torch.arange(5), found.tokens_N])
    assert_close(found.ratio_N, torch.ones(5, dtype=torch.double))


def test_a_cold_generator_gives_its_best_token():
    best_N = restrict(all_of(scores()), ALLOWED_V).argmax(dim=1)
    assert sample_replacements(scores(), ALLOWED_V, temperature=1e-4).tokens_N.equal(best_N)


def test_the_same_dice_draw_the_same():
    def drawn(seed):
        return sample_replacements(scores(400), ALLOWED_V, noise=torch.Generator().manual_seed(seed)).tokens_N

    assert drawn(1).equal(drawn(1)) and not drawn(1).equal(drawn(2))


def test_nothing_to_draw():
    found = sample_replacements(scores(0), ALLOWED_V)
    assert found.tokens_N.shape == found.log_sampler_N.shape == (0,) and found.tokens_N.dtype == torch.long


def drawn_with(monkeypatch, fine, coarse, log_probability):
    """The symbol that two given rows of uniform numbers choose."""
    numbers = [torch.tensor([fine]), torch.tensor([coarse])]
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: numbers.pop(0).clone())
    return draw(torch.tensor([log_probability])).item()


@pytest.mark.parametrize("coarse", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("fine", [0.0, 1 - 2**-24])
def test_noise_never_draws_what_has_no_probability(fine, coarse, monkeypatch):
    numbers = [fine, fine, 0.5, 0.5], [coarse, coarse, 0.5, 0.5]
    assert drawn_with(monkeypatch, *numbers, [-torch.inf, -torch.inf, -torch.inf, -40.0]) == 3


def test_a_very_improbable_symbol_can_be_drawn(monkeypatch):
    """-log(2^-25) is 17.3, beyond what one number of float32 makes; -log(log 2) is 0.4."""
    assert drawn_with(monkeypatch, [0.5, 0.0], [0.0, 0.5], [-16.8, 0.0]) == 0
    assert drawn_with(monkeypatch, [0.5, 0.0], [0.0, 0.5], [-17.1, 0.0]) == 1


def test_many_improbable_symbols_are_drawn_as_often_as_they_shall():
    """One of 0.99, and 200,000 that share the rest: each of them is 2e7 times less probable."""
    log_probability_V = torch.full((200_001,), math.log(0.01 / 200_000))
    log_probability_V[0] = math.log(0.99)
    dice, rest = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        rest += int(draw(log_probability_V.expand(16, -1), dice).ne(0).sum())
    assert abs(rest - 16) <= 12  # three standard deviations; with noise to 16.6 there would be 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Scores beyond what a half can take the exponential of; logarithms are float32."""
    half = Scores(*(tensor.detach().to(dtype) for tensor in scores()))._replace(
        bias_V=torch.tensor([6e4, -900, 0, 0, 11, 6e4, 900]).to(dtype)
    )
    for sampler in (None, Hardness("loss").sampler(half, torch.arange(5), ALLOWED_V)):
        found = sample_replacements(half, ALLOWED_V, sampler=sampler)
        assert found.log_generator_N.dtype == torch.float32
        assert found.ratio_N.isfinite().all() and found.tokens_N.eq(6).all()


@pytest.mark.parametrize("link", ["softplus", "sigmoid"])
def test_links(link):
    score = torch.tensor([-30.0, 0.0, 2.0], dtype=torch.double)
    hardness = Hardness("loss", link)
    replaced, original = (hardness.estimate(score, torch.full((3,), value)) for value in (False, True))
    assert_close(replaced[1:], torch.tensor([math.log(2), math.log(1 + math.e**2)], dtype=torch.double))
    wanted = replaced if link == "softplus" else torch.nn.functional.softplus(-score)
    assert_close(original, wanted)  # sigmoid: the score is the discriminator's for "original"
    if link == "sigmoid":
        probability = torch.sigmoid(score)
        assert_close(original[1:], -probability.log()[1:])
        assert_close(replaced[1:], -(1 - probability).log()[1:])


@pytest.mark.parametrize("floor", [LEAST_LOSS, 0.7])
@pytest.mark.parametrize("link", ["softplus", "sigmoid"])
def test_the_sampler_weighs_by_what_is_estimated(link, floor):
    head, original_N = scores(seed=3), torch.tensor([1, 2, 3, 4, 6])
    hardness, log_generator_CV = Hardness("loss", link, floor), restrict(all_of(scores()), ALLOWED_V)[1:3]
    found_CV = hardness.sampler(head, original_N, ALLOWED_V)(log_generator_CV, slice(1, 3))
    is_original_CV = original_N[1:3, None].eq(torch.arange(VOCABULARY))
    estimate_CV = hardness.estimate(all_of(head)[1:3], is_original_CV).clamp(min=floor)
    assert_close(found_CV, weigh_by_loss(log_generator_CV, estimate_CV))
    assert (estimate_CV == floor).any() == (floor == 0.7)
    largest = (log_generator_CV - found_CV)[:, ALLOWED_V].exp().max()
    mean_C = (log_generator_CV.exp() * estimate_CV).sum(dim=1)
    assert largest <= mean_C.max() / floor  # what a floor is for


def test_one_score_each_has_the_gradients_of_all():
    these, tokens_N = scores(), torch.tensor([0, 6, 2, 2, 5])
    found = these.at(tokens_N)
    wanted = all_of(these).gather(1, tokens_N[:, None]).squeeze(1)
    assert_close(found, wanted)
    for got, expected in zip(
        torch.autograd.grad(found.square().sum(), these), torch.autograd.grad(wanted.square().sum(), these), strict=True
    ):
        assert_close(got, expected)


def test_gradcheck_of_hardness_prediction():
    tokens_N, loss_N = torch.tensor([0, 6, 2, 2, 5]), torch.rand(5, dtype=torch.double)

    def regression(*inputs):
        estimate = Hardness("loss", "sigmoid").estimate(Scores(*inputs).at(tokens_N), tokens_N.eq(2))
        return (loss_N - estimate).square().sum()

    assert torch.autograd.gradcheck(regression, tuple(scores()))

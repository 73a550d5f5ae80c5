"""Symbols drawn into masked places of fixed batches, and what ELECTRA's discriminator makes of them."""

from typing import Any, Dict, List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from variance_maths import Moments

from fairseq_plugins.modules.replacement_sampling import draw, originals_and_places, restrict

# B texts, T length, N places, G width of the generator, V vocabulary, K symbols that may be drawn, P parameters
Noise = torch.Generator


class Places(NamedTuple):
    """A batch, and the places whose symbols are drawn."""

    originals_BT: Tensor
    fixed_BT: Tensor  # what the discriminator reads elsewhere
    drawn_BT: Tensor  # bool
    segments_BT: Optional[Tensor]
    log_generator_NV: Tensor
    log_sampler_NV: Tensor


def prepare(model: Any, batch: Dict[str, Any], pad: int, one: bool, noise: Noise) -> Places:
    """Both distributions at the masked places of a batch; with `one`, of one place a text, drawn places elsewhere."""
    tokens_BT, segments_BT = batch["net_input"]["src_tokens"], batch["net_input"].get("segments")
    originals_BT, masked_BT = originals_and_places(tokens_BT, batch["target"], pad, model.allowed_V)
    with torch.no_grad():
        x_BTG, _ = model.generator(tokens_BT, features_only=True, segments=segments_BT)
        x_NG, original_N, rows = x_BTG[masked_BT], originals_BT[masked_BT], slice(None)
        log_generator_NV = restrict(model.generator_scores(x_NG).of(rows) / model.temperature, model.allowed_V)
        log_sampler_NV = model.sampler(x_NG, original_N)(log_generator_NV, rows)
    if not one:
        return Places(originals_BT, originals_BT, masked_BT, segments_BT, log_generator_NV, log_sampler_NV)
    fixed_BT = originals_BT.masked_scatter(masked_BT, draw(log_generator_NV, noise))
    chance_BT = torch.rand(masked_BT.shape, generator=noise).masked_fill(~masked_BT, -1)
    drawn_BT = masked_BT & chance_BT.eq(chance_BT.max(dim=1, keepdim=True).values)
    chosen_N = drawn_BT[masked_BT]
    return Places(
        originals_BT, fixed_BT, drawn_BT, segments_BT, log_generator_NV[chosen_N], log_sampler_NV[chosen_N]
    )


def token_losses(model: Any, places: Places, tokens_N: Tensor) -> Tensor:
    """Cross-entropy of the discriminator, (B, T) in nats, with these symbols in the places."""
    tokens_BT = places.fixed_BT.masked_scatter(places.drawn_BT, tokens_N)
    logits_BT, _ = model.discriminator(tokens_BT, places.segments_BT)
    replaced_BT = tokens_BT.ne(places.originals_BT).to(logits_BT)
    return F.binary_cross_entropy_with_logits(logits_BT, replaced_BT, reduction="none")


def parameters(model: Any) -> Dict[str, List[Tensor]]:
    """What the discriminator learns: what only it has, and the tables that the generator has too."""
    shared = {id(parameter) for parameter in model.generator.parameters()}
    groups: Dict[str, List[Tensor]] = {"own": [], "tables": []}
    for parameter in model.discriminator.parameters():
        groups["tables" if id(parameter) in shared else "own"].append(parameter)
    return groups


class Sampled(NamedTuple):
    """What many draws for one batch gave."""

    moments: Dict[str, Moments]  # losses in nats, gradients
    is_original: Tensor  # of each drawn symbol
    weight: Tensor  # its importance weight


def sample(model: Any, places: Places, pad: int, one: bool, sampler: str, samples: int, noise: Noise) -> Sampled:
    """Loss and gradient of the discriminator, of `samples` draws from `sampler`: p_G or p_S.

    Losses are means: `batch` over all tokens, which is what is trained on, and `places` over the places alone. With
    `one` place of each text the gradients are those of `places`, else those of `batch`.
    """
    groups, real_BT = parameters(model), places.originals_BT.ne(pad)
    everything = [parameter for group in groups.values() for parameter in group]
    log_NV = places.log_generator_NV if sampler == "p_G" else places.log_sampler_NV
    original_N = places.originals_BT[places.drawn_BT]
    moments = {name: Moments() for name in ("batch", "places", *groups)}
    originals, weights = [], []
    for _ in range(samples):
        tokens_N1 = draw(log_NV, noise)[:, None]
        weight_N = (places.log_generator_NV.gather(1, tokens_N1) - log_NV.gather(1, tokens_N1)).exp().squeeze(1)
        each_BT = token_losses(model, places, tokens_N1.squeeze(1))
        weighted_BT = each_BT * torch.ones_like(each_BT).masked_scatter(places.drawn_BT, weight_N)
        losses = {"batch": weighted_BT[real_BT].mean(), "places": weighted_BT[places.drawn_BT].mean()}
        found = iter(torch.autograd.grad(losses["places" if one else "batch"], everything, materialize_grads=True))
        gradients = {name: torch.cat([next(found).flatten() for _ in group]) for name, group in groups.items()}
        for name, value in {**losses, **gradients}.items():
            moments[name].add(value)
        originals.append(tokens_N1.squeeze(1).eq(original_N))
        weights.append(weight_N.double())
    return Sampled(moments, torch.cat(originals), torch.cat(weights))


class EverySymbol(NamedTuple):
    """What the discriminator does with every symbol at one place; float64."""

    generator_V: Tensor  # p_G
    sampler_V: Tensor  # p_S
    loss_V: Tensor  # of the place
    rest_V: Tensor  # of the text's other tokens, summed
    square_V: Tensor  # |g|^2, of the gradient of `loss_V` by the discriminator's own parameters
    square_of_mean: float  # |E g|^2 under p_G
    original: int


def every_symbol(model: Any, places: Places, pad: int) -> EverySymbol:
    """Read every allowed symbol at the one place of one text."""
    allowed_K = model.allowed_V.nonzero().squeeze(1)
    p_generator_K, p_sampler_K = (
        log_NV[0, allowed_K].double().softmax(dim=0) for log_NV in (places.log_generator_NV, places.log_sampler_NV)
    )
    own, real_BT = parameters(model)["own"], places.originals_BT.ne(pad)
    losses, rests, squares = [], [], []
    mean_P = torch.zeros(sum(parameter.numel() for parameter in own), dtype=torch.float64)
    for token, probability in zip(allowed_K.tolist(), p_generator_K.tolist(), strict=True):
        each_BT = token_losses(model, places, torch.tensor([token]))
        loss = each_BT[places.drawn_BT].sum()
        gradient_P = torch.cat([part.flatten() for part in torch.autograd.grad(loss, own, materialize_grads=True)])
        mean_P.add_(gradient_P, alpha=probability)
        losses.append(float(loss.detach()))
        rests.append(float(each_BT.detach()[real_BT].double().sum()) - losses[-1])
        squares.append(float(gradient_P.dot(gradient_P)))
    return EverySymbol(
        p_generator_K,
        p_sampler_K,
        *(torch.tensor(values, dtype=torch.float64) for values in (losses, rests, squares)),
        float(mean_P.square().sum()),
        int(allowed_K.eq(places.originals_BT[places.drawn_BT]).nonzero()),
    )

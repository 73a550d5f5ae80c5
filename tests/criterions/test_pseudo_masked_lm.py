"""AE + PAR per masked token: by hand from all logits, logged apart, the same where no output layer can be left out."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.logging import metrics
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.criterions import pseudo_masked_lm
from fairseq_plugins.criterions.pseudo_masked_lm import PseudoMaskedLMConfig
from tests.models.test_pseudo_masked import PARTS, WORDS, batch_of_two, model_of

PAD = WORDS.pad()


def sample(*names):
    """The worked example and a shorter text; four tokens are masked."""
    text, beside = batch_of_two()
    target = torch.full((2, 12), PAD)
    for name, places, tokens in (
        ("ae", ([0, 0, 0, 1], [1, 3, 4, 1]), [22, 24, 25, 32]),
        ("par", ([0, 0, 0, 1], [6, 7, 10, 6]), [24, 25, 22, 32]),
    ):
        if name in names:
            target[places] = torch.tensor(tokens)
    net_input = {"src_tokens": text, **(beside if "par" in names else {})}
    if "par" not in names:
        target = target[:, :6]
    return {"net_input": net_input, "target": target, "ntokens": 10, "nsentences": 2}


def criterion(names=("ae", "par"), **options):
    task = SimpleNamespace(target_dictionary=WORDS, source_dictionary=WORDS, objective_names=list(names))
    return CRITERION_REGISTRY["pseudo_masked_lm"](PseudoMaskedLMConfig(**options), task)


def by_hand(model, batch):
    logits = model(**batch["net_input"])[0]
    nll = F.cross_entropy(logits.transpose(1, 2), batch["target"], reduction="none", ignore_index=PAD)
    return nll[:, :6].sum(), nll[:, 6:].sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("chunked", [True, False])
def test_loss_and_gradients_are_those_of_all_logits(chunked, monkeypatch):
    if not chunked:
        monkeypatch.setattr(pseudo_masked_lm, "why_not", lambda model: "a back-end")
    model, batch = model_of(*PARTS["unilmv2"]), sample("ae", "par")
    loss, size, log = criterion(objective_weights="par:0.5")(model, batch)
    ae, par = by_hand(model, batch)
    assert size == log["sample_size"] == 4
    assert_close(loss, ae + 0.5 * par, check_dtype=False, rtol=1e-6, atol=1e-6)
    assert_close(torch.stack([log["ae_loss"], log["par_loss"]]), torch.stack([ae, par]).detach(), check_dtype=False)
    wanted = gradients(model, sum(part * weight for part, weight in zip(by_hand(model, batch), (1, 0.5), strict=True)))
    found = gradients(model, criterion(objective_weights="par:0.5")(model, batch)[0])
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, place", [("ae", 0), ("par", 1)])
def test_one_of_both_alone(name, place):
    model, batch = model_of(), sample(name)
    loss, size, log = criterion([name])(model, batch)
    if name == "ae":
        wanted = F.cross_entropy(
            model(**batch["net_input"])[0].transpose(1, 2), batch["target"], reduction="sum", ignore_index=PAD
        )
    else:
        wanted = by_hand(model, batch)[place]
    assert size == 4 and {key for key in log if key.endswith("_loss")} == {f"{name}_loss"}
    assert_close(loss, wanted, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_the_ae_loss_has_no_gradient_beside_the_text():
    model, found = model_of(), []
    model.encoder.embedding_dropout.register_forward_hook(lambda _, inputs, x: (x.retain_grad(), found.append(x))[0])
    batch = sample("ae", "par")
    criterion(["ae"])(model, batch)[0].backward()
    assert found[0].grad[:, :6].abs().sum() > 0 and not found[0].grad[:, 6:].any()


def test_the_log_has_bits_per_masked_token():
    model, made, batch = model_of(), criterion(), sample("ae", "par")
    with metrics.aggregate(new_root=True) as told:
        made.reduce_metrics([made(model, batch)[2], made(model, batch)[2]])
    values = told.get_smoothed_values()
    bits = [part.item() / 4 / torch.log(torch.tensor(2.0)).item() for part in by_hand(model, batch)]
    assert [values["ae_loss"], values["par_loss"]] == pytest.approx(bits, abs=1e-3)
    assert values["loss"] == pytest.approx(sum(bits), abs=2e-3)
    assert values["ae_ppl"] == pytest.approx(2 ** bits[0], rel=0.01)


def test_a_batch_without_masked_tokens_is_no_error():
    batch = sample()
    batch["net_input"], batch["target"] = sample("ae", "par")["net_input"], torch.full((2, 12), PAD)
    made = criterion()
    loss, size, log = made(model_of(), batch)
    assert loss.item() == 0 and size == 0
    made.reduce_metrics([log])


def test_experts_add_their_losses():
    model = model_of("--moe-experts", "4", "--moe-freq", "1")
    batch = sample("ae", "par")
    plain, balanced = (criterion(moe_balance_weight=weight)(model, batch) for weight in (0.0, 0.5))
    assert plain[2]["moe_layers"] == 2
    assert_close(balanced[0] - plain[0], 0.5 * 4 * plain[2]["moe_balance"].to(plain[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("names", [[], ["sc", "tsc"]])
def test_another_task_is_refused(names):
    with pytest.raises(Refusal, match="--criterion pseudo_masked_lm needs --task pseudo_masked_lm"):
        criterion(names)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"objective_weights": "sc:1"}, "--objective-weights sc:1: the objectives are ae, par"),
        ({"objective_weights": "ae:0"}, "--objective-weights ae:0: give a positive number"),
        ({"moe_balance_weight": -1.0}, "--moe-balance-weight -1.0 must not be negative"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(Refusal, match=message):
        criterion(**options)

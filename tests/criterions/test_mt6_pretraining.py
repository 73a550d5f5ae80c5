"""The sum of per-token means: by hand from the stock criterion, weighted, logged by name."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.criterions.mt6_pretraining import MT6PretrainingConfig
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
TASK = SimpleNamespace(target_dictionary=WORDS, source_dictionary=WORDS, objective_names=["sc", "tsc"])
GROUPED = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, -1, -1, -1]])


def part(lengths, seed, groups=None):
    target = sentences(WORDS, lengths, seed=seed)
    source = sentences(WORDS, lengths, seed=seed + 1)
    net_input = {
        "src_tokens": source,
        "src_lengths": torch.tensor(lengths),
        "prev_output_tokens": shifted(target, WORDS),
    }
    if groups is not None:
        net_input["groups"] = groups
    return {"net_input": net_input, "target": target, "ntokens": sum(lengths), "nsentences": len(lengths)}


PARTS = {"sc": part([5, 3, 2], 1), "tsc": part([8, 5], 5, GROUPED)}


def sample(*names):
    return {
        "objectives": {name: PARTS[name] for name in names},
        "ntokens": sum(PARTS[name]["ntokens"] for name in names),
        "nsentences": 5,
    }


def criterion(**options):
    return CRITERION_REGISTRY["mt6_pretraining"](MT6PretrainingConfig(**options), TASK)


def model(*flags):
    torch.manual_seed(0)
    return build("transformer_mt", WORDS, *TINY_MT, "--share-decoder-input-output-embed", *flags).double().train()


def mean(of, name, smoothing=0.0):
    stock = LabelSmoothedCrossEntropyCriterion(TASK, sentence_avg=False, label_smoothing=smoothing)
    return stock(of, PARTS[name])[0] / PARTS[name]["ntokens"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_weighted_sum_of_means(smoothing):
    of = model()
    made = criterion(objective_weights="tsc:0.5", label_smoothing=smoothing)
    loss, size, _ = made(of, sample("sc", "tsc"))
    loss.backward()
    found = [parameter.grad.clone() for parameter in of.parameters()]
    of.zero_grad()
    wanted = mean(of, "sc", smoothing) + 0.5 * mean(of, "tsc", smoothing)
    wanted.backward()
    assert size == 1
    assert_close(loss, wanted, check_dtype=False, rtol=1e-6, atol=1e-6)
    for got, parameter in zip(found, of.parameters(), strict=True):
        assert_close(got, parameter.grad, check_dtype=False, rtol=1e-5, atol=1e-6)


def test_the_log_names_every_objective_and_adds_batches_up_by_tokens():
    of, made = model(), criterion(objective_weights="tsc:2", report_accuracy=True)
    with metrics.aggregate(new_root=True) as told:
        logs = [made(of, sample("sc", "tsc"))[2], made(of, sample("sc"))[2]]
        assert logs[0].keys() == logs[1].keys()  # workers with other objectives must be able to add theirs
        made.reduce_metrics(logs)
    values = told.get_smoothed_values()
    bits = {name: mean(of, name).item() / torch.log(torch.tensor(2.0)).item() for name in PARTS}
    assert values["sc_loss"] == pytest.approx(bits["sc"], abs=1e-3)
    assert values["tsc_loss"] == pytest.approx(bits["tsc"], abs=1e-3)
    assert values["loss"] == pytest.approx(bits["sc"] + 2 * bits["tsc"], abs=2e-3)
    assert 0 <= values["sc_accuracy"] <= 100 and 0 <= values["tsc_accuracy"] <= 100


def test_workers_with_other_objectives_log_the_same_kinds_of_values():
    """The engine sends tensors and numbers in two pieces, which must be of one length on all workers."""
    logs = [criterion()(model(), sample(*names))[2] for names in (("sc",), ("tsc",), ("sc", "tsc"))]
    kinds = [{key: torch.is_tensor(value) for key, value in log.items()} for log in logs]
    assert kinds[0] == kinds[1] == kinds[2]


def test_router_losses_of_both_passes_are_added():
    of = model("--moe-experts", "4", "--moe-freq", "1")
    plain = criterion(moe_balance_weight=0.0)(of, sample("sc", "tsc"))
    balanced = criterion(moe_balance_weight=0.5)(of, sample("sc", "tsc"))
    layers = plain[2]["moe_layers"]
    assert layers == 2 * 5  # five layers with experts, two passes
    assert_close(balanced[0] - plain[0], 0.5 * plain[2]["moe_balance"].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"objective_weights": "mt:1"}, "--objective-weights mt:1: the objectives are sc, tsc"),
        ({"objective_weights": "sc:x"}, "--objective-weights sc:x: give a positive number"),
        ({"objective_weights": "sc:-1"}, "--objective-weights sc:-1: give a positive number"),
        ({"objective_weights": "sc:nan"}, "--objective-weights sc:nan: give a positive number"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1 must be at least 0 and below 1"),
        ({"moe_balance_weight": -1.0}, "--moe-balance-weight -1.0 must not be negative"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(Refusal, match=message):
        criterion(**options)

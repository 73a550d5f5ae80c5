import json
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics
from torch.testing import assert_close

from fairseq_plugins.modules.moe.router_losses import RouterReport
from tests.helpers import run_fairseq, succeeded, train_words, training_losses
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
TASK = SimpleNamespace(target_dictionary=WORDS, source_dictionary=WORDS)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
SAMPLE = {
    "net_input": {
        "src_tokens": sentences(WORDS, [7, 4, 9], left_pad=True),
        "src_lengths": None,
        "prev_output_tokens": shifted(TARGET, WORDS),
    },
    "target": TARGET,
    "ntokens": 16,
    "nsentences": 3,
}
MOE = "--moe-experts 4 --moe-freq 1 --moe-clusters 2"


def criterion(**weights):
    cls = CRITERION_REGISTRY["label_smoothed_cross_entropy_with_moe"]
    return cls(TASK, sentence_avg=False, label_smoothing=0.1, **weights)


def model(*flags):
    torch.manual_seed(0)
    return build("transformer_mt", WORDS, *TINY_MT, *flags).train()


def test_the_sum_by_hand():
    moe = model(*MOE.split())
    loss, sample_size, log = criterion(moe_balance_weight=0.5, moe_cluster_weight=0.25)(moe, SAMPLE)
    plain = LabelSmoothedCrossEntropyCriterion(TASK, False, 0.1)
    stock, _, stock_log = plain(moe, SAMPLE)
    reports = [RouterReport.unpack(vector) for vector in moe(**SAMPLE["net_input"])[1]["auxiliary"]]
    assert len(reports) == 5 == log["moe_layers"]
    extra = sum(0.5 * report.balance + 0.25 * report.cluster for report in reports)
    assert loss.item() == pytest.approx((stock + 16 * extra).item()) and sample_size == 16
    # the criterion's own number stays what it was, but for the order in which it is summed
    assert log["loss"].item() == pytest.approx(stock_log["loss"].item(), rel=1e-6)
    assert log["moe_balance"].item() == pytest.approx(sum(report.balance.item() for report in reports))


def test_a_dense_model_trains_as_under_the_stock_criterion():
    dense = model()
    loss, _, log = criterion()(dense, SAMPLE)
    assert_close(loss, LabelSmoothedCrossEntropyCriterion(TASK, False, 0.1)(dense, SAMPLE)[0])
    assert not any(key.startswith("moe") for key in log)


def test_means_over_layers_and_micro_batches_are_logged():
    logs = [criterion()(model(*MOE.split()), SAMPLE)[2] for _ in range(2)]
    with metrics.aggregate(new_root=True) as meters:
        CRITERION_REGISTRY["label_smoothed_cross_entropy_with_moe"].reduce_metrics(logs)
    values = meters.get_smoothed_values()
    for name in ("balance", "cluster", "dropped", "load_max", "load_entropy", "gate", "temperature"):
        assert values[f"moe_{name}"] == pytest.approx(logs[0][f"moe_{name}"].item() / 5, abs=1e-4)


@pytest.mark.parametrize("flag", ["moe_balance_weight", "moe_cluster_weight"])
def test_negative_weights_are_refused(flag):
    with pytest.raises(SystemExit, match=f"--{flag.replace('_', '-')} -1 must not be negative"):
        criterion(**{flag: -1})


SIDE = ["embed-dim", "32", "ffn-embed-dim", "64", "attention-heads", "4", "layers", "2"]
ARCH = ["--arch", "transformer_mt", "--share-all-embeddings", "--dropout", "0", *MOE.split()]
for side in ("encoder", "decoder"):
    ARCH += [word if word.isdigit() else f"--{side}-{word}" for word in SIDE]


def test_the_stock_criterion_is_refused_in_one_sentence(data, tmp_path):
    refused = run_fairseq("train", *train_words(data, tmp_path, 2, "--save-dir", tmp_path, model=ARCH))
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert "--criterion ignores their router losses; use one of" in refused.stderr.strip().splitlines()[-1]


def test_training_logs_the_routers_and_counts_losses_once(data, tmp_path):
    with_moe = ["--criterion", "label_smoothed_cross_entropy_with_moe", "--label-smoothing", "0.1"]
    runs = {}
    for name, flags in (("plain", []), ("recomputed", ["--checkpoint-activations"])):
        words = train_words(data, tmp_path / name, 4, *with_moe, *flags, "--update-freq", 2, model=ARCH)
        runs[name] = succeeded(run_fairseq("train", *words))
    assert training_losses(runs["plain"]) == training_losses(runs["recomputed"])
    assert len(training_losses(runs["plain"])) == 4
    line = json.loads(re.findall(r"train_inner \| (\{.*\})", runs["plain"].stdout + runs["plain"].stderr)[-1])
    assert 0.5 < float(line["moe_balance"]) < 4 and 0 < float(line["moe_load_entropy"]) <= 1.387
    assert 1 <= float(line["moe_load_max"]) <= 4 and 0 <= float(line["moe_dropped"]) < 1
    assert 0.2 < float(line["moe_temperature"]) < 0.4 and 0 < float(line["moe_gate"]) <= 1


def test_accumulated_micro_batches_each_count_by_their_own_size():
    """Two micro-batches of different size: the sum of what each gives alone."""
    moe = model(*MOE.split())
    short = {**SAMPLE, "target": TARGET[:1, :5], "ntokens": 5, "nsentences": 1}
    short["net_input"] = {"src_tokens": TARGET[:1, :5], "src_lengths": None}
    short["net_input"]["prev_output_tokens"] = shifted(TARGET[:1, :5], WORDS)
    alone, together = [], criterion(moe_balance_weight=0.5)
    expected = 0
    for sample in (SAMPLE, short):
        moe.zero_grad()
        loss, size, log = together(moe, sample)
        expected = expected + log["loss"] + size * (0.5 * log["moe_balance"] + 0.01 * log["moe_cluster"])
        loss.backward()
        alone.append([parameter.grad.clone() for parameter in moe.parameters()])
    moe.zero_grad()
    losses = [together(moe, sample)[0] for sample in (SAMPLE, short)]
    assert sum(losses).item() == pytest.approx(expected.item(), rel=1e-5)
    sum(losses).backward()
    for parameter, one, two in zip(moe.parameters(), *alone, strict=True):
        torch.testing.assert_close(parameter.grad, one + two, rtol=1e-4, atol=1e-5)


def test_masked_lm_trains_with_experts():
    words = dictionary()
    flags = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 4"
    masked = build("transformer_mlm", words, *flags.split(), *MOE.split(), task="masked_lm").train()
    cls = CRITERION_REGISTRY["masked_lm_with_moe"]
    loss_of = cls(SimpleNamespace(tpu=False, moe_balance_weight=0.01, moe_cluster_weight=0.01), TASK)
    target = TARGET.masked_fill(torch.rand(TARGET.shape) < 0.5, words.pad())
    net_input = {"src_tokens": TARGET, "src_lengths": None}
    sample = {"net_input": net_input, "target": target, "ntokens": 16, "nsentences": 3}
    loss, size, log = loss_of(masked, sample)
    loss.backward()
    expected = log["loss"] + size * 0.01 * (log["moe_balance"] + log["moe_cluster"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(layer.feed_forward.router.projection.weight.grad.any() for layer in masked.encoder.layers)

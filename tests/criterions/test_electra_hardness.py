"""ELECTRA's losses by hand, what reaches whom, the log, and dice that depend on the batch alone."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.logging import metrics
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.criterions.electra_hardness import SUMS, ElectraHardnessConfig
from fairseq_plugins.data.symbols import MASK
from tests.models.test_electra import SHARED, WORDS, batch_of_three, model_of
from tests.models_support import build

PAD = WORDS.pad()
TASK = SimpleNamespace(target_dictionary=WORDS, source_dictionary=WORDS)


def sample():
    """Five tokens are masked; the text is 24 tokens."""
    originals_BT, source_BT, masked_BT = batch_of_three()
    target_BT = originals_BT.masked_fill(~masked_BT, PAD)
    net_input = {"src_tokens": source_BT, "src_lengths": torch.tensor([9, 9, 6])}
    return {"id": torch.tensor([7, 8, 9]), "net_input": net_input, "target": target_BT, "ntokens": 24, "nsentences": 3}


def criterion(**options):
    return CRITERION_REGISTRY["electra_hardness"](ElectraHardnessConfig(**{"seed": 1, **options}), TASK)


def losses_by_hand(model, loss, **options):
    """L_G, L_D and L_HP of `loss`'s own draw, as sums over masked, means over all and sums over masked tokens."""
    originals_BT, source_BT, masked_BT = batch_of_three()
    noise = loss._dice(model, sample())
    logits_BT, extra = model(source_BT, originals=originals_BT, masked=masked_BT, noise=noise)
    output = extra["electra"]
    gold_N, drawn_N = originals_BT[masked_BT], output.tokens_BT[masked_BT]
    nll_N = -model.generator.lm_head(output.generated_NG).log_softmax(1).gather(1, gold_N[:, None]).squeeze(1)
    focus = options.get("focal_gamma", 0)
    focal = ((1 - torch.exp(-nll_N)) ** focus * nll_N).sum()
    original = torch.sigmoid(-logits_BT)
    each_BT = -torch.where(output.tokens_BT.eq(originals_BT), original, 1 - original).log()
    weight_BT, ratio_N = torch.ones_like(each_BT), output.sample.ratio_N
    ratio_N = ratio_N.clamp(max=options.get("importance_clip", 10.0) or math.inf)
    if options.get("hp_importance_weight"):
        weight_BT[masked_BT] = ratio_N
    found = (weight_BT * each_BT)[originals_BT.ne(PAD)].mean()
    hard_N = each_BT[masked_BT].detach()
    hardness = torch.zeros((), dtype=torch.double)
    if model.hardness.kind == "loss":
        scores_NV = model.hardness_head(output.generated_NG)
        estimate_N = F.softplus(scores_NV).gather(1, drawn_N[:, None]).squeeze(1)
        hardness = (hard_N - estimate_N).square().sum()
    elif model.hardness.kind == "dist":
        scores_NV = model.hardness_head(output.generated_NG).masked_fill(~model.allowed_V, -torch.inf)
        log_NV = scores_NV.log_softmax(1)
        hardness = -(ratio_N * hard_N * log_NV.gather(1, drawn_N[:, None]).squeeze(1)).sum()
    return focal, found, hardness


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    "hardness, options, weight",
    [
        ("none", {}, 0),
        ("none", {"focal_gamma": 2.0, "discriminator_weight": 30.0}, 0),
        ("loss", {"focal_gamma": 0.0}, 5),
        ("loss", {"focal_gamma": 1.0, "hardness_weight": 2.0, "hp_importance_weight": True}, 2),
        ("dist", {"focal_gamma": 4.0}, 1),
        ("dist", {"focal_gamma": 0.0, "hp_importance_weight": True, "importance_clip": 0.0}, 1),
    ],
)
def test_the_sum_and_its_gradients_by_hand(hardness, options, weight):
    model = model_of("--hardness", hardness)
    loss_of = criterion(**options)
    loss, size, log = loss_of(model, sample())
    focal, found, predicted = losses_by_hand(model, loss_of, **options)
    wanted = focal + options.get("discriminator_weight", 50.0) * 5 * found + weight * predicted
    assert size == log["sample_size"] == 5
    assert_close(loss, wanted)
    expected = gradients(model, wanted)
    for name, gradient in gradients(model, criterion(**options)(model, sample())[0]).items():
        assert_close(gradient, expected[name], msg=name)


def test_weights_have_a_limit_only_where_they_are_told_to():
    model = model_of("--hardness", "dist")
    found = []
    for limit in (0.5, 0.0):
        loss_of = criterion(importance_clip=limit, hp_importance_weight=True)
        focal, discriminator, predicted = losses_by_hand(
            model, loss_of, focal_gamma=4.0, hp_importance_weight=True, importance_clip=limit
        )
        assert_close(loss_of(model, sample())[0], focal + 250 * discriminator + predicted)
        found.append((discriminator, predicted))
    assert found[0] < found[1]


@pytest.mark.parametrize("gamma", [0.0, None])
def test_without_focus_the_generator_learns_what_a_masked_language_model_learns(gamma):
    """Same weights: loss, gradients and accuracy of the stock criterion."""
    model = model_of()
    flags = "--encoder-layers 2 --encoder-embed-dim 8 --encoder-ffn-embed-dim 32 --encoder-attention-heads 1".split()
    more = ["--embedding-dim", "16", "--segments", "2", "--dropout", "0", "--max-source-positions", "20"]
    alone = build("transformer_mlm_base", WORDS, *flags, *more, task="masked_lm").double()
    alone.encoder.load_state_dict(model.generator.state_dict())
    stock = CRITERION_REGISTRY["masked_lm"](SimpleNamespace(tpu=False), TASK)
    wanted, size, _ = stock(alone, sample())
    loss, ours, log = criterion(discriminator_weight=0.0, focal_gamma=gamma)(model, sample())
    assert ours == size
    assert_close(loss, wanted.double(), rtol=1e-6, atol=0)
    assert_close(log["generator"], log["nll"])
    expected = gradients(alone, wanted)
    for name, gradient in gradients(model, loss).items():
        if name.startswith("generator."):
            assert_close(gradient, expected[name.replace("generator.", "encoder.")], rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("hardness", ["loss", "dist"])
def test_each_loss_reaches_its_own_network_and_the_tables(hardness):
    def reached(model, loss):
        return {name for name, gradient in gradients(model, loss).items() if gradient.any()}

    model = model_of("--hardness", hardness)
    tables = {f"generator.{name}" for name in SHARED}  # the first of both names
    off = dict(discriminator_weight=0.0, focal_gamma=0.0)
    with_head = criterion(**off, hardness_weight=3.0)(model, sample())[0]
    without = criterion(**off, hardness_weight=0.0)(model, sample())[0]
    predicted = reached(model, with_head - without)
    assert tables < predicted and not any(name.startswith("discriminator.") for name in predicted)
    assert any(name.startswith("generator.layers.0.") for name in predicted)
    assert "hardness_head.dense.weight" in predicted
    found = reached(
        model,
        criterion(focal_gamma=0.0, hardness_weight=0.0)(model, sample())[0]
        - criterion(**off, hardness_weight=0.0)(model, sample())[0],
    )
    assert tables < found
    others = found - tables
    assert others and all(name.startswith("discriminator.") for name in others)


def test_a_sampled_original_is_no_replacement():
    """A generator that is certain of every token: nothing to find, and the discriminator learns that nothing is."""
    model = model_of()
    originals_BT, _, masked_BT = batch_of_three()
    wanted = originals_BT[masked_BT]
    model.generator.lm_head.forward = None  # nobody asks for all logits
    model.generator.before_logits = lambda x_ND: (
        F.one_hot(wanted, len(WORDS)).double(), 1e4 * torch.eye(len(WORDS)).double(), torch.zeros(len(WORDS)).double()
    )  # fmt: skip
    _, _, log = criterion()(model, sample())
    assert log["unchanged"] == log["masked"] == 5 and log["replaced"] == 0
    scores_BT, extra = model(
        sample()["net_input"]["src_tokens"], originals=originals_BT, masked=masked_BT, noise=torch.Generator()
    )
    assert extra["electra"].tokens_BT.equal(originals_BT)
    real_BT = originals_BT.ne(PAD)
    assert_close(log["discriminator"], F.softplus(scores_BT[real_BT]).sum())


def test_masked_symbols_that_are_no_text_stay():
    """The stock task masks </s> too."""
    batch, model = sample(), model_of()
    batch["target"][0, 8] = WORDS.eos()
    batch["net_input"]["src_tokens"][0, 8] = WORDS.index(MASK)
    loss, size, log = criterion()(model, batch)
    assert size == 5 and log["tokens"] == 24
    batch["target"][1, 2] = WORDS.nspecial  # but a piece of text counts
    assert criterion()(model, batch)[1] == 6


def test_the_log():
    model = model_of("--hardness", "loss")
    torch.nn.init.constant_(model.discriminator.replaced_token_head.out_proj.bias, 1.0)  # some are called replaced
    _, size, log = criterion()(model, sample())
    assert log["called_replaced"] > log["found"] > 0
    assert set(SUMS) <= set(log)
    twice = {key: value * 2 for key, value in log.items()}
    meters = []
    for logs in ([log, log], [twice]):
        with metrics.aggregate(new_root=True) as meter:
            CRITERION_REGISTRY["electra_hardness"].reduce_metrics(logs)
        meters.append(meter.get_smoothed_values())
    assert meters[0] == meters[1]
    found, bit = meters[0], math.log(2)
    assert found["loss"] == pytest.approx(float(log["loss"]) / 5 / bit, abs=1e-3)
    assert found["generator_nll_loss"] == pytest.approx(float(log["nll"]) / 5 / bit, abs=1e-3)
    assert found["generator_loss"] < found["generator_nll_loss"]  # focus 1 comes with --hardness loss
    assert found["discriminator_loss"] == pytest.approx(float(log["discriminator"]) / 24 / bit, abs=1e-4)
    assert found["hardness_loss"] == pytest.approx(float(log["hardness"]) / 5, abs=1e-4)
    assert found["sampled_original"] == 100 * int(log["unchanged"]) / 5
    assert found["generator_accuracy"] == 100 * int(log["correct"]) / 5
    assert found["replaced_recall"] == pytest.approx(100 * int(log["found"]) / int(log["replaced"]), abs=0.01)
    assert found["replaced_precision"] == pytest.approx(100 * int(log["found"]) / int(log["called_replaced"]), abs=0.01)
    effective = float(log["ratio"]) ** 2 / float(log["ratio_squared"]) / 5
    assert 0 < effective < 1 and found["effective_samples"] == pytest.approx(100 * effective, abs=0.01)


def test_plain_electra_samples_are_all_effective():
    with metrics.aggregate(new_root=True) as meter:
        CRITERION_REGISTRY["electra_hardness"].reduce_metrics([criterion()(model_of(), sample())[2]])
    assert meter.get_smoothed_values()["effective_samples"] == 100


def test_a_batch_without_masked_tokens_is_no_error():
    batch = sample()
    batch["target"].fill_(PAD)
    loss, size, log = criterion()(model_of("--hardness", "dist"), batch)
    loss.backward()
    assert size == 0 and loss == 0
    with metrics.aggregate(new_root=True):
        CRITERION_REGISTRY["electra_hardness"].reduce_metrics([log])


def test_dice_depend_on_seed_update_and_batch_alone():
    def drawn(seed=1, update=3, first=7, training=True):
        model = model_of().train(training)
        model.set_num_updates(update)
        torch.manual_seed(torch.seed())  # the engine's own dice may have fallen anyhow
        batch = {**sample(), "id": torch.tensor([first, 8, 9])}
        return torch.rand(8, generator=criterion(seed=seed)._dice(model, batch))

    assert drawn().equal(drawn())
    others = [drawn(seed=2), drawn(update=4), drawn(first=10)]
    assert not any(drawn().equal(other) for other in others)
    assert drawn(training=False).equal(drawn(training=False, update=9))  # the same whenever it is validated


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hardness", ["none", "loss", "dist"])
def test_half_precision(hardness, dtype):
    model = model_of("--hardness", hardness)
    exact = criterion(focal_gamma=2.0)(model, sample())[0]
    half = model.to(dtype)
    loss, _, log = criterion(focal_gamma=2.0)(half, sample())
    assert loss.dtype == torch.float32 and all(math.isfinite(float(log[name])) for name in SUMS)
    (64 * loss).backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters() if parameter.grad is not None)
    if hardness == "none":
        assert_close(loss.double(), exact, rtol=0.3, atol=0)  # another token may have been drawn


def test_scores_that_no_half_can_hold_the_exponential_of():
    model = model_of("--hardness", "loss").half()
    for parameter in (model.hardness_head.bias, model.generator.lm_head.bias):
        torch.nn.init.constant_(parameter, 1000.0)
    torch.nn.init.constant_(model.discriminator.replaced_token_head.out_proj.bias, -1000.0)
    loss, _, log = criterion()(model, sample())
    assert loss.isfinite() and all(math.isfinite(float(log[name])) for name in SUMS)
    (loss / 1024).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_experts_add_their_losses():
    model = model_of("--moe-experts", "4", "--moe-freq", "2").train()
    loss, _, log = criterion(moe_balance_weight=1.0)(model, sample())
    assert log["moe_layers"] == 2 and loss > log["loss"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"focal_gamma": -1.0}, "--focal-gamma -1 must be"),
        ({"focal_gamma": math.nan}, "--focal-gamma nan must be"),
        ({"discriminator_weight": math.inf}, "--discriminator-weight inf must be"),
        ({"hardness_weight": -2.0}, "--hardness-weight -2 must be"),
        ({"importance_clip": -0.1}, "--importance-clip -0.1 must be"),
        ({"moe_balance_weight": -1.0}, "--moe-balance-weight -1.0 must"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(Refusal, match=message):
        criterion(**options)


@pytest.mark.parametrize("options", [{"hardness_weight": 2.0}, {"hp_importance_weight": True}])
def test_options_that_need_hardness_prediction(options):
    flag = f"--{next(iter(options)).replace('_', '-')}"
    with pytest.raises(Refusal, match=f"{flag} needs hardness prediction: --hardness loss or dist"):
        criterion(**options)(model_of(), sample())


def test_a_batch_that_does_not_say_which_one_it_is():
    batch = sample()
    del batch["id"]
    assert criterion()(model_of(), batch)[0].isfinite() and criterion()._dice(model_of(), batch) is None


def test_back_ends_that_need_all_layers_inside_the_model():
    model = model_of()
    model.module = SimpleNamespace(find_unused_parameters=True)
    with pytest.raises(Refusal, match="--find-unused-parameters"):
        criterion()(model, sample())


def test_another_model_is_refused():
    alone = build("transformer_mlm_base", WORDS, "--max-source-positions", "20", task="masked_lm")
    with pytest.raises(Refusal, match="needs --arch electra"):
        criterion()(alone, sample())

"""_training_watch.py: by hand, and through real trainings that diverge."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf

import fairseq_plugins
from fairseq_plugins._training_watch import (
    FEWEST,
    TRIED,
    WINDOW,
    LossWatch,
    TrainingWatch,
    Watched,
    _gradient_scale,
    likely_causes,
)
from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._build import OptionError
from tests.helpers import (
    TINY_TRANSFORMER,
    checkpoint,
    run_fairseq,
    succeeded,
    train_words,
    training_losses,
)
from tests.models_support import TINY_MT, build, dictionary, model_config

fairseq_plugins.register()

MODEL = ["--arch", "transformer_mt", *TINY_TRANSFORMER[2:]]


def first_stop(watch, losses):
    """How many of `losses` it takes until the watch says so; None if it never does."""
    return next((number for number, loss in enumerate(losses, 1) if watch.observe(loss)), None)


# ---- the measure -----------------------------------------------------------------------------------------------------


def test_half_a_window_of_lost_updates_is_a_divergence():
    # 100 updates at 4; then median of 50 leaves 4 with the 26th bad one (25 bad ones: (4 + 9) / 2 = 6.5, below 8)
    assert first_stop(LossWatch(2.0), [4.0] * 100 + [9.0] * 100) == 126
    assert first_stop(LossWatch(2.0), [4.0] * 100 + [13.0] * 100) == 125  # (4 + 13) / 2 = 8.5
    assert first_stop(LossWatch(2.0), [4.0] * 100 + [7.9] * 100) is None
    assert first_stop(LossWatch(1.5), [4.0] * 100 + [7.9] * 100) == 126


def test_bad_batches_that_pass_are_none():
    assert first_stop(LossWatch(2.0), ([4.0] * 26 + [1e6] * 24) * 5) is None


def test_the_lowest_median_counts_and_not_the_lowest_loss():
    watch = LossWatch(2.0)
    assert first_stop(watch, [4.0] * 60 + [0.1] + [4.0] * 60 + [7.0] * 60) is None
    assert watch.lowest == 4.0 and watch.bound == 8.0


def test_one_loss_is_no_median():
    watch = LossWatch(2.0)
    assert first_stop(watch, [1.0] + [6.0] * (FEWEST - 2)) is None and math.isinf(watch.bound)
    assert first_stop(watch, [6.0] * 100) is None and watch.first == 6.0


def test_losses_near_zero_may_be_noisy():
    # lowest 0.01, first 8: the bound is 4
    assert first_stop(LossWatch(2.0), [8.0] * 20 + [0.01] * 100 + [3.9] * 100) is None
    assert first_stop(LossWatch(2.0), [8.0] * 20 + [0.01] * 100 + [4.1] * 100) == 20 + 100 + 26


def test_a_resumed_watch_knows_what_had_been_reached():
    before, after = LossWatch(2.0), LossWatch(2.0)
    first_stop(before, [10.0] * 10 + [3.0] * 100)
    after.load_state_dict(before.state_dict())
    assert (after.first, after.lowest, after.bound) == (10.0, 3.0, 6.0)
    assert first_stop(after, [7.0] * 100) == WINDOW
    unaware = LossWatch(2.0)
    assert first_stop(unaware, [7.0] * 100) is None  # what the state is for


# ---- one update ------------------------------------------------------------------------------------------------------


def trainer(updates=7, tried=(), **common):
    """What the watch asks of a trainer; `tried` are the losses of the weights that are about to be saved."""
    cfg = OmegaConf.create(
        {
            "optimization": {"lr": [0.5], "clip_norm": 0.0, "use_bmuf": False},
            "lr_scheduler": {"_name": "inverse_sqrt", "warmup_updates": 40},
            "common": {"fp16": False, "amp": False, **common},
        }
    )
    losses = iter(tried)
    return SimpleNamespace(cfg=cfg, get_num_updates=lambda: updates, valid_step=lambda batch: {"loss": next(losses)})


def watch():
    found = TrainingWatch(Watched(2.0, {}, "post", 18))
    found.good = "run/checkpoint_last.pt", 5
    return found


def raises(error):
    def train(*_):
        raise error

    return train


@pytest.mark.parametrize(
    "train, what",
    [
        (raises(FloatingPointError("gradients are Nan/Inf")), "its gradients are not finite"),
        (raises(FloatingPointError("Minimum loss scale reached (0.0001).")), "every loss scale overflows"),
        (raises(FloatingPointError("AMP: Minimum loss scale reached (1).")), "every loss scale overflows"),
        (lambda *_: {"loss": math.nan}, "its loss is nan"),
        (lambda *_: {"loss": math.inf}, "its loss is inf"),
    ],
)
def test_what_is_not_finite_ends_the_training_with_one_sentence(train, what):
    with pytest.raises(Refusal) as refusal:
        watch().step(trainer(), train, [{}], False)
    sentence = str(refusal.value)
    assert sentence.startswith(f"training diverged and was stopped at update 7: {what}; ") and "\n" not in sentence
    assert "last good checkpoint: run/checkpoint_last.pt (update 5)" in sentence
    assert "--lr 0.5 is too high, or --warmup-updates 40 too few; --residual post with 18 layers" in sentence
    assert "(--clip-norm 1)" in sentence


def test_other_failures_are_not_the_watch_s():
    for error in (FloatingPointError("gradients are inconsistent between workers"), RuntimeError("x")):
        with pytest.raises(type(error), match=str(error)):
            watch().step(trainer(), raises(error), [{}], False)


def test_an_update_that_overflowed_or_is_tried_again_counts_once():
    found = watch()
    found.step(trainer(), lambda *_: None, [{}], False)
    assert not found.losses.recent
    for _ in range(2):
        found.step(trainer(updates=8), lambda *_: {"loss": 3.0}, [{}], False)
    assert list(found.losses.recent) == [3.0]


@pytest.mark.parametrize("tried, refused", [([7.0, 8.0], False), ([9.0, 8.0], True), ([math.nan, 1.0], True)])
def test_only_weights_whose_loss_is_below_the_bound_are_written(tried, refused):
    found = watch()
    first_stop(found.losses, [4.0] * FEWEST)  # bound 8
    found.batches, found.paired, found.start = [{}, {}], 1, 6.0
    if not refused:
        found.try_weights(trainer(tried=tried))
        return
    with pytest.raises(Refusal, match="its weights have a loss of (8.500|nan) on 2 training batches"):
        found.try_weights(trainer(tried=tried))


def test_a_few_hard_batches_are_no_jump():
    """They were as hard at the start; only a rise of their own loss counts then."""
    found = watch()
    first_stop(found.losses, [4.0] * FEWEST)  # bound 8
    found.batches, found.paired, found.start = [{}, {}], 2, 9.0
    found.try_weights(trainer(tried=[9.0, 8.5]))
    found.try_weights(trainer(tried=[8.0, 8.2]))
    with pytest.raises(Refusal, match="a loss of 9.800"):  # 1.2 times 8.1 is 9.72
        found.try_weights(trainer(tried=[9.8, 9.8]))
    with pytest.raises(Refusal, match="a loss of nan"):
        found.try_weights(trainer(tried=[8.0, math.nan]))


def test_a_training_that_rose_from_the_start_is_seen_by_its_first_batches():
    """Medians know only the losses after the jump; an easy first batch is compared with nothing but itself."""
    for tried, refused in ((2.9, False), (3.1, True)):
        found = watch()
        rising = [1.5] + [17.0] * (WINDOW - 2)
        for update, loss in enumerate(rising, 1):
            found.step(trainer(updates=update), lambda *_, loss=loss: {"loss": loss}, [{}], False)
        assert found.losses.lowest == 17.0 and len(found.batches) == TRIED
        last = trainer(updates=WINDOW, tried=[tried, 17.0, 17.0, 17.0])
        if refused:
            with pytest.raises(Refusal, match="3.100 on the batches of its first update, above .* 2 times that at the"):
                found.step(last, lambda *_: {"loss": 17.0}, [{}], False)
        else:
            found.step(last, lambda *_: {"loss": 17.0}, [{}], False)


def test_losses_below_zero_have_no_factor():
    """A criterion that logs no loss at all counts as -1."""
    found = watch()
    for update in range(1, WINDOW + 10):
        found.step(trainer(updates=update, tried=[-1.0] * 4), lambda *_: {"loss": -1.0}, [{}], False)
    assert math.isinf(found.losses.bound)
    found.try_weights(trainer(tried=[-0.5] * 4))
    with pytest.raises(Refusal, match="a loss of nan"):
        found.try_weights(trainer(tried=[math.nan] * 4))


def test_batches_of_an_update_that_overflowed_are_not_its_first():
    found = watch()
    found.step(trainer(updates=7), lambda *_: None, ["overflowed"], False)
    found.step(trainer(updates=8), lambda *_: {"loss": 5.0}, ["first", "second"], False)
    found.step(trainer(updates=9), lambda *_: {"loss": 4.0}, ["third", "fourth", "fifth"], False)
    assert (found.batches, found.paired, found.start) == (["first", "second", "third", "fourth"], 2, 5.0)


@pytest.mark.parametrize(
    "common, residual, clip, named",
    [
        ({"fp16": True}, "post", 0.0, ["--lr", "--fp16", "--residual post"]),
        ({"amp": True}, "deepnorm", 0.0, ["--lr", "--amp", "--clip-norm"]),
        ({}, "deepnorm", 1.0, ["--lr", "--update-freq", "audit"]),
    ],
)
def test_the_three_likely_causes(common, residual, clip, named):
    cfg = trainer(**common).cfg
    cfg.optimization.clip_norm = clip
    causes = likely_causes(cfg, Watched(2.0, {}, residual, 6))
    assert len(causes) == 3 and all(word in cause for word, cause in zip(named, causes, strict=True))


# ---- real trainings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Six good updates, in the middle of the second epoch."""
    run = tmp_path_factory.mktemp("trained")
    succeeded(run_fairseq("train", *train_words(data, run, 6, model=MODEL)))
    return run


def stopped(process):
    """The sentence with which a training ended."""
    assert process.returncode == 1, process.stdout[-2000:] + process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    sentence = process.stderr.splitlines()[-1]
    assert sentence.startswith("training diverged and was stopped at update ")
    return sentence


def same_files(run, before):
    names = {path.name for path in before.glob("checkpoint*.pt")}
    assert {path.name for path in run.glob("checkpoint*.pt")} == names
    assert all((run / name).read_bytes() == (before / name).read_bytes() for name in names)


def test_weights_that_one_update_ruined_are_not_written(data, trained, tmp_path):
    """The loss of update 7 is that of good weights; a checkpoint is due right after it."""
    run = shutil.copytree(trained, tmp_path / "run")
    words = ["--lr", 10, "--save-interval-updates", 7]
    process = run_fairseq("train", *train_words(data, run, 300, *words, model=MODEL))
    sentence = stopped(process)
    assert training_losses(process)[7] < 7
    assert "at update 7: its weights have a loss of" in sentence and "times that at the start" in sentence
    assert f"last good checkpoint: {run}/checkpoint_last.pt (update 6); likely causes: --lr 10 is too high" in sentence
    same_files(run, trained)
    succeeded(run_fairseq("train", *train_words(data, run, 8, *words, "--stop-at-loss-jump", 0, model=MODEL)))
    assert checkpoint(run)["optimizer_history"][-1]["num_updates"] == 8  # turned off, it writes them


@pytest.mark.slow
def test_a_loss_that_stays_high_ends_the_training(data, tmp_path):
    """4 updates an epoch: 16 good epochs, then a rate that ruins the weights from update 65 on."""
    words = ["--lr", ",".join(["0.01"] * 16 + ["10"]), "--no-save", "--disable-validation"]
    process = run_fairseq("train", *train_words(data, tmp_path, 300, *words, model=MODEL))
    sentence = stopped(process)
    losses = training_losses(process)
    assert losses[65] < 7 < 20 < losses[66] and max(losses) == 89  # the last one is not logged any more
    found = re.search(r"at update 90: the median loss of the last 50 updates is ([\d.]+), above --stop-at-", sentence)
    bad = sorted(losses[update] for update in range(66, 90))
    good = max(losses[update] for update in range(41, 66))
    assert good < float(found[1]) < (good + bad[0]) / 2 + 1  # 25 good ones and 25 bad ones
    assert "no checkpoint had been written; likely causes: --lr 0.01,0.01," in sentence


def test_gradients_that_are_not_finite_end_the_training(data, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    words = ["--lr", 1e30, "--residual", "post"]
    process = run_fairseq("train", *train_words(data, run, 300, *words, model=MODEL))
    sentence = stopped(process)
    assert "at update 7: its gradients are not finite; last good checkpoint: " in sentence
    assert re.search(r"(NaN|Inf) detected in output of ", process.stdout)  # where, says the engine
    same_files(run, trained)


@pytest.mark.parametrize(
    "words, refusal",
    [
        (["--stop-at-loss-jump", "0.5"], "--stop-at-loss-jump 0.5 must be above 1, or 0 for never"),
        (["--gradient-bands", "3"], "--gradient-bands 3 must be between 0 and --decoder-layers 2"),
        (["--gradient-bands", "-1"], "--gradient-bands -1 must be between 0 and --encoder-layers 3"),
    ],
)
def test_values_that_mean_nothing_are_refused(words, refusal):
    with pytest.raises(OptionError, match=f"^{refusal}$"):
        build("transformer_mt", dictionary(), *TINY_MT, *words)


# ---- gradients by depth ----------------------------------------------------------------------------------------------


def test_bands_are_the_true_gradients_of_their_layers(data, tmp_path):
    """A step of plain gradient descent with --lr 1 moves the weights by the gradient."""
    words = ["--encoder-layers", 3, "--decoder-layers", 2, "--gradient-bands", 2, "--residual", "subln"]
    words += ["--optimizer", "sgd", "--lr", 1, "--update-freq", 2, "--save-interval-updates", 1]
    process = succeeded(run_fairseq("train", *train_words(data, tmp_path, 2, *words, model=MODEL)))
    assert process.stdout.count("self-check of the ") == 2
    line = process.stdout.split("train_inner | ")[2].partition("\n")[0]
    logged = {key: float(value) for key, value in json.loads(line).items() if "grad" in key or key == "gnorm"}
    before, after = checkpoint(tmp_path, "checkpoint_1_1.pt")["model"], checkpoint(tmp_path)["model"]
    gradient = {name: before[name].double() - after[name] for name in before}
    for twin in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        gradient.pop(twin)  # the same tensor as encoder.embed_tokens.weight

    def norm(*prefixes):
        return math.sqrt(sum(g.square().sum() for name, g in gradient.items() if name.startswith(prefixes)))

    layers = {"encoder": ["0"], "decoder": ["0"]}, {"encoder": ["1", "2"], "decoder": ["1"]}
    for band, sides in enumerate(layers, 1):
        for side, numbers in sides.items():
            expected = norm(*(f"{side}.layers.{number}." for number in numbers))
            assert logged.pop(f"{side}_grad_{band}of2") == pytest.approx(expected, rel=1e-3)
    assert logged == {"gnorm": pytest.approx(norm(""), abs=1e-3)}


@pytest.mark.parametrize("kind", [FP16Optimizer, MemoryEfficientFP16Optimizer])
def test_bands_of_half_precision_are_true_gradients_too(kind):
    """There the engine has not multiplied the gradients yet when they are measured."""
    cfg = model_config("transformer_mt", "--bf16", "--optimizer", "adam", "--lr", "0.1")
    layer = torch.nn.Linear(4, 4).bfloat16()
    optimizer = kind.build_optimizer(cfg, list(layer.parameters()))
    optimizer.zero_grad()
    optimizer.backward(layer(torch.ones(2, 4).bfloat16()).float().square().sum())
    optimizer.multiply_grads(1 / 64)
    holder = SimpleNamespace(is_fsdp=False, cfg=cfg, optimizer=optimizer)
    found = TrainingWatch(Watched(2.0, {"all": ("weight", "bias")}, "post", 1)).band_norms(
        layer, _gradient_scale(holder)
    )
    assert found["all"].item() == pytest.approx(optimizer.clip_grad_norm(0.0).item(), rel=1e-5)

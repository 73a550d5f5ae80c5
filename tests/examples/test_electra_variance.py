"""examples/electra/variance.py: estimates agree with closed forms, the exact part with samples, both with training."""

import csv
import importlib
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from fairseq import tasks
from fairseq.criterions import build_criterion
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch.testing import assert_close

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from tests.electra_support import SHAPE, electra_words
from tests.helpers import REPOSITORY, environment
from tests.models_support import built, model_config
from tests.tasks.pretraining import PretrainingTask, write_data

fairseq_plugins.register()

FOLDER = REPOSITORY / "examples" / "electra"
sys.path.insert(0, str(FOLDER))  # a script finds its neighbours there
maths, places_of, script = (importlib.import_module(f"variance{part}") for part in ("_maths", "_places", ""))

TASK = PretrainingTask(
    "electra",
    "--arch electra_tiny --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 "
    "--encoder-attention-heads 2".split(),
    "electra_hardness",
)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# the paper's argument as a toy: three symbols, the first one is the original
GENERATOR = numbers(0.90, 0.08, 0.02)
LOSS = numbers(-np.log(0.95), -np.log(0.40), -np.log(0.90))
GRADIENT = numbers(0.3, -1.0, 0.5)[:, None] * numbers(1, 2) + numbers(0, 0.2, -0.4)[:, None] * numbers(3, 0)
OTHER = numbers(0.5, 0.3, 0.2)


def test_the_best_distribution_of_the_toy_by_hand():
    assert_close(maths.best(GENERATOR, LOSS), numbers(0.380, 0.603, 0.017), atol=5e-4, rtol=0)


@pytest.mark.parametrize("p", [GENERATOR, OTHER, maths.best(GENERATOR, LOSS)], ids=["p_G", "other", "best"])
def test_the_mean_never_changes_and_the_best_does_not_vary(p):
    found = maths.exact(p, maths.weights(GENERATOR, p) * LOSS)
    assert found.mean == pytest.approx(0.9 * 0.051293 + 0.08 * 0.916291 + 0.02 * 0.105361, rel=1e-5)
    second = sum(float(g * g / s * loss**2) for g, s, loss in zip(GENERATOR, p, LOSS, strict=True))
    assert found.variance == pytest.approx(second - found.mean**2, abs=1e-15)
    assert (found.variance < 1e-30) == (p is not GENERATOR and p is not OTHER)


def test_what_is_never_drawn_counts_nothing():
    p = numbers(0.5, 0.5, 0)
    assert maths.weights(p, p).tolist() == [1, 1, 0]
    assert maths.exact(p, numbers(1, 3, 100)) == (2.0, 1.0)
    assert maths.divergence(p, numbers(0.25, 0.25, 0.5)) == pytest.approx(np.log(2))


def test_the_variance_of_gradients_has_no_bias():
    """Over all pairs of draws, each as often as it comes, the estimate of two samples is the variance itself."""
    weighted = maths.weights(GENERATOR, OTHER)[:, None] * GRADIENT
    expected = 0.0
    for first in range(3):
        for second in range(3):
            moments = maths.Moments()
            moments.add(weighted[first])
            moments.add(weighted[second])
            expected += float(OTHER[first] * OTHER[second]) * moments.variance
    mean = (GENERATOR[:, None] * GRADIENT).sum(dim=0)
    by_hand = sum(
        float(p) * float((value - mean).square().sum()) for p, value in zip(OTHER, weighted, strict=True)
    )
    square, square_of_mean = GRADIENT.square().sum(dim=1), float(mean.square().sum())
    assert expected == pytest.approx(by_hand, rel=1e-12)
    assert maths.exact_gradient(GENERATOR, OTHER, square, square_of_mean) == pytest.approx(by_hand, rel=1e-12)


def test_the_best_distribution_of_the_gradient_is_by_its_length():
    square = GRADIENT.square().sum(dim=1)
    least = maths.exact_gradient(GENERATOR, maths.best(GENERATOR, square.sqrt()), square, 0)
    torch.manual_seed(0)
    for p in torch.rand(200, 3, dtype=torch.float64).log_softmax(dim=1).exp():
        assert maths.exact_gradient(GENERATOR, p, square, 0) >= least


def test_estimates_from_samples_agree_with_the_closed_form():
    draws = np.random.default_rng(0).choice(3, p=OTHER.numpy(), size=20000)
    weighted = maths.weights(GENERATOR, OTHER) * LOSS
    moments = maths.Moments()
    for draw in draws:
        moments.add(weighted[draw])
    found = maths.exact(OTHER, weighted)
    assert float(moments.mean_P) == pytest.approx(found.mean, abs=4 * (found.variance / 20000) ** 0.5)
    assert moments.variance == pytest.approx(found.variance, rel=0.05)


def test_effective_samples_and_ratios_by_hand():
    assert maths.effective_share(numbers(2, 2, 2)) == pytest.approx(1)
    assert maths.effective_share(numbers(3, 1)) == pytest.approx(16 / 10 / 2)
    value, low, high = maths.ratio([1, 3], [2, 2])
    assert value == 1 and low == 0.5 and high == 1.5
    assert maths.ratio([2, 6, 4], [1, 3, 2]) == (2, 2, 2)


# ---- the discriminator -------------------------------------------------------------------------------------------

WORDS = electra_words()
MASK = WORDS.index("<mask>")


def electra(hardness):
    """In float64, every number of it random."""
    shape = [*SHAPE, "--encoder-layers", "1", "--hardness", hardness]
    model = built(model_config("electra_tiny", *shape, task="masked_lm"), WORDS).double()
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batch(count=3):
    torch.manual_seed(4)
    originals = torch.randint(WORDS.nspecial, MASK, (count, 9))
    originals[0, 6:] = WORDS.pad()
    masked = torch.zeros_like(originals, dtype=torch.bool)
    masked[:, 1::2] = True
    masked &= originals.ne(WORDS.pad())
    return {
        "net_input": {"src_tokens": originals.masked_fill(masked, MASK)},
        "target": originals.masked_fill(~masked, WORDS.pad()),
        "ntokens": int(originals.ne(WORDS.pad()).sum()),
        "nsentences": count,
        "id": torch.arange(count),
    }


def dice(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("hardness", ["loss", "dist"])
def test_places_are_drawn_and_weighed_as_in_training(hardness):
    model, text = electra(hardness), batch()
    cfg = model_config("electra_tiny", "--criterion", "electra_hardness", "--hp-importance-weight",
                       "--importance-clip", "0", "--hardness", hardness, task="masked_lm").criterion  # fmt: skip
    holder = type("Task", (tasks.FairseqTask,), {"target_dictionary": WORDS})(None)
    sums = []
    for weight in (0.0, 1.0):
        cfg.discriminator_weight = weight
        criterion = build_criterion(cfg, holder)
        with torch.no_grad():
            loss, masked, _ = criterion(model, text)
        sums.append(loss / masked)
    places = places_of.prepare(model, text, WORDS.pad(), False, dice())
    found = places_of.sample(model, places, WORDS.pad(), False, "p_S", 1, criterion._dice(model, text))
    assert found.weight.std() > 0
    assert_close(found.moments["batch"].mean_P, sums[1] - sums[0], rtol=1e-9, atol=1e-12)


def test_with_one_place_the_others_keep_what_the_generator_put_there():
    model, text = electra("loss"), batch()
    places = places_of.prepare(model, text, WORDS.pad(), True, dice())
    masked = text["target"].ne(WORDS.pad())
    assert places.drawn_BT.sum(dim=1).tolist() == [1, 1, 1] and (masked | ~places.drawn_BT).all()
    assert places.fixed_BT[~masked].equal(text["net_input"]["src_tokens"][~masked])
    assert (places.fixed_BT != places.originals_BT)[masked].any() and (places.fixed_BT[masked] != MASK).all()
    everywhere = places_of.prepare(model, text, WORDS.pad(), False, dice())
    assert everywhere.drawn_BT.equal(masked) and everywhere.fixed_BT.equal(places.originals_BT)
    assert places.log_sampler_NV.equal(everywhere.log_sampler_NV[places.drawn_BT[masked]])


@pytest.mark.parametrize("hardness", ["loss", "dist"])
def test_every_symbol_and_many_samples_tell_the_same(hardness):
    model = electra(hardness)
    places = places_of.prepare(model, batch(1), WORDS.pad(), True, dice(2))
    seen = places_of.every_symbol(model, places, WORDS.pad())
    assert len(seen.loss_V) == 20 and float(seen.generator_V.sum()) == pytest.approx(1, abs=1e-12)
    exactly = {name: script.at_one_place(seen, p) for name, p in script.distributions(seen).items()}
    for name, found in exactly.items():
        assert found.loss.mean == pytest.approx(exactly["p_G"].loss.mean, rel=1e-9), name
        assert found.gradient >= exactly["p_S* of the gradient"].gradient * (1 - 1e-9), name
    best = exactly["p_S* of the loss"]
    assert best.loss.variance < 1e-25 < exactly["p_G"].loss.variance and best.kl == pytest.approx(0, abs=1e-12)
    count = 800
    for name in ("p_G", "p_S"):
        sampled = places_of.sample(model, places, WORDS.pad(), True, name, count, dice(3))
        loss, own = sampled.moments["places"], sampled.moments["own"]
        wanted = exactly[name]
        assert float(loss.mean_P) == pytest.approx(wanted.loss.mean, abs=4 * (wanted.loss.variance / count) ** 0.5)
        assert loss.variance == pytest.approx(wanted.loss.variance, rel=0.3)
        assert own.variance == pytest.approx(wanted.gradient, rel=0.3)
        texts = sampled.moments["batch"].variance * 6**2  # a mean over the text's six tokens there, a sum here
        assert texts == pytest.approx(wanted.text, rel=0.3)
        assert float(sampled.is_original.double().mean()) == pytest.approx(wanted.original, abs=0.04)


def test_parameters_are_told_apart():
    model = electra("loss")
    groups = places_of.parameters(model)
    tables = {id(parameter) for parameter in groups["tables"]}
    assert id(model.generator.embed_tokens.weight) in tables and len(tables) == 3  # tokens, positions, segments
    counted = sum(len(group) for group in groups.values())
    assert counted == len(list(model.discriminator.parameters())) and len(groups["own"]) > 10


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Data, and untrained models in the form in which a training leaves them."""
    folder = tmp_path_factory.mktemp("saved")
    data = write_data(folder / "data")
    words = Dictionary.load(str(data / "dict.txt"))
    for hardness in ("none", "loss"):
        cfg = TASK.configuration(data, "--hardness", hardness, "--texts", "pairs")
        torch.manual_seed(1)
        state = {"args": None, "cfg": OmegaConf.to_container(cfg, enum_to_str=True), "extra_state": {},
                 "model": built(cfg, words).state_dict(), "last_optimizer_state": {"state": {}},
                 "optimizer_history": [{"criterion_name": "ElectraHardness", "optimizer_name": "FairseqAdam",
                                        "num_updates": 2, "lr_scheduler_state": {}}]}  # fmt: skip
        torch.save(state, folder / f"{hardness}.pt")
    return folder


def command(*words):
    script.main([str(word) for word in words])


def test_the_command(saved, tmp_path):
    checkpoint, output = saved / "loss.pt", tmp_path / "sampled.csv"
    words = (checkpoint, saved / "data", "--batches", 2, "--samples", 3, "--max-tokens", 60, "--output", output)
    command(*words)
    first = output.read_bytes()
    rows = list(csv.DictReader(first.decode().splitlines()))
    assert {row["updates"] for row in rows} == {"2"} and {row["hardness"] for row in rows} == {"loss"}
    for drawn in ("all", "one"):
        mine = {row["quantity"]: row for row in rows if row["drawn"] == drawn}
        assert len(mine) == 9 and mine["effective sample size, %"]["p_G"] == "100"
        for name in script.NAMES.values():
            assert float(mine[name]["value"]) == pytest.approx(
                float(mine[name]["p_S"]) / float(mine[name]["p_G"]), rel=1e-4
            )
    command(*words)
    assert output.read_bytes() == first
    command(checkpoint, checkpoint, saved / "data", "--exact", 2, "--output", output)
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == 10 and rows[:5] == rows[5:]
    exactly = {row["drawn_from"]: row for row in rows}
    command(checkpoint, saved / "data", "--exact", 2, "--hardness-floor", 99, "--output", output)
    floored = {row["drawn_from"]: row for row in csv.DictReader(output.read_text().splitlines())}
    assert float(floored["p_S"]["loss_ratio"]) == pytest.approx(1, rel=1e-4)  # no estimate is so high: p_S = p_G
    assert float(exactly["p_S"]["loss_ratio"]) != pytest.approx(1, rel=1e-4)
    assert float(exactly["p_S* of the loss"]["loss_ratio"]) < 1e-20 and float(exactly["p_G"]["loss_ratio"]) == 1


def test_what_cannot_be_measured_is_one_sentence(saved, tmp_path):
    out, good = ("--output", tmp_path / "x.csv"), saved / "loss.pt"
    for words, told in (
        ((saved / "none.pt", saved / "data"), "has no hardness prediction to measure"),
        ((good, tmp_path / "nowhere"), "nowhere/dict.txt is missing"),
        ((tmp_path / "no.pt", saved / "data"), "no.pt"),
        ((good, saved / "data", "--batches", 999), "the split valid has"),
        ((good, saved / "data", "--samples", 1), "--samples 1 must be at least 2"),
        ((good, saved / "data", "--hardness-floor", 0), "--hardness-floor 0 must be above 0"),
        ((good, saved / "data", "--exact", 3, "--max-tokens", 5), "texts of this length"),
        ((good, saved / "data", "--split", "test"), "no text for the split test"),
    ):
        with pytest.raises(UserError, match=told):
            command(*words, *out)
    assert not (tmp_path / "x.csv").exists()
    line = [sys.executable, str(FOLDER / "variance.py"), str(tmp_path / "no.pt"), "data", *map(str, out)]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


# ---- the picture -------------------------------------------------------------------------------------------------


def write(path, header, *rows):
    path.write_text("".join(f"{line}\n" for line in (header, *rows)))
    return path


def test_the_picture(tmp_path):
    drawing = importlib.import_module("variance_picture")
    sampled = write(
        tmp_path / "sampled.csv", ",".join(script.SAMPLED),
        '2000,loss,all,"variance of loss, batch",1,2,ratio,2,1,3,0',
        '1000,loss,all,"variance of loss, batch",1,8,ratio,8,1,9,0',
        "1000,dist,one,variance of gradient,1,0.5,ratio,0.5,0.1,1,0",
        '1000,dist,one,"mean loss, batch",1,2,difference,1,0,2,',
    )  # fmt: skip
    exactly = write(
        tmp_path / "exact.csv", "updates,hardness,drawn_from,loss_ratio,gradient_ratio",
        "1500,loss,p_S,4,1", "1500,loss,uniform,9,9",
    )  # fmt: skip
    found = drawing.panels([row for path in (sampled, exactly) for row in drawing.read(path)])
    assert found == {
        "all": {"HP_Loss, loss": [(1000, 3.0), (2000, 1.0)]},
        "one": {"HP_Dist, gradient": [(1000, -1.0)]},
        "exact": {"HP_Loss, gradient": [(1500, 0.0)], "HP_Loss, loss": [(1500, 2.0)]},
    }
    drawing.main([str(sampled), str(exactly), "--output", str(tmp_path / "picture.svg")])
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert len([each for each in root if each.tag.endswith("svg")]) == 3
    other = write(tmp_path / "other.csv", "a,b", "1,2")
    for path, told in ((other, "no table that variance.py wrote"), (tmp_path / "none.csv", "none.csv")):
        with pytest.raises(UserError, match=told):
            drawing.main([str(path), "--output", str(tmp_path / "x.svg")])

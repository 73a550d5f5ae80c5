"""Weights of one electra in another: positions, the hardness head, checkpoints of other models."""

import logging

import pytest
import torch

from fairseq_plugins.models._build import OptionError
from fairseq_plugins.models._tables import WrongCheckpoint
from tests.electra_support import POSITIONS, SHAPE, electra_words, exported, save_electra
from tests.models_support import build

WORDS = electra_words()
TEXT = torch.arange(4, 24)[None]


def other(*flags, words=WORDS):
    """An electra with random weights of its own, in float64."""
    torch.manual_seed(8)
    return build("electra_tiny", words, *SHAPE, *flags, task="masked_lm").double()


def state_of(path):
    return torch.load(path, weights_only=True)["model"]


def load(path, *flags, **more):
    model = other(*flags, **more)
    model.load_state_dict(state_of(path), strict=True)
    return model


def goes_on(model):
    model.start_training(resumed=False)
    model.start_training(resumed=True)
    return True


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """--hardness -> (checkpoint, electra)."""
    folder = tmp_path_factory.mktemp("electra")
    return {hardness: save_electra(folder / hardness, "--hardness", hardness) for hardness in ("none", "loss", "dist")}


@pytest.mark.parametrize("hardness", ["none", "loss", "dist"])
def test_the_same_electra_loads_unchanged_and_goes_on(saved, hardness):
    path, model = saved[hardness]
    found, expected = load(path, "--hardness", hardness), model.state_dict()
    assert found.state_dict().keys() == expected.keys() == state_of(path).keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    assert goes_on(found)


@pytest.mark.parametrize("hardness", ["loss", "dist"])
def test_a_hardness_head_that_the_checkpoint_lacks_starts_as_it_is(saved, hardness, caplog):
    path, model = saved["none"]
    fresh = other("--hardness", hardness).hardness_head.state_dict()
    fresh["weight"] = model.generator.embed_tokens.weight  # tied: not the table that the model had before
    with caplog.at_level(logging.INFO):
        found = load(path, "--hardness", hardness)
    assert "the hardness head starts at random: the checkpoint has none" in caplog.text
    assert all(torch.equal(value, fresh[name]) for name, value in found.hardness_head.state_dict().items())
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())
    found.start_training()
    with pytest.raises(OptionError, match="not know a hardness head: give --hardness none as before, or --reset-opt"):
        found.start_training(resumed=True)


def test_a_hardness_head_that_the_model_lacks_is_left_out(saved, caplog):
    path, model = saved["loss"]
    found = load(path)
    assert "the checkpoint's hardness head is left out: --hardness is none here" in caplog.text
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    found.start_training()
    with pytest.raises(OptionError, match="knows a hardness head: give --hardness loss or dist as before, or --reset"):
        found.start_training(resumed=True)


def test_longer_positions_are_cut_alike_for_both_networks(saved):
    path, model = saved["none"]
    found = load(path, "--max-source-positions", "20")
    assert found.generator.embed_positions is found.discriminator.embed_positions
    rows = found.discriminator.embed_positions.weight
    assert torch.equal(rows, model.discriminator.embed_positions.weight[: len(rows)]) and len(rows) == 22
    for part in ("generator", "discriminator"):
        states = [getattr(each, part).encode(TEXT)[0].x_BTD for each in (found, model)]
        assert torch.equal(*states) and states[0].std() > 0.1
    found.start_training()
    says = f"optimiser knows {POSITIONS} positions and this model has 20: give --max-source-positions {POSITIONS} as b"
    with pytest.raises(OptionError, match=says):
        found.start_training(resumed=True)


def test_positions_and_a_hardness_head_differ_at_once(saved, caplog):
    with caplog.at_level(logging.INFO):
        found = load(saved["none"][0], "--max-source-positions", "20", "--hardness", "loss")
    assert "the hardness head starts at random" in caplog.text
    with pytest.raises(OptionError, match="give --max-source-positions"):
        found.start_training(resumed=True)


def test_what_an_electra_cannot_hold_is_one_sentence(saved):
    path, _ = saved["none"]
    more = electra_words()
    more.add_symbol("new")
    for flags, words, says in (
        (["--max-source-positions", "33"], WORDS, f"ends at {POSITIONS} tokens and this model's at 33: give --max-sou"),
        ([], more, f"knows {len(WORDS)} symbols and the data's dictionary has {len(more)}: binarise the data"),
    ):
        with pytest.raises(WrongCheckpoint, match=says) as refusal:
            load(path, *flags, words=words)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("part", ["generator", "discriminator"])
def test_another_models_checkpoint_is_refused(saved, part):
    path, _ = saved["none"]
    with pytest.raises(WrongCheckpoint, match="the checkpoint is of no electra.*give one that --arch electra wrote"):
        load(exported(path, part))

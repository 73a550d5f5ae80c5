"""examples/hydra: the configuration trains what its preset trains, and presets by name are refused."""

from types import SimpleNamespace

import pytest
from fairseq import models
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from fairseq_plugins import compat
from fairseq_plugins.models.transformer_mt import PRESETS
from tests.helpers import REPOSITORY, USER_DIR, checkpoint, run_fairseq, succeeded
from tests.models_support import dictionary, model_config

EXAMPLE = REPOSITORY / "examples/hydra/deepnet_mt_tiny.yaml"


def train(data, run, *overrides):
    """fairseq-hydra-train on the example, started in ``run``."""
    words = ["--config-dir", EXAMPLE.parent, "--config-name", EXAMPLE.stem, f"task.data={data}"]
    words += ["task.source_lang=de", "task.target_lang=en", f"common.user_dir={USER_DIR}", "common.cpu=true"]
    return run_fairseq("hydra-train", *words, *overrides, cwd=run)


def holder():
    """What a model asks of its task."""
    return SimpleNamespace(source_dictionary=dictionary(), target_dictionary=dictionary())


def test_example_spells_the_preset_out():
    model = OmegaConf.to_container(OmegaConf.load(EXAMPLE).model)
    assert model == {"_name": "transformer_mt", **PRESETS[EXAMPLE.stem]}


def test_example_trains_and_its_checkpoint_translates(data, tmp_path):
    succeeded(train(data, tmp_path, "optimization.max_update=3", "dataset.num_workers=0"))
    state = checkpoint(tmp_path / "checkpoints")
    assert state["optimizer_history"][-1]["num_updates"] == 3
    shapes = {name: tuple(weight.shape) for name, weight in state["model"].items()}
    for side in ("encoder", "decoder"):
        assert {name.split(".")[2] for name in shapes if name.startswith(f"{side}.layers.")} == {"0", "1", "2"}
    assert (256, 128) in shapes.values()  # the preset's feed-forward
    path = tmp_path / "checkpoints/checkpoint_last.pt"
    words = [data, "--path", path, "-s", "de", "-t", "en", "--max-len-b", 10]
    assert succeeded(run_fairseq("generate", *words)).stdout.count("\nH-") == 11


def test_preset_name_is_refused_with_the_fields_to_write(data, tmp_path):
    process = train(data, tmp_path, "model={_name: deepnet_mt_36l}", "optimization.max_update=1")
    assert process.returncode == 1
    message = process.stderr.partition("model._name=deepnet_mt_36l is a preset")[2]
    fields = OmegaConf.create(message.partition(":\n")[2].partition("\n\n")[0])
    expected = {"_name": "transformer_mt", **PRESETS["deepnet_mt_36l"]}
    default = models.MODEL_DATACLASS_REGISTRY["transformer_mt"]()
    assert fields == {key: value for key, value in expected.items() if value != getattr(default, key, None)}
    assert not list(tmp_path.rglob("*.pt"))


def test_preset_name_is_refused_in_a_worker_that_hydra_did_not_start():
    """With several GPUs the model is built in spawned processes, which hold no trace of hydra but the configuration."""
    assert not HydraConfig.initialized()
    with pytest.raises(compat.Refusal, match="_name: transformer_mt\n  residual: subln\n"):
        models.build_model(OmegaConf.create({"_name": "magneto_mt_36l", "encoder_layers": 2}), holder())


def test_preset_of_a_stock_model_is_refused(monkeypatch):
    """Stock models have all their defaults by then: without the refusal the preset would be ignored without a word."""
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    with pytest.raises(compat.Refusal, match="_name: transformer_lm\n(  .*\n)*  decoder_layers: 12"):
        models.build_model(OmegaConf.create({"_name": "transformer_lm_gpt", "decoder_layers": 6}), holder())


def test_command_line_and_checkpoints_keep_their_presets():
    cfg = model_config("deepnet_mt_tiny").model
    assert cfg._name == "deepnet_mt_tiny"
    for from_checkpoint in (False, True):
        names = models.build_model(cfg, holder(), from_checkpoint).state_dict()
        assert {name.split(".")[2] for name in names if name.startswith("encoder.layers.")} == {"0", "1", "2"}


def test_checkpoint_with_a_preset_loads_inside_hydra(monkeypatch):
    """A teacher or a start for fine-tuning was trained by the command line; its options are complete."""
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    assert models.build_model(model_config("deepnet_mt_tiny").model, holder(), from_checkpoint=True)

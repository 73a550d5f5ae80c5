"""The engine's traps, reproduced: docs/fairseq_traps.md names each of these tests beside the trap.

They pin what this package works around. One that fails tells that the engine changed: then the work-around and its line
in the document can go.
"""

import argparse
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import List, Literal, Optional

import numpy as np
import pytest
import torch
from fairseq import models, utils
from fairseq.data import data_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import _override_attr, gen_parser_from_dataclass
from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase
from fairseq.models.transformer_lm import TransformerLanguageModelConfig
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf

import fairseq_plugins
from tests.helpers import REPOSITORY, run_fairseq, succeeded, train_words
from tests.models_support import dictionary, parsed

fairseq_plugins.register()
DOCUMENT = REPOSITORY / "docs/fairseq_traps.md"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The path of a checkpoint after one update."""
    run = tmp_path_factory.mktemp("trained")
    succeeded(run_fairseq("train", *train_words(data, run, 1)))
    return run / "checkpoint_last.pt"


def test_document_names_each_test_of_this_file():
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT.read_text()))
    here = {name for name in globals() if name.startswith("test_")} - {"test_document_names_each_test_of_this_file"}
    elsewhere = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert here <= named
    assert named - here <= set(re.findall(r"def (test_\w+)", elsewhere))


# ---- registries and options ------------------------------------------------------------------------------------------


def test_taken_model_name_returns_the_old_class():
    class Mine(models.FairseqEncoderDecoderModel):
        pass

    assert models.register_model("transformer")(Mine) is models.MODEL_REGISTRY["transformer"]
    assert models.MODEL_REGISTRY["transformer"] is not Mine


@dataclass
class _Readable(FairseqDataclass):
    layers: Optional[int] = field(default=3, metadata={"help": "a number"})
    sizes: List[int] = field(default_factory=lambda: [1], metadata={"help": "numbers"})


def parse(options, *words):
    parser = argparse.ArgumentParser()
    gen_parser_from_dataclass(parser, options)
    return parser.parse_args(words)


def test_option_types_that_work():
    options = parse(_Readable(), "--layers", "4", "--sizes", "1,2")
    assert (options.layers, options.sizes) == (4, [1, 2])


def test_new_spellings_of_option_types_fail():
    @dataclass
    class Union(FairseqDataclass):
        layers: int | None = field(default=3, metadata={"help": "a number"})

    @dataclass
    class Choice(FairseqDataclass):
        mode: Literal["a", "b"] = field(default="a", metadata={"help": "a choice"})

    @dataclass
    class Quoted(FairseqDataclass):  # what `from __future__ import annotations` makes of every type
        layers: "int" = field(default=3, metadata={"help": "a number"})

    for options, words in ((Union(), ["--layers", "4"]), (Choice(), ["--mode", "b"]), (Quoted(), ["--layers", "4"])):
        with pytest.raises((TypeError, ValueError, RuntimeError, SystemExit)):
            parse(options, *words)


def test_lower_case_list_of_numbers_is_read_as_characters():
    @dataclass
    class Sizes(FairseqDataclass):
        sizes: list[int] = field(default_factory=lambda: [1], metadata={"help": "numbers"})

    assert parse(Sizes(), "--sizes", "1,2").sizes == ["1", ",", "2"]


def test_flag_of_a_bool_that_is_true_by_default_turns_it_off():
    @dataclass
    class Options(FairseqDataclass):
        share: bool = field(default=True, metadata={"help": "a switch"})

    assert parse(Options(), "--share").share is False


def test_nested_options_set_both_sides_at_once():
    @dataclass
    class Side(FairseqDataclass):
        layers: int = field(default=6, metadata={"help": "a number"})

    @dataclass
    class Model(FairseqDataclass):
        encoder: Side = field(default_factory=Side)
        decoder: Side = field(default_factory=Side)

    options = parse(Model(), "--layers", "4")  # the two options clash, and the parser keeps quiet about it
    assert _override_attr("model", Model, options) == ["model.encoder.layers=4", "model.decoder.layers=4"]


def test_stock_transformer_config_keeps_its_sides_in_classes():
    before = TransformerConfig().encoder.layers
    try:
        TransformerConfig().encoder.layers = 99
        assert TransformerConfig().encoder.layers == 99  # another object, the same class attribute
    finally:
        TransformerConfig().encoder.layers = before
    assert TransformerConfig.from_namespace(argparse.Namespace(encoder_layers=2)).encoder.layers == 2
    assert TransformerConfig().encoder.layers == before


def test_preset_functions_run_twice(monkeypatch):
    seen = []
    preset = models.ARCH_CONFIG_REGISTRY["deepnet_mt_tiny"]

    def counting(options):
        seen.append(type(options).__name__)
        return preset(options)

    monkeypatch.setitem(models.ARCH_CONFIG_REGISTRY, "deepnet_mt_tiny", counting)
    cfg = parsed.__wrapped__("deepnet_mt_tiny", task="translation").model  # not one that a test before has parsed
    models.build_model(cfg, SimpleNamespace(source_dictionary=dictionary(), target_dictionary=dictionary()))
    assert seen == ["Namespace", "DictConfig"]


def test_preset_of_a_stock_model_is_ignored_under_hydra():
    """fairseq fills in the defaults first; the preset then finds nothing left to fill."""
    cfg = OmegaConf.create({"task": dict.fromkeys(("tokens_per_sample", "max_target_positions", "add_bos_token"), 1)})
    cfg.model = OmegaConf.merge(TransformerLanguageModelConfig(), {"_name": "transformer_lm_gpt"})
    models.ARCH_CONFIG_REGISTRY["transformer_lm_gpt"](cfg.model)
    fresh = argparse.Namespace()
    models.ARCH_CONFIG_REGISTRY["transformer_lm_gpt"](fresh)
    assert (cfg.model.decoder_layers, fresh.decoder_layers) == (6, 12)


def test_build_model_gets_a_config_whose_post_init_never_ran(monkeypatch):
    ran = []

    @dataclass
    class Options(FairseqDataclass):
        layers: int = field(default=1, metadata={"help": "a number"})

        def __post_init__(self):
            ran.append(self.layers)

    class Model(models.BaseFairseqModel):
        @classmethod
        def build_model(cls, cfg, task):
            return cfg

    for registry in ("MODEL_REGISTRY", "MODEL_DATACLASS_REGISTRY", "ARCH_MODEL_REGISTRY"):
        monkeypatch.setitem(getattr(models, registry), "trap_model", Options if "DATACLASS" in registry else Model)
    cfg = models.build_model(OmegaConf.create({"_name": "trap_model", "layers": 7}), None)
    assert OmegaConf.is_config(cfg) and not isinstance(cfg, Options)
    assert cfg.layers == 7 and 7 not in ran


def test_user_dir_imports_each_module_of_tasks_then_models(tmp_path, monkeypatch):
    package = tmp_path / "trap_user_dir"
    for folder in ("tasks", "models", "criterions"):
        (package / folder).mkdir(parents=True)
        for name in ("open", "_private"):
            (package / folder / f"{name}.py").write_text(f"import sys; sys.trap_order.append('{folder}.{name}')")
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "trap_order", [], raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    utils.import_user_module(argparse.Namespace(user_dir=str(package)))
    assert sys.trap_order == ["tasks.open", "models.open"]


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentences, kept", [(7, 0), (8, 8), (11, 8), (200, 200), (203, 200)])
def test_last_batch_is_dropped_unless_it_is_a_multiple_of_8(sentences, kept):
    """8 is the default of --required-batch-size-multiple, in training, validation and generation alike."""
    stock = inspect.unwrap(data_utils.batch_by_size)
    batches = {
        (multiple, cut): cut(
            np.arange(sentences),
            num_tokens_fn=None,
            num_tokens_vec=np.full(sentences, 10),
            max_tokens=400,
            required_batch_size_multiple=multiple,
        )
        for multiple in (8, 1)
        for cut in (stock, data_utils.batch_by_size)
    }
    assert sum(map(len, batches[8, stock])) == kept
    assert sum(map(len, batches[1, stock])) == sentences
    mended = batches[8, data_utils.batch_by_size]
    assert np.concatenate(mended).tolist() == list(range(sentences))
    assert all(len(batch) * 10 <= 400 for batch in mended) and all(len(batch) % 8 == 0 for batch in mended[:-1])


def test_generate_translates_every_sentence(data, trained):
    words = [data, "--path", trained, "-s", "de", "-t", "en", "--max-len-b", "5"]
    process = succeeded(run_fairseq("generate", *words))
    assert len(re.findall(r"^H-", process.stdout, re.MULTILINE)) == 11
    assert "Translated 11 sentences" in process.stderr


def test_sentence_wise_blocks_need_what_numpy_2_removed():
    from fairseq.data import TokenBlockDataset

    sentences = [torch.tensor([5, 6, 2]), torch.tensor([7, 2])]
    blocks = TokenBlockDataset(sentences, [3, 2], 8, pad=1, eos=2, break_mode="eos")
    assert [block.tolist() for block in blocks] == [[5, 6, 2], [7, 2]]


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version, kept", [(None, False), (3, True)])
def test_state_without_a_version_drops_the_final_norm(version, kept):
    words = dictionary()
    cfg = TransformerConfig.from_namespace(
        argparse.Namespace(
            decoder_layers=1, decoder_embed_dim=8, decoder_normalize_before=True, decoder_attention_heads=2
        )
    )
    decoder = TransformerDecoderBase(cfg, words, torch.nn.Embedding(len(words), 8, words.pad()))
    state = {f"decoder.{name}": weight for name, weight in decoder.state_dict().items() if name != "version"}
    if version is not None:
        state["decoder.version"] = torch.Tensor([version])
    assert decoder.layer_norm is not None
    decoder.upgrade_state_dict_named(state, "decoder")
    assert (decoder.layer_norm is not None) is kept


def test_moving_average_cannot_start_from_a_checkpoint_without_one(data, trained, tmp_path):
    process = run_fairseq("train", *train_words(data, tmp_path, 1, "--finetune-from-model", trained, "--store-ema"))
    assert process.returncode == 1 and "KeyError: 'model'" in process.stderr


# ---- experts and several processes -----------------------------------------------------------------------------------


def test_clipping_treats_experts_apart():
    """Even ``expert = False`` is the mark: the engine asks only whether the attribute is there."""
    stock = utils.clip_grad_norm_.__wrapped__
    dense, expert = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    expert.expert = False
    dense.grad, expert.grad = torch.tensor([4.0]), torch.tensor([100.0])
    assert stock([dense, expert], max_norm=1.0) == 4.0  # the expert is not in the norm
    torch.testing.assert_close(expert.grad, torch.tensor([25.0]))  # but is scaled by its coefficient


def test_expert_mark_survives_only_without_flat_gradients():
    parameter = torch.nn.Parameter(torch.ones(2).half())
    parameter.expert = True
    kept = FP16Optimizer.build_fp32_params(None, [parameter], flatten=False)
    assert hasattr(kept[0], "expert")


def test_too_few_devices_train_nothing_and_report_success(data, tmp_path):
    """Without --distributed-no-spawn fairseq starts min(GPUs, world size) processes: none on a machine without GPUs."""
    if torch.cuda.is_available():
        pytest.skip("shows what happens on a machine without a GPU")
    words = ["--distributed-world-size", "2", "--distributed-init-method", f"file://{tmp_path}/meet"]
    succeeded(run_fairseq("train", *train_words(data, tmp_path / "run", 1, *words)))
    assert not (tmp_path / "run").exists()

"""`export --to huggingface`: transformers computes what the checkpoint does, ours reads it back, or one sentence."""

import json
import shutil
import sys

import pytest
import torch

from fairseq_plugins.__main__ import main
from fairseq_plugins.checkpoints.huggingface_names import from_huggingface
from fairseq_plugins.cli import _huggingface_folder
from tests.huggingface_support import WORDS, export, exported, read_by_transformers, save_model
from tests.models_support import sentences
from tests.pretrained_support import POSITIONS, data_dictionary, xlm_t

pytest.importorskip("safetensors")

TEXT = sentences(WORDS, [9, 4, 20])
REAL = TEXT.ne(WORDS.pad())
BARE = ("--layernorm-embedding", "--activation-fn", "gelu")  # scaled embeddings and sinusoidal positions
# name -> preset, flags, layout
MASKED_LMS = {
    "post": ("transformer_mlm_base", [], "XLMRobertaForMaskedLM"),
    "pre": ("transformer_mlm_base", ["--residual", "pre"], "RobertaPreLayerNormForMaskedLM"),
    "deepnorm": ("transformer_mlm_base", ["--residual", "deepnorm"], "XLMRobertaForMaskedLM"),
    "scaled, sinusoidal": ("transformer_mlm", BARE, "XLMRobertaForMaskedLM"),
    "scaled, sinusoidal, pre": ("transformer_mlm", [*BARE, "--residual", "pre"], "RobertaPreLayerNormForMaskedLM"),
    "scaled, learned, deepnorm": (
        "transformer_mlm", [*BARE, "--encoder-learned-pos", "--residual", "deepnorm"], "XLMRobertaForMaskedLM"
    ),
    "temperature": ("transformer_mlm_base", ["--attention-temperature", "64"], "XLMRobertaForMaskedLM"),
    "heads": ("transformer_mlm_base", ["--attention-head-dim", "8"], "XLMRobertaForMaskedLM"),
}  # fmt: skip


def body_of(theirs):
    return getattr(theirs, theirs.base_model_prefix, theirs)


def hidden_states(theirs, text=TEXT, **inputs):
    return body_of(theirs)(text, attention_mask=text.ne(WORDS.pad()).long(), **inputs).last_hidden_state


def same(found, expected, atol=1e-6):
    """The engine's gelu computes in float32, hence 1e-6; without it there is float64 alone."""
    torch.testing.assert_close(found[REAL], expected[REAL], atol=atol, rtol=0)
    assert expected[REAL].std() > 0.1


@pytest.mark.parametrize("arch, flags, layout", MASKED_LMS.values(), ids=MASKED_LMS)
def test_masked_language_models(arch, flags, layout, tmp_path, monkeypatch, capsys):
    path, model = save_model(tmp_path, arch, *flags)
    folder = exported(path)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{folder}: {path} for Hugging Face's transformers, {layout}"
    assert len(told) == 2 and told[1].startswith("no tokenizer: --data DATA")
    theirs = read_by_transformers(folder, monkeypatch)
    assert type(theirs).__name__ == layout
    same(hidden_states(theirs), model(TEXT, features_only=True)[0])
    same(theirs(TEXT, attention_mask=REAL.long()).logits, model(TEXT)[0])


@pytest.mark.parametrize("residual, activation", [("post", "gelu_accurate"), ("pre", "tanh"), ("deepnorm", "relu")])
def test_without_a_gelu_there_is_no_head_and_nothing_is_lost(residual, activation, tmp_path, monkeypatch, capsys):
    flags = ["--layernorm-embedding", "--activation-fn", activation, "--residual", residual]
    path, model = save_model(tmp_path, "transformer_mlm", *flags)
    theirs = read_by_transformers(exported(path), monkeypatch)
    left_out = f"left out: the head for masked tokens, as theirs has gelu and this one {activation}\n"
    assert left_out in capsys.readouterr().out
    same(hidden_states(theirs), model(TEXT, features_only=True)[0], atol=1e-11)


@pytest.mark.parametrize(
    "arch, flags",
    [
        ("xlm_t_tiny", []),
        ("xlm_t_tiny", ["--residual", "deepnorm", "--interleaved-ffn"]),
        ("transformer_mt", ["--layernorm-embedding", "--residual", "pre", "--share-all-embeddings"]),
        ("transformer_mt", ["--layernorm-embedding", "--residual", "deepnorm", "--activation-fn", "gelu"]),
        ("xlm_t_tiny", ["--attention-temperature", "20"]),
    ],
)
def test_the_encoder_of_a_translation_model(arch, flags, tmp_path, monkeypatch, capsys):
    path, model = save_model(tmp_path, arch, *flags)
    theirs = read_by_transformers(exported(path), monkeypatch)
    assert "\nleft out: the decoder\n" in capsys.readouterr().out and type(theirs).__name__.endswith("Model")
    same(hidden_states(theirs), model.encoder(TEXT)["encoder_out"][0].transpose(0, 1))


def test_segments_are_token_types(tmp_path, monkeypatch):
    path, model = save_model(tmp_path, "transformer_mlm_base", "--segments", "3")
    theirs = read_by_transformers(exported(path), monkeypatch)
    segments = torch.arange(TEXT.size(1)).expand_as(TEXT) // 7
    same(hidden_states(theirs, token_type_ids=segments), model(TEXT, segments=segments, features_only=True)[0])
    same(hidden_states(theirs), model(TEXT, features_only=True)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_folded_and_written_in_float32(dtype, tmp_path, monkeypatch):
    flags = [*BARE, "--encoder-learned-pos", "--residual", "deepnorm"]  # a table that is not stored would be rounded
    path, model = save_model(tmp_path, "transformer_mlm", *flags, dtype=dtype)
    folder = exported(path)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    theirs = read_by_transformers(folder, monkeypatch)
    same(hidden_states(theirs), model.double()(TEXT, features_only=True)[0], atol=1e-5)


def test_experts_pruned_to_one(tmp_path, monkeypatch, capsys):
    flags = ["--moe-experts", "2", "--moe-freq", "2", "--moe-eval-capacity-factor", "0", "--moe-gate", "softmax"]
    path, model = save_model(tmp_path, "transformer_mlm_base", *flags)
    assert export(path, tmp_path / "folder") == 2
    error = capsys.readouterr().err
    assert "encoder.layers.1 has 2 experts left: fine-tune with --moe-prune" in error and error.count("\n") == 1
    state = model.state_dict()
    state["encoder.layers.1.feed_forward.alive"][0] = False
    model.load_state_dict(state)
    torch.save({**torch.load(path, weights_only=True), "model": model.state_dict()}, path)
    same(hidden_states(read_by_transformers(exported(path), monkeypatch)), model(TEXT, features_only=True)[0])


def test_a_discriminator_goes_without_its_fresh_head(tmp_path, capsys):
    path, _ = save_model(tmp_path, "transformer_mlm_base")
    saved = torch.load(path, weights_only=True)
    heads = {"classification_heads.x.out_proj.bias": torch.zeros(2)}
    extra = {"exported": {"part": "discriminator"}}
    torch.save({**saved, "model": {**saved["model"], **heads}, "extra_state": extra}, path)
    config = json.loads((exported(path) / "config.json").read_text())
    assert config["architectures"] == ["XLMRobertaModel"]
    assert "left out: the head for masked tokens, which is fresh, heads for sentences\n" in capsys.readouterr().out


# ---- back again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch, flags, layout", MASKED_LMS.values(), ids=MASKED_LMS)
def test_back_to_transformer_mlm(arch, flags, layout, tmp_path):
    from safetensors.torch import load_file

    path, model = save_model(tmp_path / "one", arch, *flags)
    state = from_huggingface(load_file(exported(path) / "model.safetensors"))
    residual = ["--residual", "pre"] if "pre" in flags else []
    _, other = save_model(tmp_path / "other", "transformer_mlm_base", *residual)
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("encoder.lm_head.") for name in missing)
    same(other(TEXT, features_only=True)[0], model(TEXT, features_only=True)[0], atol=1e-9)


@pytest.mark.parametrize("arch, flags, layout", MASKED_LMS.values(), ids=MASKED_LMS)
def test_back_to_xlm_t(arch, flags, layout, tmp_path):
    """Rows by symbol, from the dict.txt that went along."""
    path, model = save_model(tmp_path, arch, *flags)
    words = data_dictionary()
    residual = ["--residual", "pre"] if "pre" in flags else []
    started = xlm_t(words, "--init-encoder", str(exported(path)), "--encoder-layers", "3", *residual)
    started.start_training()
    text = sentences(words, [7, 4, 20])
    text[text >= words.index("__de__")] = words.index("w3")  # tags are not in the other dictionary
    theirs = text.clone().apply_(lambda row: WORDS.index(words[row]))
    found, real = started.encoder(text)["encoder_out"][0].transpose(0, 1), text.ne(words.pad())
    torch.testing.assert_close(found[real], model(theirs, features_only=True)[0][real], atol=1e-9, rtol=0)


def test_an_activation_has_our_name_again(tmp_path, capsys):
    path, _ = save_model(tmp_path, "transformer_mlm_base", "--activation-fn", "gelu_accurate")
    folder = exported(path)
    with pytest.raises(SystemExit, match="needs --activation-fn gelu_accurate, not gelu"):
        xlm_t(WORDS, "--init-encoder", str(folder), "--encoder-layers", "3").start_training()
    xlm_t(WORDS, "--init-encoder", str(folder), "--encoder-layers", "3", "--activation-fn", "gelu_accurate"
          ).start_training()  # fmt: skip


# ---- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint."""
    return save_model(tmp_path_factory.mktemp("small"), "transformer_mlm_base")[0]


def changed(small, folder, change):
    """A copy of the checkpoint with a change."""
    saved = torch.load(small, weights_only=True)
    change(saved)
    torch.save(saved, folder / "changed.pt")
    return folder / "changed.pt"


def test_the_config_says_how_long_and_what_it_was_made_from(small, tmp_path):
    assert export(small, tmp_path / "folder") == 0
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["max_position_embeddings"] == POSITIONS + 2 and config["layer_norm_eps"] == 1e-5
    assert config["vocab_size"] == len(WORDS) and config["type_vocab_size"] == 1
    about = json.loads((tmp_path / "folder" / "export.json").read_text())
    assert about["checkpoint"]["file"] == "checkpoint.pt" and about["engine"] == "huggingface"
    assert set(about["sha256"]) == {"config.json", "dict.txt", "model.safetensors"}
    assert len({path.stat().st_mode for path in (tmp_path / "folder").iterdir()}) == 1, "who may read one may read all"


def test_an_earlier_export_is_replaced_whole_and_nothing_else(small, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "folder"
    assert export(small, folder) == 0
    (folder / "dict.txt").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(_huggingface_folder, "write_json", full)
        assert export(small, folder) == 2
    assert "is full" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert export(small, folder) == 0 and (folder / "dict.txt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    capsys.readouterr()
    for other in (small, small.parent):
        assert export(small, other) == 2
        assert capsys.readouterr().err == f"error: --output {other} exists and is no export; give a new folder\n"
    assert main(["translate", "--tgt", "de", "--model", str(folder)]) == 2
    assert f"{folder} is an export for huggingface: nothing here translates with it" in capsys.readouterr().err


def test_a_dictionary_that_is_not_the_checkpoint_s_does_not_go_along(small, tmp_path, capsys):
    def forget(saved):
        saved["cfg"]["task"]["data"] = None

    path = changed(small, tmp_path, forget)
    lines = (small.parent / "dict.txt").read_text().splitlines(keepends=True)
    all_but_mask, fewer = "".join(lines[:-1]), "".join(lines[:-2])
    for text, goes in ((all_but_mask, True), (fewer, False), ("no counts\n", False), (None, False)):
        if text is None:
            (tmp_path / "dict.txt").unlink()
        else:
            (tmp_path / "dict.txt").write_text(text)
        capsys.readouterr()
        folder = exported(path)  # the first lacks <mask>, which the stock task appends
        assert (folder / "dict.txt").is_file() == goes
        assert ("no dict.txt: none was found that belongs" in capsys.readouterr().out) != goes
        if goes:
            assert (folder / "dict.txt").read_text().splitlines()[-1] == "<mask> 1"
    shutil.copy(small.parent / "dict.txt", tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": {"dict.txt": "another"}}))
    assert not (exported(path) / "dict.txt").exists(), "the manifest says that it is another file"


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arch, flags, says",
    [
        ("transformer_mlm_base", ["--residual", "subln"], "trained with --residual subln, which neither XLM-R nor"),
        ("transformer_mlm_base", ["--ffn-gate"], "trained with --ffn-gate, which neither"),
        ("transformer_mlm_base", ["--norm", "rms"], "trained with --norm rms, which neither"),
        ("unilmv2_tiny", [], "trained with --relative-bias-buckets 32, which neither"),
        ("transformer_mlm_base", ["--attention-head-dim", "4"], "trained with --attention-head-dim 4, which neither"),
        ("transformer_mlm_base", ["--embedding-dim", "8"], "trained with --embedding-dim 8, which neither"),
        ("transformer_mlm_base", ["--no-token-positional-embeddings"], "with --no-token-positional-embeddings, which"),
        ("transformer_mlm", [], "trained without --layernorm-embedding, and XLM-R and roberta-prelayernorm always"),
        ("transformer_mt", [], "trained without --layernorm-embedding, and XLM-R"),
        ("transformer", [], "is of a transformer: --to huggingface takes transformer_mlm, transformer_mt, xlm_t\n"),
    ],
)
def test_what_has_no_such_form_is_one_sentence(arch, flags, says, tmp_path, capsys):
    if arch == "unilmv2_tiny":
        arch, flags = "transformer_mlm_base", ["--relative-bias-buckets", "32"]
    path, _ = save_model(tmp_path, arch, *flags)
    assert export(path, tmp_path / "folder") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: checkpoint {path} ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "folder").exists()


def without(*names):
    return lambda saved: [saved["model"].pop(name) for name in names]


def with_options(**options):
    return lambda saved: saved["cfg"]["model"].update(options)


@pytest.mark.parametrize(
    "change, says",
    [
        (without("encoder.embed_tokens.weight"), "it has no encoder.embed_tokens.weight"),
        (without("encoder.layers.1.final_layer_norm.bias"), "encoder.layers.1.final_layer_norm.bias is missing"),
        (lambda saved: saved["model"].update({"encoder.x": torch.ones(3)}), "encoder.x is [3], and with its options"),
        (lambda saved: saved["model"].update({"encoder.embed_tokens.weight": torch.tensor(1.0)}), "it has no encoder."),
        (lambda saved: saved["model"].update({"encoder.layernorm_embedding.bias": "x"}), "is a str"),
        (with_options(encoder_layers=10**9), "its options say 1000000000 layers"),
        (with_options(encoder_layers="x"), "its option encoder_layers is 'x'"),
        (with_options(encoder_attention_heads=0), "--encoder-attention-heads 0 must be at least 1"),
        (with_options(encoder_attention_heads=3), "must be a multiple of --encoder-attention-heads 3"),
        (with_options(residual="sideways"), "--residual sideways must be one of"),
        (with_options(activation_fn="swash"), "--activation-fn swash not supported"),
        (with_options(_name="electra"), "is of a electra: --to huggingface takes transformer_mlm, transformer_mt, "
         "xlm_t; export --to discriminator makes one of it"),
        (with_options(_name=7), "_name in cfg model is a int"),
        (lambda saved: saved.update(cfg={"model": 3}), "cfg model is a int"),
        (lambda saved: saved.update(cfg=None), "it has no options"),
        (lambda saved: saved.update(extra_state={"fairseq_plugins": {"sha256": 5}}), "does not say from which data"),
        (lambda saved: saved.update(extra_state=[1]), "extra_state is a list"),
        (lambda saved: saved.clear(), "it has no 'model'"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_sentence(change, says, small, tmp_path, capsys):
    path = changed(small, tmp_path, change)
    assert export(path, tmp_path / "folder") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(path) in error and says in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pt"]


def test_sinusoidal_positions_out_of_all_proportion_are_not_made(tmp_path, capsys):
    path, _ = save_model(tmp_path, "transformer_mlm", *BARE)
    saved = torch.load(path, weights_only=True)
    saved["cfg"]["model"]["max_source_positions"] = 10**11
    torch.save(saved, path)
    assert export(path, tmp_path / "folder") == 2
    assert "--max-source-positions 100000000000 would be rows of a table" in capsys.readouterr().err


def test_options_that_do_not_go_together(small, tmp_path, capsys):
    assert export(small, tmp_path / "folder", "--quantization", "int8") == 2
    assert "--quantization is for --to ctranslate2" in capsys.readouterr().err
    assert export(tmp_path / "nowhere.pt", tmp_path / "folder") == 2
    assert "nowhere.pt does not exist" in capsys.readouterr().err


def test_without_the_package_one_sentence_says_how_to_get_it(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert export(small, tmp_path / "folder") == 2
    error = capsys.readouterr().err
    assert error == "error: --to huggingface needs the package safetensors: pip install safetensors\n"

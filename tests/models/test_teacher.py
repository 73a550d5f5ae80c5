"""What lends its relations: every kind of encoder gives the queries, keys and values of its own software (float64)."""

import json
import sys
from argparse import Namespace

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch.testing import assert_close

import fairseq_plugins
from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._relations import EncoderRelations
from fairseq_plugins.models._teacher import read_teacher
from tests.models_support import TINY_MT, build, built, dictionary, model_config, sentences
from tests.pretrained_support import (
    DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    old_names,
    random_roberta,
    roberta_words,
    save_roberta,
)

fairseq_plugins.register()

LONGEST = 12
MLM = ["--encoder-layers", "3", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24",
       "--encoder-attention-heads", "2", "--max-source-positions", "32", "--dropout", "0.1"]  # fmt: skip


def data_words(*more):
    """The words of a data set in another order than any teacher's; rows of its own for tags."""
    words = Dictionary()
    for number in (5, 3, 11, 0, 2):
        words.add_symbol(f"w{number}")
    for symbol in ("<mask>", "__de__", *more):
        words.add_symbol(symbol)
    return words


WORDS = data_words()
TOKENS = sentences(WORDS, [7, 4, 10])
TOKENS[TOKENS >= WORDS.index("<mask>")] = WORDS.index("w3")


def teacher(path, **choices):
    """In float64."""
    choices = {"longest": LONGEST, "minilm": False, "dtype": torch.float64, **choices}
    return read_teacher(str(path), WORDS, **choices)


def random_numbers(model):
    """Numbers that float32 can hold, in which a teacher is read.

    A weight of a norm is around 1, as in what was trained: otherwise tokens are hardly told apart after some layers.
    """
    torch.manual_seed(3)
    for name, parameter in model.float().named_parameters():
        is_norm = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
    return model.double().eval()


def seen_by(layers, run):
    """Outputs of `layers` (q, k, v) while `run()` runs."""
    found = {}
    hooks = [layer.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
             for name, layer in layers.items()]  # fmt: skip
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return [found[name] for name in "qkv"]


def same(found, wanted, atol=1e-9):
    real = TOKENS.ne(WORDS.pad())
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape[:2] == TOKENS.shape and theirs[real].std(dim=0).mean() > 0.03, "tokens must differ"
        assert_close(mine[real], theirs[real], atol=atol, rtol=0)


def seen_by_stock(layer, run):
    """The same of the engine's layers, which use the weights of their projections and never call them."""
    found = {}
    with torch.no_grad():
        hook = layer.self_attn.register_forward_pre_hook(lambda _, __, given: found.update(given), with_kwargs=True)
        run()
        hook.remove()
        return [project(found["query"]).transpose(0, 1) for project in attention(layer).values()]


def in_rows_of(words):
    return TOKENS.clone().apply_(lambda row: words.index(WORDS[row]))


def attention(layer):
    """Its projections by letter, in the names of fairseq."""
    return {letter: getattr(layer.self_attn, f"{letter}_proj") for letter in "qkv"}


def saved_model(folder, arch, words, *flags):
    """(a random model, its checkpoint) as a training with these options writes it, and its dictionary beside it."""
    task = "masked_lm" if any(kind in arch for kind in ("mlm", "electra")) else "translation"
    cfg = model_config(arch, *flags, *(["--tokens-per-sample", "32"] if task == "masked_lm" else []), task=task)
    model = random_numbers(built(cfg, words))
    model_options = cfg.model
    if arch == "transformer_mlm" and "--max-source-positions" not in flags:  # as the engine saves it
        model_options["max_source_positions"] = None
    options = {"model": vars(model_options) if isinstance(model_options, Namespace) else
               OmegaConf.to_container(model_options),
               "task": {**OmegaConf.to_container(cfg.task), "data": str(folder)}}  # fmt: skip
    torch.save({"cfg": options, "model": model.state_dict()}, folder / "checkpoint.pt")
    words.save(str(folder / "dict.txt"))
    return model, folder / "checkpoint.pt"


# ---- this package's --------------------------------------------------------------------------------------------------

TEMPERED = ["--attention-head-dim", "4", "--relative-bias-buckets", "8", "--relative-bias-max-distance", "16"]
EXPERTS = ["--moe-experts", "4", "--moe-freq", "2"]
OWN = {
    "mlm as long as the task's texts": ("transformer_mlm", [word for word in MLM if word not in
                                                              ("--max-source-positions", "32")]),
    "mlm with a temperature": ("transformer_mlm_base", [*MLM, "--attention-temperature", "20"]),
    **{f"mlm {residual}": ("transformer_mlm", [*MLM, "--residual", residual]) for residual in
       ("post", "pre", "deepnorm", "subln")},
    "mlm with learned positions": ("transformer_mlm_base", MLM),
    "mlm with its own head width and relative positions": ("transformer_mlm_base", [*MLM, *TEMPERED]),
    "mlm with narrow tables": ("transformer_mlm", [*MLM, "--embedding-dim", "8"]),
    "mlm with experts": ("transformer_mlm", [*MLM, *EXPERTS]),
    "mlm with an inserted layer": ("transformer_mlm", [*MLM, *EXPERTS[:2], "--moe-insert-after", "2"]),
    "mt": ("transformer_mt", [*TINY_MT, "--share-all-embeddings", "--decoder-attention-heads", "4"]),
    "mt deepnorm": ("transformer_mt", [*TINY_MT, "--residual", "deepnorm"]),
    "mt6": ("mt6_tiny", TINY_MT),
    "xlm_t": ("xlm_t_tiny", TINY_MT),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_own(kind, tmp_path):
    arch, flags = OWN[kind]
    words = roberta_words()
    model, path = saved_model(tmp_path, arch, words, *flags)
    layers = [layer for layer in model.encoder.layers if hasattr(layer, "self_attn")]
    for number in (2, len(layers)):
        wanted = seen_by(attention(layers[number - 1]), lambda: model.encoder.encode(in_rows_of(words)))
        same(teacher(path, layer=number).projections(TOKENS), wanted)


def test_segments_are_those_that_the_teacher_learned(tmp_path):
    words = roberta_words()
    model, path = saved_model(tmp_path, "transformer_mlm", words, *MLM, "--segments", "2")
    segments = (torch.arange(TOKENS.size(1)) > 2).long().expand_as(TOKENS)
    rows = in_rows_of(words)
    wanted = seen_by(attention(model.encoder.layers[-1]), lambda: model.encoder.encode(rows, segments=segments))
    same(teacher(path).projections(TOKENS, segments), wanted)
    first = seen_by(attention(model.encoder.layers[-1]), lambda: model.encoder.encode(rows))
    same(teacher(path).projections(TOKENS), first)
    assert (wanted[0] - first[0]).abs().max() > 0.01


# ---- stock fairseq's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_roberta_of_fairseq(old, tmp_path):
    words = roberta_words()
    roberta = random_numbers(random_roberta(words))
    state = roberta.state_dict()
    path = save_roberta(tmp_path, old_names(state) if old else state)
    layer = roberta.encoder.sentence_encoder.layers[-1]
    wanted = seen_by_stock(layer, lambda: roberta(in_rows_of(words), features_only=True))
    same(teacher(path).projections(TOKENS), wanted)
    same(teacher(path.parent).projections(TOKENS), wanted)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--encoder-normalize-before"],
        ["--no-token-positional-embeddings"],
        ["--encoder-learned-pos", "--layernorm-embedding", "--activation-fn", "gelu", "--no-scale-embedding"],
    ],
    ids=lambda flags: " ".join(flags) or "plain",
)
def test_stock_transformer(flags, tmp_path):
    words = dictionary()
    stock, path = saved_model(tmp_path, "transformer", words, *TINY_MT, *flags)
    tokens = in_rows_of(words)
    layer = stock.encoder.layers[-1]
    wanted = seen_by_stock(layer, lambda: stock.encoder(tokens, tokens.ne(words.pad()).sum(1)))
    same(teacher(path).projections(TOKENS), wanted)


# ---- Hugging Face's --------------------------------------------------------------------------------------------------

PIECES = [f"w{number}" for number in range(20)]


def hugging_face(kind, folder, monkeypatch, **more):
    """A random model of transformers saved in a folder, with its vocabulary; (the model, its symbols)."""
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # not for text, and one of another torch breaks the import
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    bert = kind == "Bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES] if bert else roberta_words().symbols
    rows = dict(pad_token_id=0) if bert else dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(words), hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=HIDDEN, max_position_embeddings=POSITIONS + 2 * (not bert), type_vocab_size=1 + bert, **rows,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **more,
    )  # fmt: skip
    model = random_numbers(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    if bert:
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    else:
        dictionary().save(str(folder / "dict.txt"))
    return model, words


def their_attention(model):
    layer = model.encoder.layer[-1].attention.self
    return {"q": layer.query, "k": layer.key, "v": layer.value}


@pytest.mark.parametrize("kind", ["XLMRoberta", "Roberta"])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_hugging_face_roberta(kind, eps, tmp_path, monkeypatch):
    model, _ = hugging_face(kind, tmp_path, monkeypatch, layer_norm_eps=eps)
    rows = in_rows_of(roberta_words())
    wanted = seen_by(their_attention(model), lambda: model(rows, attention_mask=rows.ne(1).long()))
    same(teacher(tmp_path).projections(TOKENS), wanted, atol=1e-6)


def test_hugging_face_bert_with_both_segments(tmp_path, monkeypatch):
    model, symbols = hugging_face("Bert", tmp_path, monkeypatch)
    theirs = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    rows = TOKENS.clone().apply_(lambda row: symbols.index(theirs.get(WORDS[row], WORDS[row])))
    segments = (torch.arange(TOKENS.size(1)) > 2).long().expand_as(TOKENS)

    def run():
        model(rows, attention_mask=rows.ne(0).long(), token_type_ids=segments)

    same(teacher(tmp_path).projections(TOKENS, segments), seen_by(their_attention(model), run), atol=1e-6)


@pytest.mark.parametrize(
    "kind, layers, minilm, wanted",
    [("Bert", 24, False, 21), ("XLMRoberta", 24, False, 19), ("XLMRoberta", 24, True, 24), ("Bert", 12, False, 12)],
)
def test_the_papers_layer(kind, layers, minilm, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LAYERS", layers)
    hugging_face(kind, tmp_path, monkeypatch)
    assert teacher(tmp_path, minilm=minilm).number == wanted
    assert teacher(tmp_path, minilm=minilm, layer=5).number == 5


# ---- the object ------------------------------------------------------------------------------------------------------


@pytest.fixture
def roberta(tmp_path):
    return save_roberta(tmp_path, random_numbers(random_roberta(roberta_words())).state_dict())


def test_a_teacher_is_no_module_learns_nothing_and_drops_nothing_out(roberta):
    found = teacher(roberta)
    assert not isinstance(found, torch.nn.Module)
    projections = found.projections(TOKENS)
    assert not any(parameter.requires_grad for parameter in found.encoder.parameters())
    assert not any(x.requires_grad for x in projections)
    assert_close(found.projections(TOKENS), projections, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_computes_in_the_precision_that_was_asked_for(roberta, dtype):
    wanted = teacher(roberta).projections(TOKENS)
    real = TOKENS.ne(WORDS.pad())
    for found, right in zip(teacher(roberta, dtype=dtype).projections(TOKENS), wanted, strict=True):
        assert found.dtype == dtype
        apart = (found[real].double() - right[real]).norm() / right[real].norm()
        assert 0 < apart < 20 * torch.finfo(dtype).eps


def test_symbols_that_are_no_text_and_that_it_lacks_are_unknown_to_it(roberta):
    tokens, unknown = TOKENS.clone(), TOKENS.clone()
    tokens[0, 0], unknown[0, 0] = WORDS.index("__de__"), WORDS.unk()
    found = teacher(roberta)
    assert_close(found.projections(tokens), found.projections(unknown), atol=0, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": 7}, "--teacher-layer 7 must be from 1 to 6"),
        ({"layer": -1}, "--teacher-layer -1 must be from 1 to 6"),
        ({"longest": 33}, "--tokens-per-sample 33 must be at most 32, the positions of --teacher"),
    ],
)
def test_choices_that_do_not_fit_are_refused(roberta, change, message):
    with pytest.raises(Refusal) as refusal:
        teacher(roberta, **change)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_dictionary_with_other_pieces_is_refused_with_their_number(roberta):
    with pytest.raises(Refusal) as refusal:
        read_teacher(str(roberta), data_words("x", "y"), longest=LONGEST, minilm=False)
    assert "lacks 2 of the 7 pieces of the data, such as x, y: binarise the data with" in str(refusal.value)


def test_damage_is_one_sentence(tmp_path):
    _, path = saved_model(tmp_path, "transformer_mlm", roberta_words(), *MLM)
    saved = torch.load(path)

    def refused(state):
        torch.save(state, path)
        with pytest.raises(SystemExit) as refusal:
            teacher(path)
        message = str(refusal.value)
        assert "\n" not in message and str(path) in message
        return message

    weights = dict(saved["model"])
    value = weights.pop("encoder.layers.1.self_attn.k_proj.weight")
    assert "is damaged" in refused({**saved, "model": weights})
    misshapen = {**weights, "encoder.layers.1.self_attn.k_proj.weight": value.T[:4]}
    assert "is damaged" in refused({**saved, "model": misshapen})
    assert "has no encoder" in refused({**saved, "model": {"decoder.x": value}})
    assert "has no encoder" in refused({**saved, "model": {"encoder.embed_tokens.weight": 3}})
    assert "is damaged" in refused({**saved, "cfg": {"model": {"_name": "transformer_mlm", "encoder_layers": "x"}}})
    assert "does not say how many attention heads" in refused({**saved, "cfg": {}})
    path.write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit):
        teacher(path)


def test_an_electra_is_two_models(tmp_path):
    _, path = saved_model(tmp_path, "electra_tiny", roberta_words(), "--encoder-layers", "2")
    with pytest.raises(Refusal, match="is of an electra, which is two models"):
        teacher(path)


def test_a_model_that_reads_sources_in_its_own_way_is_refused(tmp_path):
    words = roberta_words()
    words.add_symbol("<pseudo_mask>")
    flags = ["--encoder-layers", "2", "--max-source-positions", "20", "--max-target-positions", "11"]
    _, path = saved_model(tmp_path, "unilmv2_seq2seq_tiny", words, *flags)
    with pytest.raises(Refusal, match="is of a unilmv2_seq2seq_tiny, which reads sources as no student does"):
        teacher(path)


def test_the_model_hands_it_to_its_task(roberta):
    model = build("transformer_mlm", WORDS, *MLM, "--tokens-per-sample", "32", task="masked_lm")
    assert isinstance(model, EncoderRelations)
    assert model.read_teacher(str(roberta), WORDS, longest=LONGEST, minilm=True).number == LAYERS


def test_bert_as_it_was_first_stored(tmp_path, monkeypatch):
    """TensorFlow's names of norms; a dict.txt beside it says nothing, and config.json's padding may be wrong."""
    safetensors = pytest.importorskip("safetensors.torch")
    hugging_face("Bert", tmp_path, monkeypatch)
    wanted = teacher(tmp_path)
    state = safetensors.load_file(tmp_path / "model.safetensors")
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        state = {f"{name.removesuffix(f'LayerNorm.{new}')}LayerNorm.{old}" if name.endswith(f"LayerNorm.{new}") else
                 name: value for name, value in state.items()}  # fmt: skip
    assert any(name.endswith("gamma") for name in state)
    safetensors.save_file({f"bert.{name}": value for name, value in state.items()}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 3}))
    dictionary(len(PIECES) + 1).save(str(tmp_path / "dict.txt"))
    found = teacher(tmp_path)
    assert_close(found.projections(TOKENS), wanted.projections(TOKENS), atol=1e-12, rtol=0)
    assert found.encoder.padding_idx == 0 and found.rows_W.equal(wanted.rows_W)


def test_a_padding_that_is_not_the_dictionary_s_is_refused(tmp_path, monkeypatch):
    hugging_face("XLMRoberta", tmp_path, monkeypatch)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    with pytest.raises(Refusal, match="has its padding in row 0 by its configuration and in row 1 by its dictionary"):
        teacher(tmp_path)


@pytest.mark.parametrize("change, message", [({"hidden_act": "swish"}, "has swish as its activation"),
                                             ({"hidden_act": [1]}, "as its activation"),
                                             ({"layer_norm_eps": "x"}, "gives x as layer_norm_eps")])
def test_what_no_encoder_here_computes_is_refused(tmp_path, monkeypatch, change, message):
    hugging_face("XLMRoberta", tmp_path, monkeypatch)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(Refusal) as refusal:
        teacher(tmp_path)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_bert_s_vocabulary_may_be_a_tokenizer_s(tmp_path, monkeypatch):
    _, symbols = hugging_face("Bert", tmp_path, monkeypatch)
    (tmp_path / "vocab.txt").unlink()
    tokenizer = {"model": {"type": "WordPiece", "vocab": {symbol: row for row, symbol in enumerate(symbols)}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert teacher(tmp_path).rows_W.tolist() == [symbols.index(word) for word in
                                                 ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "w5", "w3", "w11", "w0", "w2",
                                                  "[MASK]", "[UNK]")]  # fmt: skip

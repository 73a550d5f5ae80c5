"""Teachers in folders of Hugging Face's transformers: their own numbers, vocabularies, and what does not fit."""

import json
import sys

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from tests.models.teachers import TOKENS, WORDS, in_rows_of, random_numbers, same, seen_by, teacher
from tests.models_support import dictionary
from tests.pretrained_support import DIM, HEADS, HIDDEN, LAYERS, POSITIONS, roberta_words

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

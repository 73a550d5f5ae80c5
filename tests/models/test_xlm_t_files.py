"""What --init-encoder and --init-decoder may name: whose symbols the rows are, and what is refused."""

import hashlib
import io
import json
import shutil
import sys

import pytest
import sentencepiece
import torch
from fairseq.data import Dictionary

from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._pretrained import read_pretrained
from tests.models_support import dictionary
from tests.pretrained_support import (
    DIM,
    TAGS,
    data_dictionary,
    hugging_face_names,
    random_roberta,
    refusal_of,
    roberta_words,
    save_roberta,
    xlm_t,
)

WORDS = data_dictionary()
TOKENS = "encoder.sentence_encoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """(path of a fairseq RoBERTa with 25 rows, its state)."""
    state = random_roberta(roberta_words()).state_dict()
    return save_roberta(tmp_path_factory.mktemp("roberta"), state), state


@pytest.fixture
def alone(roberta, tmp_path):
    """A copy that nothing lies beside."""
    (tmp_path / "model").mkdir()
    return shutil.copy(roberta[0], tmp_path / "model" / "model.pt")


def words_of(*symbols):
    words = Dictionary()
    for symbol in symbols:
        words.add_symbol(symbol)
    return words


def symbols_of(path):
    return read_pretrained(str(path), "--init-encoder").symbols


# ---- whose symbols the rows are --------------------------------------------------------------------------------------


def test_without_a_dictionary_nothing_is_taken(alone):
    message = refusal_of(alone)
    assert "has 25 rows, and no dictionary says of which symbols; put the dict.txt" in message


@pytest.mark.parametrize(
    "words",
    [words_of(*(f"w{number}" for number in reversed(range(15)))), dictionary(19), dictionary(22), dictionary(40)],
    ids=["fewer, reversed", "one less", "one more", "more"],
)
def test_a_dictionary_of_another_size_is_not_the_checkpoint_s(alone, words):
    words.save(str(alone.parent / "dict.txt"))
    found = f"({alone.parent / 'dict.txt'} has {len(words)})"
    assert f"has 25 rows, and no dictionary says of which symbols {found}; put" in refusal_of(alone)


def test_the_dictionary_may_hold_mask_or_not(alone):
    for words in (dictionary(), roberta_words()):
        words.save(str(alone.parent / "dict.txt"))
        assert symbols_of(alone) == roberta_words().symbols


@pytest.mark.parametrize("where", ["manifest", "checkpoint"])
def test_as_many_rows_are_not_the_same_rows(alone, where):
    """Both a manifest of this package and an average of its checkpoints know the hash of the dictionary."""
    file = alone.parent / "dict.txt"
    dictionary().save(str(file))
    record = {"sha256": {"dict.txt": hashlib.sha256(file.read_bytes()).hexdigest()}, "tag_scheme": "target"}
    if where == "manifest":
        (alone.parent / "manifest.json").write_text(json.dumps(record))
    else:
        saved = torch.load(alone, weights_only=False)
        torch.save({**saved, "extra_state": {"fairseq_plugins": record}}, alone)
    assert symbols_of(alone) == roberta_words().symbols
    words_of(*reversed(dictionary().symbols[4:])).save(str(file))
    assert f"{file} is not the file that manifest.json or the checkpoint describes" in refusal_of(alone)


def test_the_data_folder_of_the_training_is_looked_at_too(alone, tmp_path):
    saved = torch.load(alone, weights_only=False)
    saved["args"].data = str(tmp_path / "data")
    torch.save(saved, alone)
    (tmp_path / "data").mkdir()
    dictionary().save(str(tmp_path / "data" / "dict.txt"))
    assert symbols_of(alone) == roberta_words().symbols
    dictionary(3).save(str(alone.parent / "dict.txt"))
    assert symbols_of(alone) == roberta_words().symbols, "what cannot be the dictionary does not hide it"


def test_tags_that_a_multilingual_task_appended(tmp_path):
    words = words_of("w1", "w2", *TAGS)
    task = {"_name": "translation_multi_simple_epoch", "langs": ["de", "en"]}
    torch.save({"model": xlm_t(words).state_dict(), "cfg": {"model": {}, "task": task}}, tmp_path / "model.pt")
    words_of("w1", "w2").save(str(tmp_path / "dict.txt"))
    assert symbols_of(tmp_path / "model.pt") == words.symbols
    words_of("w1").save(str(tmp_path / "dict.txt"))
    assert "has 8 rows, and no dictionary" in refusal_of(tmp_path / "model.pt")


def test_only_a_deltalm_may_have_spare_rows(tmp_path, caplog):
    state = xlm_t(dictionary(24), "--interleaved-ffn").state_dict()
    dictionary().save(str(tmp_path / "dict.txt"))
    torch.save({"weights": state}, tmp_path / "deltalm.pt")
    assert symbols_of(tmp_path / "deltalm.pt") == dictionary().symbols
    assert f"has 4 rows more than {tmp_path / 'dict.txt'}" in caplog.text
    torch.save({"model": state}, tmp_path / "ours.pt")
    assert "has 28 rows, and no dictionary" in refusal_of(tmp_path / "ours.pt")
    dictionary(25).save(str(tmp_path / "dict.txt"))
    assert "has 28 rows, and no dictionary" in refusal_of(tmp_path / "deltalm.pt")


def test_a_model_of_two_dictionaries_is_refused(tmp_path):
    state = xlm_t(dictionary()).state_dict()
    torch.save({"model": {**state, "decoder.embed_tokens.weight": torch.ones(30, DIM)}}, tmp_path / "two.pt")
    assert "has 24 rows for its source and 30 for its target" in refusal_of(tmp_path / "two.pt")


def test_a_dictionary_of_other_words_or_none(alone):
    words_of(*(f"other{number}" for number in range(20))).save(str(alone.parent / "dict.txt"))
    assert "shares no symbol with the data's dictionary" in refusal_of(alone)
    (alone.parent / "dict.txt").write_text("one two three\n")
    assert "is no dictionary of fairseq" in refusal_of(alone.parent)


# ---- Hugging Face's folders ------------------------------------------------------------------------------------------


def save_hugging_face(folder, state, **config):
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", **config}))
    torch.save(hugging_face_names(state), folder / "pytorch_model.bin")
    return folder


def trained_pieces():
    """A small SentencePiece model with XLM-R's first ids, and its file."""
    written, text = io.BytesIO(), ["the cat sat on the mat", "a dog ate the hat", "no cat ate a mat"] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=written, vocab_size=30, hard_vocab_limit=False, minloglevel=2
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), written.getvalue()


def test_xlm_r_s_pieces_name_the_rows_where_only_they_are_there(tmp_path):
    pieces, file = trained_pieces()
    ours = words_of(*(pieces.id_to_piece(number) for number in reversed(range(3, pieces.get_piece_size()))), "<mask>")
    state = random_roberta(ours).state_dict()  # as many rows; the model's own order
    save_hugging_face(tmp_path, state)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(file)
    model = xlm_t(ours, "--init-encoder", str(tmp_path))
    model.start_training()
    rows, table = model.encoder.embed_tokens.weight, state[TOKENS]
    for piece in ours.symbols[4:-1]:
        assert torch.equal(rows[ours.index(piece)], table[pieces.piece_to_id(piece) + 1]), piece
    assert torch.equal(rows[ours.index("<mask>")], table[-1])
    for row in (ours.bos(), ours.eos(), ours.unk()):  # 0, 2, 3 in both
        assert torch.equal(rows[row], table[row])
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"no pieces")
    assert "sentencepiece.bpe.model is no SentencePiece model" in refusal_of(tmp_path)


def test_hugging_face_without_names_for_its_rows(roberta, tmp_path):
    save_hugging_face(tmp_path, roberta[1])
    assert "has 25 rows, and no dictionary says of which symbols; put the dict.txt" in refusal_of(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(trained_pieces()[1])
    assert "has 25 rows and its tokenizer" in refusal_of(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["<s>", 0.0], ["<pad>", 0.0]]}}))
    assert "has 25 rows and its tokenizer 2" in refusal_of(tmp_path)
    dictionary().save(str(tmp_path / "dict.txt"))
    assert symbols_of(tmp_path) == roberta_words().symbols
    dictionary(22).save(str(tmp_path / "dict.txt"))
    assert "dict.txt has 26" in refusal_of(tmp_path)


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_files_that_hold_no_encoder(roberta, tmp_path):
    path, state = roberta
    assert "holds neither model.pt" in refusal_of(tmp_path)
    torch.save([1], tmp_path / "list.pt")
    assert "is no checkpoint" in refusal_of(tmp_path / "list.pt")
    torch.save({"model": {"decoder.embed_tokens.weight": torch.ones(3, 2)}}, tmp_path / "decoder.pt")
    assert "has no encoder" in refusal_of(tmp_path / "decoder.pt")
    torch.save({"model": {"encoder.layers.0.weight": torch.ones(3, 2)}}, tmp_path / "other.pt")
    assert "has no embed_tokens.weight" in refusal_of(tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    assert "truncated, damaged or not a checkpoint" in refusal_of(tmp_path / "cut.pt")


def test_hugging_face_folders_that_do_not_fit(tmp_path, monkeypatch):
    def config(**values):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", **values}))

    config()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal_of(tmp_path)
    config(model_type="albert")
    assert "holds a model of type albert" in refusal_of(tmp_path)
    config(position_embedding_type="relative_key")
    assert "has relative_key positions" in refusal_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refusal_of(tmp_path)
    config()
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "needs the package safetensors: pip install safetensors" in refusal_of(tmp_path)
    monkeypatch.undo()
    pytest.importorskip("safetensors")
    assert "is truncated or damaged" in refusal_of(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"roberta.embeddings.word_embeddings.weight": torch.ones(4, DIM)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "dict.txt").touch()
    assert "has no layers.0.feed_forward.fc1.weight" in refusal_of(tmp_path)
    with pytest.raises(Refusal, match="has no layers.0"):  # the file stands for its folder
        xlm_t(WORDS, "--init-encoder", str(tmp_path / "pytorch_model.bin")).start_training()


@pytest.mark.parametrize(
    "model, said",
    [
        ([1], "is damaged or no model: it must hold tensors by name"),
        ({"encoder.embed_tokens.weight": "x"}, "is damaged or no model: it must hold tensors by name"),
        ({1: torch.ones(2)}, "is damaged or no model: it must hold tensors by name"),
        ({"roberta.embeddings.word_embeddings.weight": torch.ones(4)}, "embed_tokens.weight has shape (4,)"),
        ({"encoder.layer.0.intermediate.dense.weight": torch.ones(4)}, "fc1.weight has shape (4,)"),
        (
            {"embeddings.position_embeddings.weight": torch.ones(4, 2),
             "embeddings.token_type_embeddings.weight": torch.ones(1, 3)},
            "have shapes that no Transformer's have",
        ),
    ],
    ids=["list", "text", "numbers", "flat tokens", "flat layer", "widths"],
)  # fmt: skip
def test_a_damaged_model_of_hugging_face(tmp_path, model, said):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    torch.save(model, tmp_path / "pytorch_model.bin")
    assert said in refusal_of(tmp_path)


@pytest.mark.parametrize(
    "model, said",
    [
        ({"encoder.embed_tokens.weight": "x"}, "is damaged or no model: it must hold tensors by name"),
        ({2: torch.ones(2)}, "is damaged or no model: it must hold tensors by name"),
        ({"encoder.embed_tokens.weight": torch.ones(4)}, "embed_tokens.weight has shape (4,), not rows x columns"),
        ({"decoder.layers.0.self_attn.in_proj_weight": torch.tensor(1.0)}, "have shapes that no Transformer's have"),
    ],
    ids=["text", "numbers", "flat tokens", "single number"],
)
@pytest.mark.parametrize("key", ["model", "weights"])
def test_a_damaged_checkpoint(tmp_path, model, said, key):
    torch.save({key: model, "cfg": ["no options"], "extra_state": 1}, tmp_path / "model.pt")
    assert said in refusal_of(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("config.json", [], "config.json is damaged: it is no JSON object"),
        ("config.json", {"model_type": "xlm-roberta", "pad_token_id": None}, "gives None as pad_token_id"),
        ("tokenizer.json", [], "tokenizer.json is damaged: it is no JSON object"),
        ("tokenizer.json", {"model": []}, "tokenizer.json is damaged: it has no list of pieces"),
        ("tokenizer.json", {"model": {"vocab": ["a"]}}, "tokenizer.json is damaged: it has no list of pieces"),
        ("tokenizer.json", {"model": {"vocab": []}, "added_tokens": [{"id": 3, "content": "x"}]}, "no list of pieces"),
    ],
)
def test_damaged_json(roberta, tmp_path, name, content, said):
    save_hugging_face(tmp_path, roberta[1])
    (tmp_path / name).write_text(json.dumps(content))
    assert said in refusal_of(tmp_path)

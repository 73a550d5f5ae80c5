"""tokenizer.json of `export --to huggingface --data`: the rows that the package's own commands make of a text."""

import io
import json
import random
import struct

import pytest
import sentencepiece
import torch
from fairseq.data import Dictionary

from fairseq_plugins.cli._huggingface_tokenizer import huggingface_tokenizer
from fairseq_plugins.cli._sentencepiece_file import read_sentencepiece, replaced_by_space
from fairseq_plugins.data.symbols import dictionary_text, read_dictionary
from fairseq_plugins.opus100.codec import Codec
from tests.huggingface_support import export, exported, save_model, transformers
from tests.opus100.road import prepared_folder, verb

pytest.importorskip("safetensors")

# what a text may hold that a corpus hardly does
ODD = ["  ", "\u00a0", "\u3000", "\t", "\u2028", "\r", "\n", "\u2581", "\u65e5\u672c", "....", "aaaaaaa", "ababab",
       "__", "<", ">", "\U0001f642", "\u00df", "\u0130", "x" * 5]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """What `sample` writes: five languages, two alphabets."""
    folder = tmp_path_factory.mktemp("sample")
    assert verb("sample", folder, "--train-lines", 400, "--dev-lines", 20, "--test-lines", 40) == 0
    return folder


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def prepared(request, corpus, tmp_path_factory):
    """DATA of that corpus, by both algorithms."""
    data = tmp_path_factory.mktemp(request.param) / "data"
    words = ["--corpus", corpus, "--out", data, "--vocab-size", 500, "--workers", 1, "--model-type", request.param]
    assert verb("prepare", *words) == 0
    return data


@pytest.fixture(scope="module")
def checkpoint(prepared, tmp_path_factory):
    """A masked language model over DATA's dictionary."""
    words = Dictionary.load(str(prepared / "dict.txt"))
    return save_model(tmp_path_factory.mktemp("model"), "transformer_mlm_base", words=words)[0]


def lines_of(corpus, odd=0):
    """Sentences of the corpus, and as many with something odd in them."""
    files = sorted(corpus.rglob("*-test.*")) + sorted(corpus.rglob("*-dev.*"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")]
    draw = random.Random(1)
    for _ in range(odd):
        line = draw.choice(lines)
        for _ in range(draw.randint(1, 4)):
            place = draw.randint(0, len(line))
            line = line[:place] + draw.choice(ODD) + line[place:]
        lines.append(line)
    return lines


def test_a_sentence_has_the_rows_that_training_saw(prepared, checkpoint, corpus, monkeypatch, capsys):
    folder = exported(checkpoint, "--data", prepared)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and "neither checkpoint" in told.err  # no notice, no manifest beside it
    tokenizer = transformers(monkeypatch).AutoTokenizer.from_pretrained(folder)
    lines = lines_of(corpus, odd=2000)
    expected = [[0, *rows] for rows in Codec(prepared, "target").encode(lines)]
    assert tokenizer(lines)["input_ids"] == expected and len({*map(tuple, expected)}) > 2000
    assert sum(3 in rows for rows in expected) > 500, "there are unknown characters among them"
    assert tokenizer.model_max_length == 32 and len(tokenizer) == len(read_dictionary(prepared / "dict.txt"))


def test_symbols_are_written_in_the_text(prepared, checkpoint, monkeypatch):
    tokenizer = transformers(monkeypatch).AutoTokenizer.from_pretrained(exported(checkpoint, "--data", prepared))
    row_of = {symbol: row for row, symbol in enumerate(read_dictionary(prepared / "dict.txt"))}
    plain = tokenizer("the dog", add_special_tokens=False)["input_ids"]
    mask, tag = row_of["<mask>"], row_of["__de__"]
    for text, expected in (
        ("__de__ the dog", [0, tag, *plain, 2]),
        ("the dog <mask> the dog", [0, *plain, mask, *plain, 2]),
        ("<mask> <mask>", [0, mask, mask, 2]),
        ("", [0, 2]),
    ):
        assert tokenizer(text)["input_ids"] == expected
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (mask, 1, 3)
    assert tokenizer("the dog", "the dog")["input_ids"] == [0, *plain, 2, *plain, 2]
    assert tokenizer.decode(plain).strip() == "the dog"
    batch = tokenizer(["the dog", ""], padding=True)
    assert batch["input_ids"][1] == [0, 2, *[1] * len(plain)] and "token_type_ids" not in batch


def test_segments_and_translation_have_templates_of_their_own(prepared, tmp_path, monkeypatch, capsys):
    words = Dictionary.load(str(prepared / "dict.txt"))
    read = transformers(monkeypatch).AutoTokenizer.from_pretrained
    path, _ = save_model(tmp_path / "segments", "transformer_mlm_base", "--segments", "2", words=words)
    tokenizer = read(exported(path, "--data", prepared))
    pair = tokenizer("the dog", "the dog")
    second = pair["input_ids"].index(2) + 1
    assert pair["token_type_ids"] == [0] * second + [1] * (len(pair["input_ids"]) - second)
    path, _ = save_model(tmp_path / "translation", "xlm_t_tiny", words=words)
    capsys.readouterr()
    tokenizer = read(exported(path, "--data", prepared))
    assert "a text has no <s> and begins with the tag that it had in training" in capsys.readouterr().out
    rows = Codec(prepared, "target").encode(["the dog"])[0]
    assert tokenizer("__de__ the dog")["input_ids"] == [words.index("__de__"), *rows]


def test_the_normalisation_of_nmt_nfkc(corpus, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    words = ["--corpus", corpus, "--out", data, "--vocab-size", 500, "--workers", 1, "--normalization", "nmt_nfkc"]
    assert verb("prepare", *words) == 0
    path, _ = save_model(tmp_path / "model", "transformer_mlm_base", words=Dictionary.load(str(data / "dict.txt")))
    capsys.readouterr()
    folder = exported(path, "--data", data)
    assert "notice: transformers normalises a letter with its marks at a time" in capsys.readouterr().out
    lines = [*lines_of(corpus, odd=500), "\uff21\ufb01\u00bd e\u0301 \u200b\u2460"]
    expected = [[0, *rows] for rows in Codec(data, "target").encode(lines)]
    assert transformers(monkeypatch).AutoTokenizer.from_pretrained(folder)(lines)["input_ids"] == expected


def test_data_must_be_the_checkpoint_s(checkpoint, prepared, tmp_path, capsys):
    other = prepared_folder(tmp_path)
    assert export(checkpoint, tmp_path / "folder", "--data", other) == 2
    assert "rows in its embedding: give the data that the checkpoint was trained on" in capsys.readouterr().err
    manifest = json.loads((other / "manifest.json").read_text())
    bound = {"sha256": manifest["sha256"], "tag_scheme": "target"}
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "extra_state": {"fairseq_plugins": bound}}, tmp_path / "bound.pt")
    assert export(tmp_path / "bound.pt", tmp_path / "folder", "--data", prepared) == 2
    error = capsys.readouterr().err
    assert "was trained from other data than" in error and "dict.txt and sentencepiece.model differ" in error
    assert export(checkpoint, tmp_path / "folder", "--data", tmp_path) == 2
    assert "no manifest.json" in capsys.readouterr().err and not (tmp_path / "folder").exists()


# ---- SentencePiece's files -------------------------------------------------------------------------------------------


def trained(**options):
    """A model over a few words, as bytes."""
    model = io.BytesIO()
    options = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2, **options}
    words = ["the dog sees the cat", "the cat sees a dog", "a dog and a cat see the house"] * 5
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(words), model_writer=model, **options)
    return model.getvalue()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_and_scores_are_the_library_s(kind):
    data = trained(model_type=kind)
    file, library = read_sentencepiece(data), sentencepiece.SentencePieceProcessor(model_proto=data)
    assert file.bpe == (kind == "bpe")
    assert file.pieces == [(library.id_to_piece(i), library.get_score(i)) for i in range(3, library.get_piece_size())]


def test_the_table_of_prepare_turns_white_space_into_spaces(prepared):
    file = read_sentencepiece((prepared / "sentencepiece.model").read_bytes())
    spaces = {chr(code) for code in range(0x110000) if chr(code).isspace()} - {" ", "\n"}
    assert set(replaced_by_space(file.charsmap)) == spaces and len(spaces) > 20
    assert replaced_by_space(read_sentencepiece(trained(normalization_rule_name="nfkc")).charsmap) == ""
    assert read_sentencepiece(trained(normalization_rule_name="identity")).charsmap == b""


@pytest.mark.parametrize(
    "data, says",
    [
        (lambda: trained(model_type="char"), "it is neither a BPE nor a unigram model"),
        (lambda: trained(user_defined_symbols=["dog"]), "it has the piece dog of the unusual kind 4"),
        (lambda: trained(byte_fallback=True, vocab_size=300), "it has the piece <0x00> of the unusual kind 6"),
        (lambda: trained(add_dummy_prefix=False), "it has the option add_dummy_prefix=0"),
        (lambda: trained(treat_whitespace_as_suffix=True), "it has the option treat_whitespace_as_suffix=1"),
        (lambda: trained()[:-9], "it is no SentencePiece model"),
        (lambda: b"no model at all", "it is no SentencePiece model"),
        (lambda: struct.pack("<BBB", 0x0A, 2, 0x80), "it is no SentencePiece model"),
    ],
)
def test_a_model_of_another_kind_is_refused(data, says):
    with pytest.raises(ValueError, match=says):
        read_sentencepiece(data())


def test_rows_that_are_no_pieces_and_pieces_without_rows():
    data = trained(model_type="bpe", normalization_rule_name="identity")
    pieces = [piece for piece, _ in read_sentencepiece(data).pieces]
    rows = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]
    made = huggingface_tokenizer(data, rows, begins=True, segments=1, longest=9)
    assert not made.notices and made.tokenizer["added_tokens"][-1]["id"] == len(rows) - 1
    made = huggingface_tokenizer(data, rows[:5] + rows[6:], begins=True, segments=1, longest=9)
    assert made.notices[0].startswith("1 pieces of the SentencePiece model have no row of their own")
    with pytest.raises(ValueError, match="it has no piece 'zebra', which has a row in the dictionary"):
        huggingface_tokenizer(data, [*rows, "zebra"], begins=True, segments=1, longest=9)
    assert dictionary_text(rows)  # such rows are a dictionary

"""The sample that SentencePiece sees, and what its normalisation does to text."""

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import usable_pieces
from fairseq_plugins.opus100.subwords import (
    SubwordOptions,
    balanced_lines,
    plan_sample,
    read_pieces,
    sample_sentences,
    train_subwords,
)

OPTIONS = SubwordOptions("bpe", 60, 1.0, "identity", 5.0, 10**6, 1, False)


def test_shares_by_hand():
    # T = 2: roots 30 and 10, so 3 : 1 of 400 lines
    assert balanced_lines({"a": 900, "b": 100}, 400, 2) == {"a": 300, "b": 100}
    # T = 1 keeps the proportions
    assert balanced_lines({"a": 900, "b": 100}, 400, 1) == {"a": 360, "b": 40}


def test_a_language_gives_no_line_twice_and_the_others_share_the_rest():
    # equal parts would be 200 each; c has 30, so a and b share 570 by the same rule
    assert balanced_lines({"a": 1000, "b": 1000, "c": 30}, 600, 1e9) == {"a": 285, "b": 285, "c": 30}


def test_a_small_corpus_is_taken_whole():
    assert balanced_lines({"a": 7, "b": 2}, 9, 5) == {"a": 7, "b": 2}


@pytest.fixture
def files(tmp_path):
    """Language -> file -> lines; English in two files."""
    made = {}
    for name, language, lines in (("x.en", "en", 90), ("y.en", "en", 10), ("x.de", "de", 90)):
        path = tmp_path / name
        path.write_text("".join(f"{language} {name} {i}\n" for i in range(lines)))
        made.setdefault(language, {})[path] = lines
    return made


def test_the_sample_takes_from_every_file_what_it_should_and_nothing_twice(files):
    plan = plan_sample(files, OPTIONS._replace(sample_lines=40, temperature=1e9))
    assert [(path.name, take) for path, _, take in plan] == [("x.de", 20), ("x.en", 18), ("y.en", 2)]
    lines = list(sample_sentences(plan, seed=1))
    assert len(lines) == len(set(lines)) == 40
    assert lines == list(sample_sentences(plan, seed=1)) != list(sample_sentences(plan, seed=2))


def test_blank_lines_are_not_sampled(tmp_path):
    (tmp_path / "f").write_text("a\n\n \u3000\nb\n")
    assert list(sample_sentences([(tmp_path / "f", 4, 4)], seed=1)) == ["a", "b"]


def encoder(tmp_path, text, **options):
    import sentencepiece

    (tmp_path / "text").write_bytes(text.encode())
    plan = [(tmp_path / "text", text.count("\n"), text.count("\n"))]
    model, _ = train_subwords(tmp_path, plan, OPTIONS._replace(**options))
    return sentencepiece.SentencePieceProcessor(model_proto=model)


TEXT = "ﬁne ½ ，全角ｆｕｌｌ a\u00a0b\u3000c\u2028d\re\n" * 5


def test_identity_keeps_every_character_but_odd_white_space(tmp_path):
    model = encoder(tmp_path, TEXT)
    assert model.decode(model.encode(TEXT.strip("\n").split("\n")[0])) == "ﬁne ½ ，全角ｆｕｌｌ a b c d e"


def test_nfkc_is_there_for_those_who_want_it(tmp_path):
    model = encoder(tmp_path, TEXT, normalization="nmt_nfkc")
    assert model.decode(model.encode("ﬁne ½ ，")) == "fine 1⁄2 ,"


SPACES = "".join(f"a{chr(code)}b " for code in range(0x110000) if chr(code).isspace() and code != 10) + "\n"


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_no_piece_holds_white_space(tmp_path, model_type):
    model = encoder(tmp_path, SPACES * 3, model_type=model_type, vocab_size=2000)
    pieces = [piece.text for piece in read_pieces(model.serialized_model_proto()) if piece.normal]
    assert pieces and usable_pieces(pieces, []) == pieces


def test_nfkc_leaves_white_space_in_a_piece_and_the_dictionary_leaves_it_out(tmp_path):
    model = encoder(tmp_path, SPACES * 3, normalization="nmt_nfkc", vocab_size=2000)
    pieces = [piece.text for piece in read_pieces(model.serialized_model_proto()) if piece.normal]
    assert "\x85" in pieces and "\x85" not in usable_pieces(pieces, [])


def test_a_model_does_not_depend_on_folders_and_threads(tmp_path, monkeypatch):
    models = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("OMP_NUM_THREADS", str(len(models) + 1))
        models.append(encoder(tmp_path / name, TEXT, model_type="unigram", vocab_size=40).serialized_model_proto())
    assert models[0] == models[1]
    assert str(tmp_path).encode() not in models[0]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_corpus_too_small_for_the_size_gives_a_smaller_model(tmp_path, model_type):
    assert 10 < encoder(tmp_path, TEXT, model_type=model_type, vocab_size=9000).get_piece_size() < 100


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_fewer_pieces_than_characters_is_one_sentence_with_the_number(tmp_path, model_type):
    with pytest.raises(UserError, match=r"--vocab-size 8 is smaller .*\(\d\d with.*raise it"):
        encoder(tmp_path, TEXT, model_type=model_type, vocab_size=8)


def test_nothing_to_train_on_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="SentencePiece"):
        encoder(tmp_path, "\n\n")

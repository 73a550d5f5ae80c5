"""The one dictionary: its row order, and that stock fairseq and our own reader see the same rows."""

import pytest
from fairseq.data import Dictionary

from fairseq_plugins.data import symbols


def test_rows_by_hand():
    rows = symbols.dictionary_rows(["▁a", "b"], ["fr", "de"])
    assert rows[:8] == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "__de__", "__fr__"]
    assert rows[8:11] == ["<mask>", "<pseudo_mask>", "<sentinel_1>"]
    assert rows[109] == "<sentinel_100>"
    assert rows[110:] == ["madeupword0000", "madeupword0001"]
    assert len(rows) == 112


def test_the_number_of_rows_is_a_multiple_of_8_and_no_filler_is_wasted():
    for pieces in range(9):
        rows = symbols.dictionary_rows([f"p{i}" for i in range(pieces)], ["en"])
        assert len(rows) % 8 == 0
        assert sum(map(symbols.is_filler, rows)) < 8


def test_pieces_that_read_like_symbols_get_no_row_of_their_own():
    pieces = ["x", "<mask>", "__de__", "<s>", "madeupword0007", "<sentinel_3>", "__it__", "a\u00a0b"]
    assert symbols.usable_pieces(pieces, ["de", "en"]) == ["x", "__it__"]


def test_fairseq_reads_the_rows_we_wrote(tmp_path):
    rows = symbols.dictionary_rows(["▁a", "\u2581", "#fairseq:overwrite", "é", "﷽"], ["en", "zh_cn"])
    path = tmp_path / "dict.txt"
    path.write_text(symbols.dictionary_text(rows), encoding="utf-8")
    stock = Dictionary.load(str(path))
    assert stock.symbols == rows
    assert symbols.read_dictionary(path) == rows
    assert (stock.bos(), stock.pad(), stock.eos(), stock.unk()) == tuple(range(4))
    stock.pad_to_multiple_(8)
    assert len(stock) == len(rows), "stock padding must find nothing to add"


def test_the_reader_knows_fairseqs_overwrite_flag(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("a 3\n<s> 2 #fairseq:overwrite\n")
    stock = Dictionary.load(str(path))
    assert symbols.read_dictionary(path) == stock.symbols == ["<s>", "<pad>", "</s>", "<unk>", "a", "<s>"]


@pytest.mark.parametrize("text, message", [("a\n", "line 1"), ("a 1\na 1\n", "line 2.*'a' has a row")])
def test_a_broken_dictionary_is_refused_by_line(tmp_path, text, message):
    path = tmp_path / "dict.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        symbols.read_dictionary(path)


def test_tags_are_fairseqs():
    from fairseq.data.multilingual.multilingual_utils import get_lang_tok

    assert symbols.language_tag("pt_br") == get_lang_tok("pt_br", "multilingual")


@pytest.mark.parametrize("code", ["zh-Hans", "", "a,b", "d e"])
def test_a_code_that_fairseqs_lists_cannot_carry_is_refused(code):
    with pytest.raises(ValueError, match="language code"):
        symbols.language_tag(code)


def test_sentinels_count_from_1_to_100():
    assert symbols.sentinel(1) == "<sentinel_1>"
    for number in (0, 101):
        with pytest.raises(ValueError, match="outside 1..100"):
            symbols.sentinel(number)

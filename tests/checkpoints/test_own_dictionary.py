"""Where a checkpoint's dictionary may lie, and what stock tasks append to it."""

from pathlib import Path

import pytest
from fairseq.data import Dictionary

from fairseq_plugins.checkpoints.own_dictionary import dictionary_files, is_text, rows_of_task
from fairseq_plugins.data.joined_text import maskable
from fairseq_plugins.data.symbols import dictionary_rows

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "b"]
TAGS = {"_name": "translation_multi_simple_epoch", "lang_pairs": "en-de,de-fr"}


@pytest.mark.parametrize(
    "size, task, appended",
    [
        (6, {"_name": "masked_lm"}, []),
        (7, {"_name": "masked_lm"}, ["<mask>"]),
        (7, {"task": "multilingual_masked_lm"}, ["<mask>"]),
        (8, {"_name": "masked_lm"}, []),
        (7, {"_name": "translation"}, []),
        (7, {}, []),
        (9, TAGS, ["__de__", "__en__", "__fr__"]),
        (8, {**TAGS, "langs": ["fr", "de"]}, ["__fr__", "__de__"]),
        (8, TAGS, []),
    ],
)
def test_what_a_task_appended(size, task, appended):
    assert rows_of_task(WORDS, size, task) == WORDS + appended


def test_what_is_there_already_is_not_appended():
    assert rows_of_task([*WORDS, "<mask>"], 8, {"_name": "masked_lm"}) == [*WORDS, "<mask>"]
    words = [*WORDS, "__de__"]
    assert rows_of_task(words, 9, TAGS) == [*words, "__en__", "__fr__"]


def test_places():
    beside = [Path("run/averages/dict.txt"), Path("run/dict.txt")]
    path = Path("run/averages/model.pt")
    assert dictionary_files(path, {}) == dictionary_files(path, {"data": None}) == beside
    task = {"data": "data:more", "fixed_dictionary": "words.txt"}
    assert dictionary_files(path, task) == [Path("words.txt"), *beside, Path("data/dict.txt")]


def test_what_is_text():
    """The same as the tasks of this package mask, of a dictionary that they read; and other software's symbols."""
    words = Dictionary()
    pieces = ["a", "▁the", "3", "<", "__", "x__", "[", "madeup", "<0x41>", "[I]", "_____", "<a>"]
    for symbol in dictionary_rows(pieces, ["de", "zh_cn"]):
        words.add_symbol(symbol)
    masked = maskable(words)
    assert masked.sum() == 12
    for symbol, is_piece in list(zip(words.symbols, masked, strict=True))[words.nspecial :]:
        assert is_text(symbol) == is_piece, symbol
    assert not any(is_text(symbol) for symbol in ("<mask>", "<2de>", "<extra_id_0>", "[CLS]", "[en_XX]", "<s>"))

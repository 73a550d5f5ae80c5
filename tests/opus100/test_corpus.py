"""Finding pairs and reading lines: what ends a line, what is refused, and in which words."""

import hashlib

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100 import corpus
from tests.opus100.corpora import corpus_file, write_corpus, write_pair, write_split

ODD = ["a\rb", "c\u2028d\u2029e", "f\x0bg\x0ch", "i\x85j\x1ck", "", " "]


def test_only_a_newline_ends_a_line(tmp_path):
    path = tmp_path / "x"
    path.write_bytes("\n".join(ODD).encode())
    assert list(corpus.read_lines(path)) == ODD
    assert corpus.scan_file(path).lines == len(ODD)


def test_the_last_newline_may_be_missing(tmp_path):
    with_end, without = tmp_path / "a", tmp_path / "b"
    with_end.write_bytes(b"x\ny\n")
    without.write_bytes(b"x\ny")
    assert list(corpus.read_pairs((with_end, without))) == [("x", "x"), ("y", "y")]
    assert corpus.scan_file(with_end).lines == corpus.scan_file(without).lines == 2


def test_a_carriage_return_before_the_newline_stays(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb\r\n")
    assert list(corpus.read_lines(path)) == ["a\r", "b\r"]


def test_scan_counts_and_hashes_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_BLOCK", 3)  # cuts characters of two and three bytes
    data = "größe\n日本語\n\n".encode()
    path = tmp_path / "x"
    path.write_bytes(data)
    assert corpus.scan_file(path) == (3, len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("tail", [b"ok\nbad \xff here\n", b"ok\ncut \xe6\x97"])
def test_bytes_that_are_not_utf8_are_named_by_file_and_line(tmp_path, tail):
    path = tmp_path / "opus.de-en-train.de"
    path.write_bytes(b"fine\n" + tail)
    with pytest.raises(UserError, match=r"opus\.de-en-train\.de line 3 is not UTF-8"):
        corpus.scan_file(path)


@pytest.mark.parametrize("below", ["", "opus-100-corpus", "opus-100-corpus/v1.0"])
def test_the_level_is_found(tmp_path, below):
    write_corpus(tmp_path)
    assert sorted(corpus.find_pairs(tmp_path / below)) == ["de-en", "de-fr", "en-fr", "en-ru", "fr-ru"]


def test_a_pair_knows_its_languages_kind_files_and_directions(tmp_path):
    pair = corpus.find_pairs(write_corpus(tmp_path))["en-fr"]
    assert (pair.languages, pair.kind, pair.directions) == (("en", "fr"), "supervised", ("en-fr", "fr-en"))
    assert pair.files["dev"] == (
        corpus_file(tmp_path, "en-fr", "dev", "en"),
        corpus_file(tmp_path, "en-fr", "dev", "fr"),
    )


def test_a_folder_named_against_the_alphabet_is_the_same_pair(tmp_path):
    write_pair(tmp_path, "fr-en", {"train": 3, "dev": 1, "test": 1})
    pair = corpus.find_pairs(tmp_path)["en-fr"]
    assert pair.files["train"][0] == corpus_file(tmp_path, "fr-en", "train", "en")


def test_python_keywords_and_yaml_traps_are_languages_like_others(tmp_path):
    for language in ("no", "is", "as", "or"):
        pair = "-".join(sorted((language, "en")))
        write_split(tmp_path, pair, "train", {language: ["x"], "en": ["y"]})
    assert set(corpus.find_pairs(tmp_path)) == {"en-no", "en-is", "as-en", "en-or"}


def test_other_files_in_a_pair_folder_are_ignored(tmp_path):
    write_corpus(tmp_path)
    corpus_file(tmp_path, "de-en", "train", "de").with_name("README.md").write_text("x")
    assert corpus.find_pairs(tmp_path)["de-en"].languages == ("de", "en")


def refuse(match, function, *arguments):
    with pytest.raises(UserError, match=match):
        function(*arguments)


def test_what_is_missing_is_named(tmp_path):
    refuse("is not a folder", corpus.find_pairs, tmp_path / "nowhere")
    refuse("has no supervised/ folder", corpus.find_pairs, tmp_path)
    write_corpus(tmp_path)
    refuse("--pivot eng is in no pair.*every pair has en", corpus.find_pairs, tmp_path, "eng")
    corpus_file(tmp_path, "en-fr", "dev", "fr").unlink()
    refuse(r"opus\.en-fr-dev\.fr is missing", corpus.find_pairs, tmp_path)


def test_a_language_code_with_a_dash_is_refused(tmp_path):
    write_split(tmp_path, "en-zh-Hans", "train", {"en": ["x"], "zh-Hans": ["y"]})
    refuse("'zh-Hans': use letters", corpus.find_pairs, tmp_path)


def test_one_pair_in_two_folders_is_refused(tmp_path):
    for pair in ("en-fr", "fr-en"):
        write_pair(tmp_path, pair, {"train": 3})
    refuse("the pair en-fr again", corpus.find_pairs, tmp_path)


def test_sides_of_different_length_are_named_with_their_lengths(tmp_path):
    files = tmp_path / "a", tmp_path / "b"
    files[0].write_bytes(b"1\n2\n3\n")
    files[1].write_bytes(b"1\n2\n")
    refuse("a has 3 lines but .*b has 2", corpus.check_same_length, files, tuple(map(corpus.scan_file, files)))
    refuse("different numbers of lines", list, corpus.read_pairs(files))


def chosen(root, names=None, languages=None):
    return set(corpus.select_pairs(corpus.find_pairs(root), names, languages, "en"))


def test_choosing_pairs_keeps_zero_shot_pairs_of_their_languages(tmp_path):
    write_corpus(tmp_path)
    assert chosen(tmp_path) == {"de-en", "en-fr", "en-ru", "de-fr", "fr-ru"}
    assert chosen(tmp_path, ["en-de", "en-fr"]) == {"de-en", "en-fr", "de-fr"}
    assert chosen(tmp_path, ["en-de"]) == {"de-en"}
    assert chosen(tmp_path, languages=["fr", "ru"]) == {"en-fr", "en-ru", "fr-ru"}


def test_unknown_choices_name_what_there_is(tmp_path):
    write_corpus(tmp_path)
    refuse("no pair 'en-fi'; it has en-fr", chosen, tmp_path, ["en-fi"])
    refuse("no language 'xx'; it has de, en, fr, ru", chosen, tmp_path, None, ["xx"])
    refuse("leave no supervised pair", chosen, tmp_path, ["de-fr"])

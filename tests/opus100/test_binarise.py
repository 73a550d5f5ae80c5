"""Our shards against stock ``fairseq-preprocess``, and which lines are dropped."""

import numpy as np
import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import dictionary_rows, dictionary_text
from fairseq_plugins.opus100.binarise import (
    CHUNK,
    Encoder,
    PairJob,
    binarise,
    binarise_pair,
    hold_out,
    open_shard,
    token_dtype,
    with_eos,
)
from fairseq_plugins.opus100.files import sha256_of
from fairseq_plugins.opus100.subwords import SubwordOptions, read_pieces, train_subwords
from tests.helpers import run_fairseq, succeeded
from tests.opus100.corpora import WORDS, sentences, sides_of


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with sentencepiece.model and dict.txt, and the dictionary's rows."""
    folder = tmp_path_factory.mktemp("vocabulary")
    lines = [line for language in WORDS for line in sentences(language, 200, 0)]
    (folder / "text").write_text("\n".join(lines))
    options = SubwordOptions("bpe", 150, 1.0, "identity", 5.0, 10**6, 1, False)
    model, _ = train_subwords(folder, [(folder / "text", len(lines), len(lines))], options)
    (folder / "sentencepiece.model").write_bytes(model)
    rows = dictionary_rows([piece.text for piece in read_pieces(model) if piece.normal], WORDS)
    (folder / "dict.txt").write_text(dictionary_text(rows))
    return folder, rows


@pytest.fixture(scope="module")
def encoder(vocabulary):
    return Encoder(vocabulary[0] / "sentencepiece.model", vocabulary[1])


def test_eos_is_appended_and_dropped_sequences_vanish():
    tokens, sizes = with_eos(np.array([10, 11, 12, 13]), np.array([2, 0, 1, 1]), np.array([True, True, False, True]))
    assert tokens.tolist() == [10, 11, 2, 2, 13, 2]
    assert sizes.tolist() == [3, 1, 2]


@pytest.mark.parametrize("rows", [100, 65499, 65500, 200_000])
def test_the_integer_type_is_fairseqs(rows):
    from fairseq.data.indexed_dataset import best_fitting_int_dtype

    assert token_dtype(rows) == np.dtype(best_fitting_int_dtype(rows))


@pytest.mark.parametrize("rows", [100, 70_000])
def test_a_shard_is_what_fairseqs_own_builder_writes(tmp_path, rows):
    import torch
    from fairseq.data.indexed_dataset import make_builder

    draw = np.random.default_rng(0)
    sequences = [draw.integers(4, rows, size) for size in (3, 1, 7, 2)]
    builder = make_builder(str(tmp_path / "stock.bin"), "mmap", vocab_size=rows)
    for sequence in sequences:
        builder.add_item(torch.from_numpy(sequence))
    builder.finalize(str(tmp_path / "stock.idx"))
    hashes = {}
    with open_shard(tmp_path / "ours", token_dtype(rows), hashes) as writer:
        for part in (sequences[:1], sequences[1:]):
            writer.add(np.concatenate(part), np.array([len(sequence) for sequence in part]))
    for end in ("bin", "idx"):
        assert (tmp_path / f"ours.{end}").read_bytes() == (tmp_path / f"stock.{end}").read_bytes()
        assert hashes[f"ours.{end}"] == sha256_of(tmp_path / f"ours.{end}")


def test_files_are_those_of_fairseq_preprocess_on_the_same_pieces(tmp_path, vocabulary, encoder):
    import sentencepiece

    folder, rows = vocabulary
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    lines = {language: sentences(language, 40, 7) for language in ("de", "en")}
    lines["de"][5] += " ℵ unknown\u00a0letters"
    lines["en"][6] = "<s> the </s> <unk> cat"
    for language, of in lines.items():
        pieces = "".join(" ".join(processor.encode(line, out_type=str)) + "\n" for line in of)
        (tmp_path / f"pieces.{language}").write_text(pieces)
    succeeded(
        run_fairseq(
            "preprocess", "-s", "de", "-t", "en", "--trainpref", tmp_path / "pieces", "--destdir", tmp_path / "stock",
            "--srcdict", folder / "dict.txt", "--tgtdict", folder / "dict.txt", "--workers", "1",
        )
    )  # fmt: skip
    prefixes = tmp_path / "train.de-en.de", tmp_path / "train.de-en.en"
    binarise(encoder, zip(lines["de"], lines["en"], strict=True), prefixes, token_dtype(len(rows)), {}, longest=256)
    for language in ("de", "en"):
        for end in ("bin", "idx"):
            name = f"train.de-en.{language}.{end}"
            assert (tmp_path / name).read_bytes() == (tmp_path / "stock" / name).read_bytes(), name


def test_a_symbol_spelled_out_in_the_text_is_not_that_symbol(encoder, vocabulary):
    rows = vocabulary[1]
    tokens, _ = encoder.encode(["<s> </s> <pad> <mask> __de__ <sentinel_1> madeupword0000"])
    special = set(range(3)) | set(range(rows.index("__de__"), len(rows)))
    assert not special & set(tokens.tolist())


def test_a_line_with_a_nul_is_encoded(encoder):
    _, sizes = encoder.encode(["a\0b", "ab"])
    assert sizes[0] > 0 and len(sizes) == 2


def run_binarise(tmp_path, encoder, vocabulary, pairs, longest):
    prefixes = tmp_path / "train.de-en.de", tmp_path / "train.de-en.en"
    counts = binarise(encoder, pairs, prefixes, token_dtype(len(vocabulary[1])), {}, longest)
    return counts, sides_of(tmp_path, "train", "de-en")


def test_train_loses_pairs_with_a_blank_or_over_long_side(tmp_path, encoder, vocabulary):
    long = "der Hund sieht die Katze " * 9
    pairs = [("der Hund", "the dog"), ("", "the dog"), ("Hund", " \u3000"), (long, "the dog"), ("die Maus", "mouse")]
    counts, (de, en) = run_binarise(tmp_path, encoder, vocabulary, pairs, longest=20)
    assert counts == (5, 2, 2, 1)
    assert len(de) == len(en) == 2 and all(row[-1] == 2 for row in de + en)


def test_dev_and_test_keep_every_line(tmp_path, encoder, vocabulary):
    pairs = [("", "the dog"), ("der Hund " * 300, ""), ("Hund", "dog")]
    counts, (de, en) = run_binarise(tmp_path, encoder, vocabulary, pairs, longest=0)
    assert counts == (3, 3, 0, 0)
    assert de[0] == en[1] == [2]
    assert len(de[1]) > 300


def test_chunks_do_not_show_in_the_result(tmp_path, encoder, vocabulary, monkeypatch):
    pairs = list(zip(sentences("de", 25, 1), sentences("en", 25, 1), strict=True))
    whole = run_binarise(tmp_path, encoder, vocabulary, pairs, 256)
    assert CHUNK > 25
    monkeypatch.setattr("fairseq_plugins.opus100.binarise.CHUNK", 4)
    assert run_binarise(tmp_path, encoder, vocabulary, pairs, 256) == whole


def make_job(tmp_path, train, take):
    files = tmp_path / "train.de", tmp_path / "train.en"
    for side, path in enumerate(files):
        path.write_text("".join(f"{pair[side]}\n" for pair in train))
    (tmp_path / "raw").mkdir(exist_ok=True)
    return PairJob("de-en", ("de", "en"), {"train": files}, tmp_path, 256, take, 3)


def test_a_held_out_pair_shares_no_side_with_train(tmp_path, encoder, vocabulary):
    train = list(zip(sentences("de", 60, 1), sentences("en", 60, 1), strict=True))
    train += [(f" {de}", "a house") for de, _ in train[:30]]  # repeats a side, apart from white space
    job = make_job(tmp_path, train, take=6)
    held = hold_out(job)
    assert len(held.pairs) == 6
    record = binarise_pair(job, encoder, len(vocabulary[1]))
    left = [(a, b) for a, b in train if a.strip() not in held.first and b.strip() not in held.second]
    assert record["counts"]["train"] == {"lines": 90, "held_out": 90 - len(left), "kept": len(left),
                                         "dropped_empty": 0, "dropped_long": 0}  # fmt: skip
    assert record["counts"]["dev"] == {"lines": 6} and "test" not in record["counts"]
    assert (tmp_path / "raw/dev.de-en.de").read_text().split("\n")[:-1] == [de for de, _ in held.pairs]
    assert len(sides_of(tmp_path, "train", "de-en")[0]) == len(left) < 84


def test_too_few_lines_to_hold_any_out_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="de-en has no dev set and too few train lines"):
        hold_out(make_job(tmp_path, [("a", "b")] * 9, take=5))

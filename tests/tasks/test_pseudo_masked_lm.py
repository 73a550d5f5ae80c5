"""`--task pseudo_masked_lm` under the stock commands: texts and pairs, epochs, exact resume, refusals."""

import re
import shutil

import numpy as np
import pytest
import torch

import fairseq_plugins
from fairseq_plugins.compat import Refusal
from tests.helpers import run_fairseq, succeeded, training_losses
from tests.tasks.pretraining import PretrainingTask

fairseq_plugins.register()

MODEL = (
    "--arch unilmv2_tiny --encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 "
    "--encoder-attention-heads 2"
).split()
OURS = PretrainingTask("pseudo_masked_lm", MODEL)
BATCHES = OURS.BATCHES
configuration, task, loaded, train = OURS.configuration, OURS.task, OURS.loaded, OURS.train


def names(of):
    return {of[index]["text"] for index in range(len(of))}


def test_texts_pairs_or_both(data):
    assert names(loaded(data)) == {"de", "en", "fr"}
    assert names(loaded(data, "--texts", "pairs")) == {"de-en", "en-fr"}
    assert names(loaded(data, "--texts", "mono,pairs", "--mono-langs", "fr")) == {"fr", "de-en", "en-fr"}
    assert names(loaded(data, "--texts", "pairs", "--lang-pairs", "fr-en")) == {"en-fr"}


@pytest.mark.parametrize("tags", [[], ["--language-tags"]])
def test_blocks_fill_the_length_and_single_sentences_do_not(data, tags):
    joined = loaded(data, *tags)
    texts = [joined[index]["example"].text_T for index in range(len(joined))]
    assert 40 < max(map(len, texts)) <= 48 and all(text[0] == 0 and text[-1] == 2 for text in texts)
    alone = loaded(data, "--sample-break-mode", "eos", *tags)
    assert len(alone) == 450 and all((alone[index]["example"].text_T == 2).sum() == 1 for index in range(40))


def test_batches_have_the_same_texts_whatever_is_learned_from_them(data):
    """So arms of an ablation see the same tokens, masked in the same places."""
    found = []
    for objectives in ("ae,par", "ae", "par"):
        of = loaded(data, "--objectives", objectives)
        batches = of.batch_by_size(of.ordered_indices(), max_tokens=200)
        found.append([of.collater([of[index] for index in batch])["net_input"]["src_tokens"] for batch in batches])
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_validation_has_the_same_noise_in_every_epoch(data):
    of = loaded(data, split="valid")
    first = of[0]["example"].text_T
    of.set_epoch(7)
    assert np.array_equal(of[0]["example"].text_T, first)


def test_a_resumed_training_sees_the_same_batches(data, tmp_path):
    whole = succeeded(train(data, tmp_path / "whole", 70, "--texts", "mono,pairs"))
    assert '"epoch": 2' in whole.stdout + whole.stderr, "the test must cross the end of an epoch"
    succeeded(train(data, tmp_path / "halves", 5, "--texts", "mono,pairs"))
    rest = succeeded(train(data, tmp_path / "halves", 70, "--texts", "mono,pairs"))
    losses = training_losses(whole)
    assert training_losses(rest) == {update: losses[update] for update in range(6, 71)}
    assert losses[70] < losses[1] - 0.5
    assert re.search(r'"valid_ae_loss": "[\d.]+".*"valid_par_ppl": "[\d.]+"', whole.stdout + whole.stderr)


def test_other_losses_are_validated_on_the_same_checkpoint(data, tmp_path):
    """How arms that learned one loss are compared in both."""
    succeeded(train(data, tmp_path / "run", 2, "--objectives", "ae"))
    words = [data, "--task", "pseudo_masked_lm", "--path", tmp_path / "run" / "checkpoint_last.pt", *BATCHES]
    told = succeeded(run_fairseq("validate", *words, "--objectives", "ae,par"))
    assert re.search(r"par_loss [\d.]+", told.stdout + told.stderr)


def test_a_checkpoint_is_a_masked_language_model_of_the_stock_task(data, tmp_path):
    succeeded(train(data, tmp_path / "run", 2))
    words = [data / "de", "--task", "masked_lm", *MODEL, "--criterion", "masked_lm", "--tokens-per-sample", 48]
    more = ["--batch-size", 8, "--optimizer", "adam", "--lr", "0.01", "--max-update", 1, "--save-dir", tmp_path / "two"]
    shutil.copyfile(data / "dict.txt", data / "de" / "dict.txt")
    start = ["--finetune-from-model", tmp_path / "run" / "checkpoint_last.pt"]
    succeeded(run_fairseq("train", *words, *more, *start))


@pytest.mark.parametrize(
    "words, message",
    [
        ("--objectives ae,nsp", "--objectives ae,nsp: give ae or par, or ae,par"),
        ("--objectives ,", "--objectives ,: give ae or par, or ae,par"),
        ("--texts both", "--texts both: give mono or pairs, or mono,pairs"),
        ("--mask-prob 0", "--mask-prob 0 must be above 0 and at most 1"),
        ("--block-probability 1", "--block-probability 1 must be at least 0 and below 1"),
        ("--longest-block 1", "--longest-block 1 must be at least 2"),
        ("--leave-unmasked-prob 0.7 --random-token-prob 0.7", "0.7 and --random-token-prob 0.7 are above 1 together"),
        ("--random-token-prob -1", "--random-token-prob -1 must be from 0 to 1"),
        ("--tokens-per-sample 3", "--tokens-per-sample 3 must be at least 8"),
        ("--max-tokens 40", "--max-tokens 40 must be at least --tokens-per-sample 48"),
        ("--mono-langs de,xx", "has no train text of xx"),
        ("--mono-langs ,", "--texts mono: no train text in"),
        ("--texts pairs --lang-pairs de-fr", "has no train text of de-fr"),
        ("--mono-data no-such-folder", "no-such-folder/dict.txt is missing"),
    ],
)  # fmt: skip
def test_bad_options_are_named(data, words, message):
    with pytest.raises(Refusal, match=message):
        loaded(data, *words.split())


@pytest.mark.parametrize("symbol", ["<mask>", "<pseudo_mask>"])
def test_a_dictionary_without_the_symbols_names_the_verb_that_adds_them(own, symbol):
    text = (own / "dict.txt").read_text()
    (own / "dict.txt").write_text(text.replace(f"{symbol} ", "other "))
    with pytest.raises(Refusal, match=f"no {symbol}; add it with opus100 add-symbols"):
        task(own)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--arch", "transformer_mt"], "--arch transformer_mt has no place for pseudo-masks"),
        (["--max-source-positions", "20"], "--max-source-positions 20 is less than --tokens-per-sample 48"),
    ],
)
def test_models_that_do_not_fit(data, words, message):
    with pytest.raises(Refusal, match=message):
        OURS.build_model(data, *words)


@pytest.mark.parametrize("other", ["cross_entropy", "masked_lm"])
def test_another_criterion_is_refused(data, other):
    with pytest.raises(Refusal, match=f"--criterion {other} does not know both losses"):
        OURS.build_criterion(data, "--criterion", other)


def test_no_file_is_read_for_a_word(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ae").write_text("nothing")
    assert task(data, "--objectives", "ae").objective_names == ["ae"]


def test_a_split_without_text_names_the_folders(own):
    with pytest.raises(Refusal, match=f"no text for the split test in {own}; make one"):
        loaded(own, split="test")


def test_a_refusal_ends_the_command_in_one_sentence(data, tmp_path):
    process = train(data, tmp_path / "run", 2, "--mask-prob", "2")
    assert process.returncode == 1 and "--mask-prob 2 must be above 0" in process.stderr
    assert "Traceback" not in process.stderr

"""`--task electra` under the stock commands: texts and pairs, sampling, exact resume, refusals, readable batches."""

import re

import numpy as np
import pytest
from fairseq.data import Dictionary

import fairseq_plugins
from fairseq_plugins.__main__ import main
from fairseq_plugins.cli._batch_reader import read_batch
from fairseq_plugins.compat import Refusal
from tests.helpers import run_fairseq, succeeded, training_losses
from tests.tasks.pretraining import PretrainingTask, write_set

fairseq_plugins.register()

MODEL = (
    "--arch electra_tiny --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 48 "
    "--encoder-attention-heads 2"
).split()
OURS = PretrainingTask("electra", MODEL, "electra_hardness")
configuration, task, loaded, train = OURS.configuration, OURS.task, OURS.loaded, OURS.train


def names(of):
    return {of[index]["text"] for index in range(len(of))}


def examples(of, count=40):
    return [of[index]["example"] for index in range(count)]


def test_texts_pairs_or_both(data):
    assert names(loaded(data)) == {"de", "en", "fr"}
    assert names(loaded(data, "--texts", "pairs")) == {"de-en", "en-fr"}
    assert names(loaded(data, "--texts", "mono,pairs", "--mono-langs", "fr")) == {"fr", "de-en", "en-fr"}


def test_how_much_is_masked_follows_the_options(data):
    rows = Dictionary.load(str(data / "dict.txt"))

    def share(*words):
        of = examples(loaded(data, *words))
        wanted = np.concatenate([each.target_T for each in of]) != rows.pad()
        masks = np.concatenate([each.text_T for each in of]) == rows.index("<mask>")
        return wanted.mean(), masks.sum() / wanted.sum()

    assert share() == (pytest.approx(0.15, abs=0.01), pytest.approx(0.85, abs=0.06))
    most, masks = share("--mask-prob", "0.4", "--leave-unmasked-prob", "0")
    assert most == pytest.approx(0.4, abs=0.01) and masks == 1
    longest = max(len(each.text_T) for each in examples(loaded(data)))
    assert 40 < longest <= 48


def test_languages_are_drawn_by_size_to_the_power_of_alpha(own):
    rows = Dictionary.load(str(own / "dict.txt"))
    write_set(own / "de" / "train", [["w1", "w2", "w3"]] * 30, rows)  # a fifth of the others' 150
    counts = {}
    for alpha in ("0", "0.5", "1"):
        of = loaded(own, "--sampling-alpha", alpha, "--sample-break-mode", "eos")
        texts = [of[index]["text"] for index in range(len(of))]
        counts[alpha] = [texts.count(language) for language in ("de", "en", "fr")]
    assert {alpha: sum(each) for alpha, each in counts.items()} == dict.fromkeys(counts, 330)
    assert counts["0"] == pytest.approx([110] * 3, abs=1) and counts["1"] == pytest.approx([30, 150, 150], abs=1)
    shares = np.sqrt([30, 150, 150]) / np.sqrt([30, 150, 150]).sum()
    assert counts["0.5"] == pytest.approx((330 * shares).tolist(), abs=1)


def test_validation_has_the_same_places_in_every_epoch_and_training_has_others(data):
    for split, same in (("valid", True), ("train", False)):
        of = loaded(data, split=split)
        first = examples(of, 3)
        of.set_epoch(7)
        again = examples(of, 3)
        assert all(np.array_equal(one.text_T, two.text_T) for one, two in zip(first, again, strict=True)) == same


def test_loading_processes_make_the_same_batches(data):
    made = task(data, "--texts", "mono,pairs")
    made.load_dataset("train")
    for epoch in (1, 2):
        sides = []
        for workers in (0, 1):
            how = dict(max_tokens=200, seed=1, epoch=epoch, num_workers=workers)
            batches = made.get_batch_iterator(made.dataset("train"), **how).next_epoch_itr(shuffle=True)
            sides.append([(batch["net_input"]["src_tokens"].tolist(), batch["id"].tolist()) for batch in batches])
        assert sides[0] == sides[1] and len(sides[0]) > 10


def test_a_training_that_was_resumed_has_the_same_losses(data, tmp_path):
    words = ["--texts", "mono,pairs", "--language-tags"]
    whole = succeeded(train(data, tmp_path / "whole", 80, *words))
    told = whole.stdout + whole.stderr
    assert '"epoch": 2' in told, "the test must cross the end of an epoch"
    succeeded(train(data, tmp_path / "halves", 5, *words))
    rest = succeeded(train(data, tmp_path / "halves", 80, *words))
    losses = training_losses(whole)
    assert training_losses(rest) == {update: losses[update] for update in range(6, 81)}
    assert np.mean([losses[update] for update in range(71, 81)]) < losses[1] - 1
    assert re.search(r'"valid_generator_loss": "[\d.]+".*"valid_discriminator_loss": "[\d.]+"', told)


def test_a_checkpoint_is_validated(data, tmp_path):
    succeeded(train(data, tmp_path / "run", 2))
    path = tmp_path / "run" / "checkpoint_last.pt"
    words = [data, "--task", "electra", "--path", path, *OURS.BATCHES, "--texts", "pairs"]
    told = succeeded(run_fairseq("validate", *words))
    assert re.search(r"discriminator_loss [\d.]+", told.stdout + told.stderr)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--texts both", "--texts both: give mono or pairs, or mono,pairs"),
        ("--mask-prob 0", "--mask-prob 0 must be above 0 and below 1"),
        ("--mask-prob 1", "--mask-prob 1 must be above 0 and below 1"),
        ("--mask-prob -0.2", "--mask-prob -0.2 must be above 0 and below 1"),
        ("--mask-prob nan", "--mask-prob nan must be above 0 and below 1"),
        ("--leave-unmasked-prob 1", "--leave-unmasked-prob 1 must be at least 0 and below 1"),
        ("--leave-unmasked-prob -1", "--leave-unmasked-prob -1 must be at least 0 and below 1"),
        ("--tokens-per-sample 3", "--tokens-per-sample 3 must be at least 8"),
        ("--max-tokens 40", "--max-tokens 40 must be at least --tokens-per-sample 48"),
        ("--mono-langs de,xx", "has no train text of xx"),
        ("--texts pairs --lang-pairs de-fr", "has no train text of de-fr"),
    ],
)  # fmt: skip
def test_bad_options_are_named(data, words, message):
    with pytest.raises(Refusal, match=message):
        loaded(data, *words.split())


def test_a_dictionary_without_a_mask_names_the_verb_that_adds_it(own):
    text = (own / "dict.txt").read_text()
    (own / "dict.txt").write_text(text.replace("<mask> ", "other "))
    with pytest.raises(Refusal, match="no <mask>; add it with opus100 add-symbols"):
        task(own)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--arch", "transformer_mlm"], "--arch transformer_mlm has no generator and discriminator; give electra"),
        (["--arch", "transformer_mt"], "--arch transformer_mt has no generator and discriminator; give electra"),
        ([*MODEL, "--max-source-positions", "20"], "--max-source-positions 20 is less than --tokens-per-sample 48"),
    ],
)
def test_models_that_do_not_fit(data, words, message):
    with pytest.raises(Refusal, match=message):
        OURS._replace(model=words).build_model(data)


@pytest.mark.parametrize("other", ["cross_entropy", "masked_lm"])
def test_another_criterion_is_refused(data, other):
    with pytest.raises(Refusal, match=f"--criterion {other} trains no discriminator: give --criterion electra_hard"):
        OURS.build_criterion(data, "--criterion", other)


def test_a_refusal_ends_the_command_in_one_sentence(data, tmp_path):
    process = train(data, tmp_path / "run", 2, "--mask-prob", "1")
    assert process.returncode == 1 and "--mask-prob 1 must be above 0 and below 1" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_batch_shows_the_text_beside_what_the_generator_reads(data, capsys):
    words = [str(data), "--task", "electra", *OURS.BATCHES, "--texts", "pairs", "--language-tags"]
    batch = read_batch(words, None, 1, 1)
    assert {example.title for example in batch.examples} <= {"de-en", "en-fr"} and len(batch.examples) > 3
    kept = 0
    for example in batch.examples:
        text, masked, target = (example.rows[name] for name in ("text", "input", "target"))
        assert text[0] == "<s>" and text[-1] == "</s>" and re.fullmatch("__(de|en|fr)__", text[1])
        assert "<mask>" not in text and "<mask>" in masked and "<pad>" not in text
        for told, read, wanted in zip(text, masked, target, strict=True):
            assert wanted in (told, "\u00b7") and read in (told, "<mask>")
            assert wanted == told or read == told, "a mask that nothing is asked of"
            kept += wanted == read
    assert kept, "a masked token that stands there itself"
    assert main(["show-batch", "--width", "100", "--", *words]) in (0, None)
    printed = capsys.readouterr().out
    assert "<mask>" in printed and "__en__" in printed and "target" in printed


def test_batches_in_which_nothing_may_be_masked_change_nothing(own, tmp_path):
    rows = Dictionary.load(str(own / "dict.txt"))
    write_set(own / "de" / "train", [["<unk>"] * 3] * 40, rows)
    told = succeeded(train(own, tmp_path / "run", 3, "--mono-langs", "de", "--disable-validation"))
    assert (told.stdout + told.stderr).count('"gnorm": "0"') == 3


def test_a_batch_says_which_examples_it_holds(data):
    """The criterion's dice depend on it."""
    of = loaded(data)
    batch = of.collater([of[3], of[7]])
    assert batch["id"].tolist() == [3, 7] and batch["text"] == [of[3]["text"], of[7]["text"]]


@pytest.mark.slow
def test_a_training_starts_from_another_electra_but_none_goes_on_in_one(data, tmp_path):
    succeeded(train(data, tmp_path / "plain", 2))
    path = tmp_path / "plain" / "checkpoint_last.pt"
    for words, says in (
        (["--hardness", "loss"], "the checkpoint's optimiser does not know a hardness head: give --hardness none as"),
        (["--max-source-positions", "50"], "position table ends at 48 tokens and this model's at 50: give --max-so"),
        (["--tokens-per-sample", "40"], "knows 48 positions and this model has 40: give --max-source-positions 48 as"),
    ):
        refused = train(data, tmp_path / "plain", 4, *words)
        assert refused.returncode == 1 and "Traceback" not in refused.stderr
        assert says in refused.stderr.strip().splitlines()[-1]
    start = ["--finetune-from-model", path]
    told = succeeded(train(data, tmp_path / "loss", 2, *start, "--hardness", "loss", "--tokens-per-sample", "40"))
    assert "the hardness head starts at random" in told.stdout + told.stderr
    mlm = PretrainingTask("pseudo_masked_lm", ["--arch", "unilmv2_tiny", *MODEL[2:]])
    succeeded(mlm.train(data, tmp_path / "mlm", 1, "--disable-validation"))
    other = train(data, tmp_path / "from_mlm", 1, "--finetune-from-model", tmp_path / "mlm" / "checkpoint_last.pt")
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "the checkpoint is of no electra" in other.stderr.strip().splitlines()[-1]

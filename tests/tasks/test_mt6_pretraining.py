"""`--task mt6_pretraining` under the stock commands: data, epochs and shards, exact resume, refusals."""

import re
import shutil

import numpy as np
import pytest
from fairseq.data import Dictionary

import fairseq_plugins
from fairseq_plugins.compat import Refusal
from tests.helpers import TINY_TRANSFORMER, run_fairseq, succeeded, training_losses
from tests.tasks.pretraining import PretrainingTask, write_data, write_set

fairseq_plugins.register()

MODEL = ["--arch", "transformer_mt", *TINY_TRANSFORMER[2:]]
OURS = PretrainingTask("mt6_pretraining", MODEL)
BATCHES = OURS.BATCHES
configuration, task, loaded, train = OURS.configuration, OURS.task, OURS.loaded, OURS.train


def first_texts(of, epoch):
    of.set_epoch(epoch)
    return [of[index]["example"].source.tolist() for index in range(5)]


def test_by_default_all_languages_and_pairs_of_the_folder_are_used(data):
    of = loaded(data, "--objectives", "sc,tsc", "--language-tags")
    names = {(item["objective"], item["text"]) for item in (of[index] for index in range(len(of)))}
    assert names == {("sc", "de"), ("sc", "en"), ("sc", "fr"), ("tsc", "de-en"), ("tsc", "en-fr")}
    assert max(of.size(index)[0] for index in range(len(of))) <= 48


def test_sentences_alone_or_joined_to_blocks(data):
    joined = loaded(data, "--objectives", "sc")
    alone = loaded(data, "--objectives", "sc", "--sample-break-mode", "eos")
    assert len(alone) == 450 and len(joined) < 150
    eos = 2
    assert all((alone[index]["example"].source == eos).sum() == 1 for index in range(50))
    assert any((joined[index]["example"].source == eos).sum() > 2 for index in range(50))


def rewrite(data, stem, sentences):
    """Other sentences, each a string of pieces, in the place of a set."""
    write_set(data / stem, [sentence.split() for sentence in sentences], Dictionary.load(str(data / "dict.txt")))


@pytest.mark.parametrize("mode", ["complete", "eos"])
def test_blank_and_over_long_lines_are_left_out(own, mode, caplog):
    long = " ".join(["w1"] * 60)
    rewrite(own, "de/train", ["", " ".join(["w2"] * 40), "", "", long, "w3 w4 w5", "", ""])
    of = loaded(own, "--objectives", "sc", "--mono-langs", "de", "--sample-break-mode", mode)
    words = {row for index in range(len(of)) for row in of[index]["example"].source.tolist()}
    assert of.texts[0][0].sizes[0].max() <= 48 or mode == "eos"
    assert "left out" in caplog.text and of.num_tokens_vec(np.arange(len(of))).max() <= 48
    rows = Dictionary.load(str(own / "dict.txt"))
    assert rows.index("w1") not in words and rows.index("w3") in words


def test_a_language_whose_valid_examples_are_too_long_is_left_out_there(own, caplog):
    rewrite(own, "de/valid", [" ".join(["w1"] * 60)])
    of = loaded(own, "--objectives", "sc", "--sample-break-mode", "eos", split="valid")
    assert {of[index]["text"] for index in range(len(of))} == {"en", "fr"}
    assert "valid sc de: 1 of 1 examples" in caplog.text


def test_chosen_languages_and_pairs(data):
    of = loaded(data, "--objectives", "sc,mt", "--mono-langs", "fr", "--lang-pairs", "fr-en")
    assert {of[index]["text"] for index in range(len(of))} == {"fr", "en-fr"}


def test_loading_processes_know_the_epoch(data):
    made = task(data)
    made.load_dataset("train")
    for epoch in (1, 2):
        sides = []
        for workers in (0, 1):
            options = dict(max_tokens=200, seed=1, epoch=epoch, num_workers=workers)
            batches = made.get_batch_iterator(made.dataset("train"), **options).next_epoch_itr(shuffle=True)
            sides.append([batch["objectives"]["tsc"]["target"].tolist() for batch in batches])
        assert sides[0] == sides[1] and len(sides[0]) > 10


def test_sentences_too_long_are_told(data, caplog):
    words = "--objectives sc,mt --language-tags --tokens-per-sample 10 --sample-break-mode eos"
    of = loaded(data, *words.split())
    assert "examples may be longer than --tokens-per-sample 10 and are left out" in caplog.text
    assert max(max(of.size(index)) for index in range(len(of))) == 10


def test_each_epoch_reads_its_shard(data, tmp_path):
    other = write_data(tmp_path / "other", seed="other")
    both = f"{data}:{other}"
    assert task(both).has_sharded_data("train") and not task(data).has_sharded_data("train")
    for epoch, folder in ((1, data), (2, other), (3, data)):
        assert first_texts(loaded(both, epoch=epoch), epoch) == first_texts(loaded(folder), epoch)
    mono = loaded(data, "--mono-data", both, "--objectives", "sc", epoch=2)
    assert first_texts(mono, 2) == first_texts(loaded(other, "--objectives", "sc"), 2)


def test_a_resumed_training_sees_the_same_batches(data, tmp_path):
    whole = succeeded(train(data, tmp_path / "whole", 70))
    assert '"epoch": 2' in whole.stdout + whole.stderr, "the test must cross the end of an epoch"
    succeeded(train(data, tmp_path / "halves", 5))
    rest = succeeded(train(data, tmp_path / "halves", 70))
    losses = training_losses(whole)
    assert training_losses(rest) == {update: losses[update] for update in range(6, 71)}
    assert losses[70] < losses[1] - 0.5
    assert re.search(r'"valid_sc_loss": "[\d.]+".*"valid_tsc_loss": "[\d.]+"', whole.stdout + whole.stderr)


def test_the_checkpoint_is_validated_and_goes_on_as_a_translation_model(data, tmp_path):
    succeeded(train(data, tmp_path / "pre", 2, "--share-all-embeddings"))
    words = [data, "--task", "mt6_pretraining", "--path", tmp_path / "pre" / "checkpoint_last.pt", *BATCHES]
    validated = succeeded(run_fairseq("validate", *words))
    assert re.search(r"tsc_loss [\d.]+", validated.stdout + validated.stderr)
    for language in ("de", "en"):
        shutil.copyfile(data / "dict.txt", data / f"dict.{language}.txt")
    fine = "--task translation -s de -t en --optimizer adam --lr 0.01 --max-tokens 400 --num-workers 0".split()
    checkpoint = ["--finetune-from-model", tmp_path / "pre" / "checkpoint_last.pt", "--save-dir", tmp_path / "fine"]
    succeeded(run_fairseq("train", data, *fine, *MODEL, *checkpoint, "--max-update", 1))
    path = tmp_path / "fine" / "checkpoint_last.pt"
    words = [data, "--gen-subset", "valid", "-s", "de", "-t", "en", "--path", path, "--beam", 2]
    made = succeeded(run_fairseq("generate", *words)).stdout
    assert len(re.findall(r"^H-", made, re.M)) == 12


@pytest.mark.parametrize(
    "words, message",
    [
        ("--objectives sc,nmt", "--objectives sc,nmt: give some of sc, mt, tpsc, tsc"),
        ("--objectives sc,sc", "--objectives sc,sc: give some of"),
        ("--sc-noise-density 1", "--sc-noise-density 1 must be above 0 and below 1"),
        ("--tsc-noise-density 1.5", "--tsc-noise-density 1.5 must be above 0 and at most 1"),
        ("--tsc-span-length 0", "--tsc-span-length 0 must be at least 1"),
        ("--pnat-groups 0", "--pnat-groups 0 must be at least 1"),
        ("--sampling-alpha 2", "--sampling-alpha 2 must be from 0"),
        ("--tokens-per-sample 3", "--tokens-per-sample 3 must be at least 8"),
        ("--max-tokens 90", "--max-tokens 90, shared by 2 objectives, must be at least --tokens-per-sample 48"),
        ("--max-tokens-valid 90", "--max-tokens-valid 90, shared by 2 objectives, must be at least"),
        ("--objectives mt", "--objectives mt translates en into de and fr: give --language-tags"),
        ("--mono-langs de,xx", "has no train text of xx"),
        ("--lang-pairs de-fr", "has no train text of de-fr"),
        (
            "--tokens-per-sample 8 --objectives tpsc",
            "--tokens-per-sample 8 is too short for every train example of tpsc",
        ),
        ("--lang-pairs de", "'de' is not a pair of languages"),
        ("--objectives sc --mono-langs ,", "--objectives sc: no text for it"),
        ("--mono-data no-such-folder", "no-such-folder/dict.txt is missing"),
    ],
)
def test_bad_options_are_named(data, words, message):
    with pytest.raises(Refusal, match=message):
        loaded(data, *words.split())


def test_no_folder_is_one_sentence():
    with pytest.raises(Refusal, match="give the folder of the binarised data"):
        task("", "--objectives", "sc")


def test_a_dictionary_without_sentinels_names_the_verb_that_adds_them(own):
    lines = (own / "dict.txt").read_text().splitlines()
    (own / "dict.txt").write_text("\n".join(line for line in lines if "sentinel" not in line) + "\n")
    with pytest.raises(Refusal, match="no <sentinel_1> .*opus100 add-symbols"):
        task(own)


def test_a_language_without_a_tag(own):
    text = (own / "dict.txt").read_text()
    (own / "dict.txt").write_text(text.replace("__fr__", "__it__"))
    with pytest.raises(Refusal, match="--language-tags: the dictionary has no __fr__"):
        loaded(own, "--language-tags")
    loaded(own)  # without tags nobody asks


def test_a_language_that_no_tag_can_name(own):
    shutil.copytree(own / "de", own / "zh-CN")
    with pytest.raises(Refusal, match="--language-tags: language code 'zh-CN'"):
        loaded(own, "--language-tags")


def test_validation_over_expert_parallel_ranks_is_refused(data):
    words = ["--moe-experts", "4", "--moe-freq", "1", "--moe-expert-parallel-size", "2"]
    with pytest.raises(Refusal, match="--moe-expert-parallel-size 2 with several --objectives.*--disable-validation"):
        OURS.build_model(data, *words)


def test_two_dictionaries(own, data, tmp_path):
    other = write_data(tmp_path / "other", languages=("de", "en", "fr", "it"))
    with pytest.raises(Refusal, match="other/dict.txt differs from"):
        task(own, "--mono-data", str(other))


@pytest.mark.parametrize("spoil", ["side", "length", "index"])
def test_damaged_files_are_named(own, spoil):
    if spoil == "side":
        (own / "train.de-en.en.idx").unlink()
    elif spoil == "length":
        for ending in ("bin", "idx"):
            shutil.copyfile(own / f"train.en-fr.en.{ending}", own / f"train.de-en.en.{ending}")
    else:
        (own / "train.de-en.en.idx").write_bytes(b"not an index")
    with pytest.raises(Refusal, match="train.de-en"):
        loaded(own)


def test_no_pairs_listed(own):
    (own / "lang_pairs.txt").unlink()
    with pytest.raises(Refusal, match="lang_pairs.txt is missing; give --lang-pairs"):
        loaded(own)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--arch", "transformer"], "--arch transformer cannot decode in groups; give --pnat-groups 1"),
        (["--max-target-positions", "20"], "--max-target-positions 20 is less than --tokens-per-sample 48"),
    ],
)
def test_models_that_do_not_fit(data, words, message):
    with pytest.raises(Refusal, match=message):
        OURS.build_model(data, *words)


def test_a_refusal_ends_the_command_in_one_sentence(data, tmp_path):
    process = train(data, tmp_path / "run", 2, "--mono-langs", "de,xx")
    assert process.returncode == 1 and "has no train text of xx" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_model_without_encoder(data):
    with pytest.raises(Refusal, match="--arch transformer_clm has no encoder and decoder"):
        OURS._replace(model=["--arch", "transformer_clm"]).build_model(data)

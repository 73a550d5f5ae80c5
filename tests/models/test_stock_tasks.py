"""Each model trains under its stock task and criterion, through the real command, and its loss falls."""

import re
import shutil

import pytest
import torch

from tests.helpers import checkpoint, run_fairseq, succeeded, train_words, training_losses

SMALL = "--{0}-layers 2 --{0}-embed-dim 32 --{0}-ffn-embed-dim 64 --{0}-attention-heads 4"
ENCODER, DECODER = SMALL.format("encoder").split(), SMALL.format("decoder").split()
COMMON = (
    "--optimizer adam --lr 0.005 --num-workers 0 --seed 1 --log-format json --log-interval 1 --max-update 30 "
    "--tokens-per-sample 16 --sample-break-mode complete --max-tokens 400"
).split()


@pytest.fixture(scope="module")
def monolingual(data, tmp_path_factory):
    """The English side as plain text: what language_modeling and masked_lm read."""
    folder = tmp_path_factory.mktemp("monolingual")
    shutil.copy(data / "dict.en.txt", folder / "dict.txt")
    for split in ("train", "valid"):
        for kind in ("bin", "idx"):
            shutil.copy(data / f"{split}.de-en.en.{kind}", folder / f"{split}.{kind}")
    return folder


def languages(monolingual, folder, *names):
    """The same text under so many languages: what multilingual_masked_lm reads."""
    for name in names:
        shutil.copytree(monolingual, folder / name)
    shutil.copy(monolingual / "dict.txt", folder)
    return folder


def check_fell(losses, by):
    first, last = list(losses.values())[:3], list(losses.values())[-3:]
    assert len(losses) == 30 and sum(last) / 3 < sum(first) / 3 - by, losses


@pytest.mark.parametrize("residual", ["deepnorm", "subln"])
def test_translation(data, tmp_path, residual):
    model = ["--arch", "transformer_mt", "--residual", residual, "--share-all-embeddings", *ENCODER, *DECODER]
    recipe = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --lr 0.005 --store-ema".split()
    trained = run_fairseq("train", *train_words(data, tmp_path, 30, *recipe, model=model))
    check_fell(training_losses(succeeded(trained)), by=0.5)
    names = set(checkpoint(tmp_path)["model"])
    assert "encoder.layers.1.self_attn.k_proj.weight" in names and "decoder.layers.0.feed_forward.fc1.bias" in names
    # the averaged weights exist for every name: names of parameters and of the state dict are the same
    assert names == set(checkpoint(tmp_path)["extra_state"]["ema"])
    generated = run_fairseq("generate", data, "--path", tmp_path / "checkpoint_last.pt", "--gen-subset", "test")
    assert succeeded(generated).stdout.count("\nH-") == 11


def test_translation_with_recomputed_activations_is_the_same_training(data, tmp_path):
    model = ["--arch", "transformer_mt", "--residual", "deepnorm", *ENCODER, *DECODER, "--dropout", "0.1"]
    losses = []
    for name, flags in (("plain", []), ("recomputed", ["--checkpoint-activations"])):
        words = train_words(data, tmp_path / name, 5, *flags, model=model)
        losses.append(training_losses(succeeded(run_fairseq("train", *words))))
    assert losses[0] == losses[1]


def test_masked_lm(monolingual, tmp_path):
    words = ["--task", "masked_lm", "--criterion", "masked_lm", "--arch", "transformer_mlm", "--residual", "deepnorm"]
    trained = run_fairseq("train", monolingual, *words, "--mask-prob", "0.3", *ENCODER, *COMMON, "--save-dir", tmp_path)
    check_fell(training_losses(succeeded(trained)), by=0.5)
    saved = checkpoint(tmp_path)["model"]
    assert torch.equal(saved["encoder.lm_head.weight"], saved["encoder.embed_tokens.weight"])


def test_multilingual_masked_lm(monolingual, tmp_path):
    """A legacy task: its options are a namespace."""
    folder = languages(monolingual, tmp_path / "data", "en")
    words = ["--task", "multilingual_masked_lm", "--criterion", "masked_lm", "--arch", "transformer_mlm"]
    words += ["--encoder-learned-pos", *ENCODER, *COMMON, "--max-update", "2"]
    succeeded(run_fairseq("train", folder, *words, "--save-dir", tmp_path))
    assert checkpoint(tmp_path)["model"]["encoder.embed_positions.weight"].size(0) == 16 + 2  # --tokens-per-sample


@pytest.mark.parametrize("task", ["masked_lm", "multilingual_masked_lm"])
def test_electra(monolingual, tmp_path, task):
    """With ELECTRA's share of masks. That these tasks mask <s> and </s> too, and give no segments, does no harm."""
    words = ["--task", task, "--criterion", "electra_hardness", "--arch", "electra_tiny", "--hardness", "loss"]
    noise = "--mask-prob 0.15 --leave-unmasked-prob 0.15 --random-token-prob 0".split()
    data = monolingual if task == "masked_lm" else languages(monolingual, tmp_path / "data", "en", "fr")
    trained = run_fairseq("train", data, *words, *noise, *ENCODER, *COMMON, "--save-dir", tmp_path / "run")
    check_fell(training_losses(succeeded(trained)), by=2)
    log = trained.stdout + trained.stderr
    assert re.search(r'"valid_replaced_recall": "[\d.]+"', log) and '"valid_sampled_original": "' in log


def test_language_modeling(monolingual, tmp_path):
    words = ["--task", "language_modeling", "--criterion", "cross_entropy", "--arch", "transformer_clm"]
    words += ["--residual", "pre", "--share-decoder-input-output-embed"]
    trained = run_fairseq("train", monolingual, *words, *DECODER, *COMMON, "--save-dir", tmp_path)
    check_fell(training_losses(succeeded(trained)), by=0.2)


def test_a_flag_out_of_range_is_one_sentence(data, tmp_path):
    model = ["--arch", "transformer_mt", *ENCODER, *DECODER, "--encoder-attention-heads", "5"]
    refused = run_fairseq("train", *train_words(data, tmp_path, 1, model=model))
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert refused.stderr.strip().splitlines()[-1] == (
        "--encoder-embed-dim 32 must be a multiple of --encoder-attention-heads 5"
    )

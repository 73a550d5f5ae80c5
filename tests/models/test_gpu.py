"""Reduced precision on a GPU, through the real command. Skipped where there is none."""

import subprocess

import pytest
import torch

from tests.helpers import (
    REPOSITORY,
    checkpoint,
    environment,
    fairseq_words,
    succeeded,
    train_words,
    training_losses,
    write_tiny_translation_data,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SHAPE = "--{0}-layers 3 --{0}-embed-dim 64 --{0}-ffn-embed-dim 128 --{0}-attention-heads 4"
MODEL = ["--arch", "transformer_mt", *SHAPE.format("encoder").split(), *SHAPE.format("decoder").split()]
MT6 = "--ffn-gate --activation-fn gelu --norm rms --attention-head-dim 8 --relative-bias-buckets 32"


@pytest.mark.parametrize("flags", ["post", "deepnorm", "subln", f"pre {MT6}"], ids=["post", "deepnorm", "subln", "mt6"])
@pytest.mark.parametrize("precision", [[], ["--fp16"], ["--amp"], ["--bf16"]], ids=["fp32", "fp16", "amp", "bf16"])
def test_training_step_in_every_precision(tmp_path, precision, flags):
    data = write_tiny_translation_data(tmp_path / "data")
    model = [*MODEL, "--residual", *flags.split()]
    words = train_words(data, tmp_path / "run", 30, "--lr", "0.003", *precision, model=model)
    done = subprocess.run(
        fairseq_words("train", *words), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300
    )
    losses = list(training_losses(succeeded(done)).values())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.isfinite(weight).all() for weight in checkpoint(tmp_path / "run")["model"].values())


def test_a_thousand_layers_take_steps(tmp_path):
    """DeepNet's 500 + 500 layers of width 512, 3.7B parameters without a vocabulary: about 75 GB in bf16 with Adam."""
    if torch.cuda.get_device_properties(0).total_memory < 100e9:
        pytest.skip("needs a GPU with 100 GB")
    data = write_tiny_translation_data(tmp_path / "data")
    flags = ["--bf16", "--checkpoint-activations", "--criterion", "chunked_label_smoothed_cross_entropy", "--no-save"]
    words = train_words(
        data, tmp_path / "run", 5, "--lr", "1e-4", *flags, "--disable-validation", model=["--arch", "deepnet_mt_1000l"]
    )
    done = subprocess.run(
        fairseq_words("train", *words), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900
    )
    losses = training_losses(succeeded(done))
    assert len(losses) == 5 and all(loss < 20 for loss in losses.values())


def test_losses_and_gradients_on_a_gpu_are_those_of_the_cpu():
    """The chunked loss, packed rows and masks left out, in float32 on both."""
    from tests.criterions.test_chunked_label_smoothed_cross_entropy import SAMPLE, chunked, results
    from tests.models_support import TINY_MT, build, dictionary

    model = build("transformer_mt", dictionary(), *TINY_MT, "--residual", "deepnorm").train()
    loss, _, _, gradients = results(chunked(), model, SAMPLE)
    moved = {name: value.cuda() for name, value in SAMPLE["net_input"].items()}
    sample = {**SAMPLE, "net_input": moved, "target": SAMPLE["target"].cuda()}
    loss_there, _, _, gradients_there = results(chunked(), model.cuda(), sample)
    torch.testing.assert_close(loss_there.cpu(), loss, rtol=1e-3, atol=1e-3)
    for here, there in zip(gradients, gradients_there, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-3)


def test_pseudo_masks_on_a_gpu_are_those_of_the_cpu():
    """The mask of steps, attention in pieces and the relative bias, in float32 on both."""
    from tests.criterions.test_pseudo_masked_lm import criterion, sample
    from tests.models.test_pseudo_masked import PARTS, model_of

    model, batch, found = model_of(*PARTS["unilmv2"]).float().train(), sample("ae", "par"), []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        net_input = {name: value.to(device) for name, value in batch["net_input"].items()}
        loss, _, _ = criterion()(model, {**batch, "net_input": net_input, "target": batch["target"].to(device)})
        loss.backward()
        found.append([loss.detach().cpu(), *(parameter.grad.cpu() for parameter in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["--fp16", "--amp", "--bf16"])
def test_fine_tuning_on_pseudo_masks_in_reduced_precision(tmp_path, precision):
    data = write_tiny_translation_data(tmp_path / "data")
    for language in ("de", "en"):
        with open(data / f"dict.{language}.txt", "a", encoding="utf-8") as file:
            file.write("<mask> 1\n<pseudo_mask> 1\n")
    model = ["--arch", "unilmv2_seq2seq_tiny", "--encoder-layers", "2"]
    flags = ["--criterion", "chunked_label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--lr", "0.001"]
    words = train_words(data, tmp_path / "run", 30, *flags, precision, model=model)
    done = subprocess.run(
        fairseq_words("train", *words), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300
    )
    losses = list(training_losses(succeeded(done)).values())
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("precision", ["--fp16", "--amp", "--bf16"])
@pytest.mark.parametrize(
    "task, criterion, flags",
    [
        ("pseudo_masked_lm", "", ["--arch", "unilmv2_tiny"]),
        ("electra", "electra_hardness", ["--arch", "electra_tiny", "--hardness", "loss", "--hp-importance-weight"]),
        ("electra", "electra_hardness", ["--arch", "electra_tiny", "--hardness", "dist"]),
    ],
    ids=["pmlm", "hp_loss", "hp_dist"],
)
def test_pretraining_in_reduced_precision(tmp_path, task, criterion, flags, precision):
    from tests.tasks.pretraining import PretrainingTask, write_data

    ours = PretrainingTask(task, [*flags, "--encoder-layers", "2"], criterion)
    done = succeeded(ours.train(write_data(tmp_path / "data"), tmp_path / "run", 30, precision))
    losses = list(training_losses(done).values())
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("relations", ["q-q,k-k,v-v", "v-v"])
@pytest.mark.parametrize("precision", ["--fp16", "--amp", "--bf16"])
def test_distillation_in_reduced_precision_from_a_teacher_in_bfloat16(tmp_path, precision, relations):
    from tests.tasks.pretraining import PretrainingTask, write_data

    data = write_data(tmp_path / "data")
    shape = ("--arch transformer_mlm_base --encoder-embed-dim 32 --encoder-ffn-embed-dim 48 "
             "--encoder-attention-heads 2").split()  # fmt: skip
    teacher = PretrainingTask("pseudo_masked_lm", [*shape, "--encoder-layers", "3", "--objectives", "ae"])
    succeeded(teacher.train(data, tmp_path / "teacher", 3))
    words = ["--relations", relations, "--relation-heads", "8", "--teacher-dtype", "bfloat16",
             "--teacher", str(tmp_path / "teacher" / "checkpoint_last.pt")]  # fmt: skip
    student = PretrainingTask("relation_distillation", [*shape, "--encoder-layers", "2", *words])
    losses = list(training_losses(succeeded(student.train(data, tmp_path / "run", 30, precision))).values())
    assert sum(losses[-3:]) < sum(losses[:3]) / 2

"""Parts of the command that opus100 train writes."""

import argparse

import pytest
import torch

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.training_command import precision_flags, sampling_flags, task_name, validation_flags


def test_sampling_flags():
    assert sampling_flags("concat") == ["--sampling-method", "concat"]
    assert sampling_flags("temperature:1.5")[-1] == "1.5"
    ramp = ["--sampling-temperature-start", "1", "--sampling-temperature", "5", "--sampling-temperature-epochs", "3"]
    assert sampling_flags("ramp:1:5:3") == ramp
    wrong_ramps = ("ramp", "ramp:1:5", "ramp:5:1:3", "ramp:0:5:3", "ramp:1:5:0", "ramp:1:5:2.5", "ramp:1:nan:5")
    for wrong in ("temperature", "temperature:0", "temperature:x", "uniform:2", "concat:5", *wrong_ramps):
        with pytest.raises(UserError, match="--sampling"):
            sampling_flags(wrong)


def test_precision_flags():
    assert precision_flags("auto", cpu=True) == ["--cpu"]
    assert precision_flags("bf16", cpu=False) == ["--bf16"]
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        precision_flags("fp16", cpu=True)


def test_auto_precision_takes_bf16_only_where_the_gpu_computes_in_it(monkeypatch):
    for emulated, has, flag in ((True, False, "--fp16"), (True, True, "--bf16")):
        def answer(including_emulation=True, emulated=emulated, has=has):
            return has or (emulated and including_emulation)

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
        assert precision_flags("auto", cpu=False) == [flag]


def test_validation_chooses_the_task():
    def chosen(sampling="temperature:5", **options):
        args = argparse.Namespace(sampling=sampling, **{"valid_lines": 100, "valid_scores": "", **options})
        return task_name(args), validation_flags(args)

    assert chosen() == ("translation_multi_validated", ["--valid-lines", "100"])
    assert chosen(valid_lines=0) == ("translation_multi_simple_epoch", [])
    ramp = chosen("ramp:1:5:3", valid_lines=7, valid_scores="bleu")
    assert ramp == ("translation_multi_temperature_ramp", ["--valid-lines", "7", "--valid-scores", "bleu"])
    assert chosen("ramp:1:5:3", valid_lines=0) == ("translation_multi_temperature_ramp", [])
    with pytest.raises(UserError, match="--valid-lines -1"):
        chosen(valid_lines=-1)
    with pytest.raises(UserError, match="--valid-scores bleu needs --valid-lines"):
        chosen(valid_lines=0, valid_scores="bleu")

"""The start-up self-check: constants, what it measures, when it speaks, and that it leaves nothing behind."""

import logging
import re

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_plugins.models._self_check import promised_ratio
from fairseq_plugins.modules.residual import residual_schemes
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = shifted(sentences(WORDS, [5, 8, 3], seed=1), WORDS)
SIX = ["--encoder-layers", "6", "--decoder-layers", "6"]


def mt(*flags):
    torch.manual_seed(3)
    return build("transformer_mt", WORDS, *TINY_MT, *flags).train()


@pytest.fixture
def said(caplog):
    """What the self-check has logged, as a function."""
    caplog.set_level(logging.INFO)
    return lambda level="INFO": [
        record.getMessage()
        for record in caplog.records
        if record.name.endswith("_self_check") and record.levelname == level
    ]


@pytest.mark.parametrize(
    "residual, encoder, decoder",
    [
        ("deepnorm", "alpha 1.4179, beta 0.4970", "alpha 2.0598, beta 0.3433"),  # DeepNet, Figure 2b, 6-6
        ("subln", "gamma 1.5473", "gamma 1.7001"),  # Magneto, Section 3.2, 6-6
    ],
)
def test_one_line_per_stack_on_the_first_training_forward(residual, encoder, decoder, said):
    model = mt("--residual", residual, *SIX)
    model.eval()(SOURCE, None, TARGET)
    SequenceGenerator([model], WORDS, max_len_b=3).generate([model], {"net_input": {"src_tokens": SOURCE}})
    model.train()
    with torch.no_grad():
        model(SOURCE, None, TARGET)
    assert not said()
    for _ in range(2):
        model(SOURCE, None, TARGET)
    lines = said()
    assert len(lines) == 2 and not said("WARNING")
    for line, side, constants in zip(lines, ("encoder", "decoder"), (encoder, decoder), strict=True):
        assert line.startswith(f"self-check of the {side}: 6 layers, --residual {residual}: {constants}; first batch: ")
        assert re.findall(r"layer \d+", line) == ["layer 1", "layer 4", "layer 6"]
        assert line.count("encoder_attn") == (3 if side == "decoder" else 0)
        assert float(re.search(r"output rms ([\d.]+)", line)[1]) == pytest.approx(1, abs=0.15)  # a norm comes last
        measured = re.findall(r" ([\d.]+) \(<= ([\d.]+)\)", line)
        assert len(measured) == (9 if side == "decoder" else 6)
        assert all(0.1 * float(most) < float(ratio) < 1.5 * float(most) for ratio, most in measured)


def test_other_schemes_have_no_constants_to_check(said):
    for residual in ("post", "pre"):
        model = mt("--residual", residual)
        assert not model._forward_pre_hooks
        model(SOURCE, None, TARGET)
    assert not said()


@pytest.mark.parametrize("arch, task", [("transformer_mlm", "masked_lm"), ("transformer_clm", "language_modeling")])
def test_single_stacks(arch, task, said):
    side = "encoder" if arch == "transformer_mlm" else "decoder"
    shape = [f"--{side}-layers", "12", f"--{side}-embed-dim", "16", f"--{side}-attention-heads", "2"]
    model = build(arch, WORDS, "--residual", "deepnorm", *shape, "--tokens-per-sample", "16", task=task).train()
    model(TARGET)
    (line,) = said()
    assert f"the {side}: 12 layers, --residual deepnorm: alpha 2.2134, beta 0.3195; " in line


def test_a_ratio_by_hand(said):
    """One token attends to itself: with v and out the identity the branch is its input, 1 / alpha of the skip."""
    model = mt("--residual", "deepnorm", *SIX)
    attention = model.encoder.layers[0].self_attn
    for linear in (attention.v_proj, attention.out_proj):
        torch.nn.init.eye_(linear.weight)
    model(SOURCE[:, -1:], None, TARGET[:, :1])
    beta_over = 0.4970**2 / 1.4179
    assert f"layer 1: self_attn {1 / 1.4179:.3f} (<= {beta_over:.3f}) " in said()[0]
    (warning,) = said("WARNING")  # 4 times what beta promises
    assert "encoder layer 1 self_attn measures 0.705 of its skip" in warning
    assert "promises at most 0.174" in warning


def test_what_the_constants_promise():
    """DeepNet's condition 2N (v^2 + w^2) / alpha^2 = 1 at v = w = beta: 2N sublayers of beta^2 / alpha."""
    scheme = residual_schemes("deepnorm", 12, 0).encoder
    assert 2 * 12 * 2 * scheme.gain**2 / scheme.alpha**2 == pytest.approx(1)
    assert promised_ratio(scheme, scheme.gain, 5.0) == pytest.approx(0.3195**2 / 2.2134, rel=1e-3)
    magneto = residual_schemes("subln", 6, 6).decoder
    assert promised_ratio(magneto, magneto.gain, 4.0) == pytest.approx(2**0.5 * 1.7001 / 4, rel=1e-4)


def test_weights_of_a_checkpoint_are_said_to_be_none_of_the_start(said):
    model = mt("--residual", "deepnorm")
    state = model.state_dict()
    state["encoder.layers.0.self_attn.out_proj.weight"] *= 100
    model.load_state_dict(state)
    model(SOURCE, None, TARGET)
    assert all("first batch (weights of a checkpoint: not the scale at the start): " in line for line in said())
    assert len(said()) == 2 and not any("<=" in line for line in said())
    assert not said("WARNING")  # what training made of them is no fault


def test_weights_initialised_over_again_and_weights_that_overflow_are_warned_of(said):
    model = mt("--residual", "deepnorm")
    for linear in (model.encoder.layers[1].feed_forward.fc1, model.encoder.layers[1].feed_forward.fc2):
        torch.nn.init.normal_(linear.weight)
    model.decoder.layers[1].final_layer_norm.weight.data.fill_(float("inf"))
    model(SOURCE, None, TARGET)
    warnings = said("WARNING")
    assert any("encoder layer 2 feed_forward measures" in warning for warning in warnings)
    assert any("the output of the decoder is not finite" in warning for warning in warnings)


@pytest.mark.parametrize("residual", ["deepnorm", "subln"])
@pytest.mark.parametrize("place", ["", "--moe-freq", "--moe-insert-after"])
def test_it_changes_no_gradient_and_leaves_no_hook(residual, place, said):
    experts = ["--moe-experts", "4", place, "2"] if place else []
    model = mt("--residual", residual, "--checkpoint-activations", *experts)

    def gradients():
        model.zero_grad()
        output, extra = model(SOURCE, None, TARGET)
        extra["auxiliary"].consume()
        output.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    checked, unchecked = gradients(), gradients()
    assert len(said()) == 2
    for one, other in zip(checked, unchecked, strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_other_ranks_say_nothing(said, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    model = mt("--residual", "deepnorm")
    monkeypatch.undo()
    model(SOURCE, None, TARGET)
    assert not said()

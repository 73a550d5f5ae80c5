"""--attention-temperature: it reaches every attention, the head width is none, an old checkpoint can be told it."""

import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_plugins.modules.attention import MultiHeadAttention
from tests.models_support import TINY_MT, build, built, dictionary, model_config, randomised, sentences, shifted
from tests.seq2seq_support import words_of_data

WORDS = dictionary()
INPUTS = sentences(WORDS, [7, 4, 9], left_pad=True), None, shifted(sentences(WORDS, [5, 8, 3], seed=1), WORDS)
WIDTH_4 = ("--decoder-attention-heads", "4")  # as the encoder's


def attentions(model):
    return [module for module in model.modules() if isinstance(module, MultiHeadAttention)]


@pytest.mark.parametrize(
    "arch, task, count",
    [
        ("deepnet_mt_tiny", "translation", 3 + 2 * 3),
        ("mt6_tiny", "translation", 3 + 2 * 3),
        ("xmoe_mt_tiny", "translation", 3 + 2 * 3),
        ("xlm_t_tiny", "translation", None),
        ("transformer_clm", "language_modeling", 6),
        ("unilmv2_tiny", "masked_lm", 6),
        ("unilmv2_seq2seq_tiny", "translation", 6),
        ("electra_tiny", "masked_lm", 2 * 4),
    ],
)
def test_it_reaches_every_attention_of_every_model(arch, task, count):
    with torch.device("meta"):
        found = attentions(build(arch, words_of_data(), "--attention-temperature", "100", task=task))
    assert len(found) == count or count is None and found
    assert {attention.scale for attention in found} == {0.1}


@pytest.mark.parametrize("temperature", ["0", "4"])
def test_the_head_width_is_none_bit_for_bit(temperature):
    plain, same = (randomised(WORDS, *WIDTH_4, *more) for more in ([], ["--attention-temperature", temperature]))
    assert torch.equal(same(*INPUTS)[0], plain(*INPUTS)[0])


def test_each_stack_has_its_own_width_without_it():
    """The encoder's heads are 4 wide, the decoder's 8: a temperature of 4 or 8 is that of one of them alone."""
    plain = randomised(WORDS)
    for temperature, encoder_alike in (("4", True), ("8", False)):
        told = randomised(WORDS, "--attention-temperature", temperature)
        source = [model.encoder(INPUTS[0])["encoder_out"][0] for model in (told, plain)]
        assert torch.equal(*source) == encoder_alike
        assert not torch.equal(told(*INPUTS)[0], plain(*INPUTS)[0])


@pytest.mark.parametrize("arch", ["transformer_mt", "deepnet_mt_tiny", "transformer"])
def test_a_checkpoint_from_before_the_option_takes_an_override(arch, tmp_path):
    """As `fairseq-generate --model-overrides` gives it; what no model has is passed over, as by the stock engine."""
    cfg = model_config(arch, *TINY_MT)
    state = built(cfg, WORDS).state_dict()
    stored = OmegaConf.to_container(cfg, enum_to_str=True) if arch != "transformer" else {"model": vars(cfg.model)}
    stored["model"].pop("attention_temperature", None)
    history = [{"optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 1}]
    extra = {"train_iterator": {"epoch": 1}}
    saved = {"args": None, "cfg": stored, "model": state, "optimizer_history": history, "extra_state": extra}
    torch.save(saved, tmp_path / "old.pt")
    overrides = {"attention_temperature": 96, "dropout": 0.5, "unheard_of": 1}
    found = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "old.pt"), overrides)["cfg"]
    assert found.model.dropout == 0.5 and "unheard_of" not in found.model
    if arch == "transformer":
        assert "attention_temperature" not in found.model
        return
    cfg.model = found.model
    model = built(cfg, WORDS)
    model.load_state_dict(state)
    assert {attention.scale for attention in attentions(model)} == {96**-0.5}

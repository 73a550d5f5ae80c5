import math

import pytest
import torch
from torch import nn

from fairseq_plugins.checkpoints.electra_parts import electra_part, is_electra
from fairseq_plugins.modules.prediction_heads import MaskedTokenHead

SYMBOLS, WIDTH, DIM, OWN = 40, 12, 30, 8  # of the tables, the discriminator and the generator
QUERY = "layers.0.self_attn.q_proj.weight"


def electra(norm=nn.LayerNorm):
    """A state dict of the names and shapes that matter, every number its own."""
    table, positions = nn.Embedding(SYMBOLS, WIDTH), torch.rand(9, WIDTH)
    head = MaskedTokenHead(table, nn.GELU(), norm, OWN).state_dict()
    state = {f"{part}.{name}": value for part in ("generator", "discriminator") for name, value in
             (("embed_tokens.weight", table.weight.detach()), ("embed_positions.weight", positions))}  # fmt: skip
    state.update({f"generator.lm_head.{name}": torch.rand_like(value) for name, value in head.items()})
    state["generator.lm_head.weight"] = state["generator.embed_tokens.weight"]
    state.update({f"hardness_head.{name}": value for name, value in head.items()})
    state[f"generator.{QUERY}"], state[f"discriminator.{QUERY}"] = torch.rand(OWN, OWN), torch.rand(DIM, DIM)
    state["discriminator.embed_project.weight"] = torch.rand(DIM, WIDTH)
    state["discriminator.replaced_token_head.out_proj.weight"] = torch.rand(1, DIM)
    return state


def head_of(found):
    return {name.removeprefix("encoder.lm_head."): value for name, value in found.items() if ".lm_head." in name}


def test_the_generator_keeps_everything_but_the_hardness_head():
    state = electra()
    found = electra_part(state, "generator")
    assert found.keys() == {name.replace("generator.", "encoder.") for name in state if name.startswith("generator.")}
    assert all(value is state[name.replace("encoder.", "generator.")] for name, value in found.items())


def test_the_discriminator_keeps_everything_but_the_head_for_replaced_tokens():
    state = electra()
    found = electra_part(state, "discriminator")
    rest = {name for name in found if ".lm_head." not in name}
    assert rest == {"encoder.embed_tokens.weight", "encoder.embed_positions.weight", "encoder.embed_project.weight",
                    f"encoder.{QUERY}"}  # fmt: skip
    assert all(found[name] is state[name.replace("encoder.", "discriminator.")] for name in rest)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_fresh_head_is_that_of_a_masked_language_model_of_the_same_widths(norm):
    state = electra(norm)
    found = head_of(electra_part(state, "discriminator"))
    expected = MaskedTokenHead(nn.Embedding(SYMBOLS, WIDTH), nn.GELU(), norm, DIM).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    assert found.pop("weight") is state["discriminator.embed_tokens.weight"]
    dense, strength = found.pop("dense.weight"), math.sqrt(2 / (WIDTH + DIM))
    assert 0.8 * strength < dense.std() < 1.2 * strength
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_the_fresh_head_depends_on_its_seed_alone():
    state = electra()
    first, again, other = (head_of(electra_part(state, "discriminator", seed)) for seed in (1, 1, 2))
    assert torch.equal(first["dense.weight"], again["dense.weight"])
    assert not torch.equal(first["dense.weight"], other["dense.weight"])
    before = torch.get_rng_state()
    electra_part(state, "discriminator")
    assert torch.equal(before, torch.get_rng_state())


def test_which_states_are_an_electra():
    state = electra()
    assert is_electra(state) and not is_electra(electra_part(state, "generator"))
    assert not is_electra({name: value for name, value in state.items() if not name.startswith("generator.")})


@pytest.mark.parametrize("missing", [f"discriminator.{QUERY}", "generator.lm_head.dense.weight"])
def test_what_is_damaged_is_named(missing):
    state = electra()
    del state[missing]
    with pytest.raises(ValueError, match=missing.partition(".")[2]):
        electra_part(state, "discriminator")

"""The mean of state dicts: hand values, identity, sharing, and what is refused."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.checkpoints.average import average_state_dicts


def test_hand_value():
    averaged = average_state_dicts([{"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([2.0, 8.0])}], ["a", "b"])
    assert_close(averaged["w"], torch.tensor([1.5, 6.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_copies_of_one_state_dict_average_to_itself_exactly(dtype):
    state = {"w": torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(dtype)}
    averaged = average_state_dicts([state, {"w": state["w"].clone()}, {"w": state["w"].clone()}], ["a", "b", "c"])
    assert averaged["w"].dtype == dtype and torch.equal(averaged["w"], state["w"])


def test_halves_do_not_overflow_on_the_way():
    large = {"w": torch.full((1,), 60000.0, dtype=torch.float16)}
    averaged = average_state_dicts([large, {"w": large["w"].clone()}], ["a", "b"])
    assert averaged["w"].item() == 60000.0


def tied(value):
    weight = torch.full((4, 2), value)
    return {"encoder.embed_tokens.weight": weight, "decoder.embed_tokens.weight": weight, "fc": weight.clone()}


def test_tied_tensors_stay_tied_and_others_do_not_become_so():
    averaged = average_state_dicts([tied(1.0), tied(3.0)], ["a", "b"])
    encoder, decoder = averaged["encoder.embed_tokens.weight"], averaged["decoder.embed_tokens.weight"]
    assert encoder.data_ptr() == decoder.data_ptr() != averaged["fc"].data_ptr()
    assert all(torch.equal(tensor, torch.full((4, 2), 2.0)) for tensor in averaged.values())


def test_tensors_tied_in_one_file_only_are_averaged_apart():
    untied = {key: torch.full((4, 2), value) for key, value in zip(tied(0.0), (3.0, 5.0, 7.0), strict=True)}
    averaged = average_state_dicts([tied(1.0), untied], ["a", "b"])
    assert [tensor[0, 0].item() for tensor in averaged.values()] == [2.0, 3.0, 4.0]


def test_the_result_shares_no_memory_with_its_input():
    state = {"w": torch.ones(2), "version": torch.ones(1, dtype=torch.long)}
    averaged = average_state_dicts([state], ["a"])
    for tensor in averaged.values():
        tensor.zero_()
    assert state["w"].sum() == 2 and state["version"] == 1


@pytest.mark.parametrize(
    "other, says",
    [
        ({"w": torch.ones(3, 2)}, r"w is \(4, 2\) in a.pt and \(3, 2\) in b.pt: two different dictionaries"),
        ({"w": torch.ones(4, 3)}, r"w is \(4, 2\) in a.pt and \(4, 3\) in b.pt: two different models"),
        ({"w": torch.ones(4, 2).half()}, r"w is torch.float32 in a.pt and torch.float16 in b.pt"),
        ({}, r"a.pt has w and b.pt has not \(1 such parameters\)"),
        ({"w": torch.ones(4, 2), "x": torch.ones(1)}, r"b.pt has x and a.pt has not"),
    ],
)
def test_what_does_not_fit_together_is_named(other, says):
    with pytest.raises(ValueError, match=says):
        average_state_dicts([{"w": torch.ones(4, 2)}, other], ["a.pt", "b.pt"])


def test_whole_numbers_must_agree():
    with pytest.raises(ValueError, match="steps holds whole numbers"):
        average_state_dicts([{"steps": torch.tensor(1)}, {"steps": torch.tensor(2)}], ["a", "b"])

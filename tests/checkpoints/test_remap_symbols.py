"""Rows follow their symbol: hand-made tables, tied and untied, optimizer state, and a real model's logits."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.checkpoints.remap_symbols import remap_optimizer_state, remap_state_dict, source_rows

OLD = ["<s>", "a", "b", "__de__"]
NEW = ["<s>", "b", "__de__", "__en__", "a", "<mask>"]


def table(rows=4, dim=3):
    return torch.arange(float(rows * dim)).view(rows, dim)


def test_source_rows_by_hand():
    assert source_rows(OLD, NEW).tolist() == [0, 2, 3, -1, 1, -1]


def test_a_symbol_with_two_rows_means_the_last_one():
    assert source_rows(["x", "y", "x"], ["x"]).tolist() == [2]


def test_every_known_symbol_keeps_its_numbers():
    weight = table()
    moved = remap_state_dict({"encoder.embed_tokens.weight": weight}, OLD, NEW).state["encoder.embed_tokens.weight"]
    for symbol in OLD:
        assert_close(moved[NEW.index(symbol)], weight[OLD.index(symbol)])


def test_new_rows_have_fairseqs_spread_and_depend_on_seed_and_symbol_only():
    symbols = [f"new{i}" for i in range(400)]
    weight = torch.zeros(1, 256)
    moved = remap_state_dict({"embed_tokens.weight": weight}, ["a"], ["a"] + symbols)
    again = remap_state_dict({"embed_tokens.weight": weight}, ["a"], symbols[::-1] + ["a"])
    other = remap_state_dict({"embed_tokens.weight": weight}, ["a"], ["a"] + symbols, seed=2)
    rows = moved.state["embed_tokens.weight"][1:]
    assert_close(rows.std().item(), 256**-0.5, rtol=0.01, atol=0)
    assert_close(rows, again.state["embed_tokens.weight"][:-1].flip(0))
    assert (rows != other.state["embed_tokens.weight"][1:]).any()


def test_tensors_that_share_memory_share_it_afterwards():
    weight = table()
    state = {"encoder.embed_tokens.weight": weight, "decoder.embed_tokens.weight": weight,
             "decoder.output_projection.weight": weight}  # fmt: skip
    moved = remap_state_dict(state, OLD, NEW)
    assert len({tensor.data_ptr() for tensor in moved.state.values()}) == 1
    assert moved.moved == list(state)


def test_tied_tables_that_a_file_stores_twice_stay_equal():
    state = {"decoder.embed_tokens.weight": table(), "decoder.output_projection.weight": table()}
    moved = remap_state_dict(state, OLD, NEW).state
    assert_close(moved["decoder.embed_tokens.weight"], moved["decoder.output_projection.weight"])


def test_a_new_bias_is_0_and_types_stay():
    state = {"lm_head.bias": torch.tensor([1.0, 2, 3, 4]), "embed_tokens.weight": table().half()}
    moved = remap_state_dict(state, OLD, NEW).state
    assert moved["lm_head.bias"].tolist() == [1, 3, 4, 0, 2, 0]
    assert moved["embed_tokens.weight"].dtype == torch.float16


def test_everything_else_is_the_same_object_and_look_alikes_are_named():
    state = {"encoder.layers.0.fc1.weight": torch.zeros(4, 2), "encoder.layers.0.fc2.weight": torch.zeros(2, 4),
             "encoder.version": torch.tensor([3.0]), "embed_tokens.weight": table()}  # fmt: skip
    moved = remap_state_dict(state, OLD, NEW)
    assert all(moved.state[name] is state[name] for name in list(state)[:3])
    assert moved.look_alikes == ["encoder.layers.0.fc1.weight"]


def test_a_dictionary_of_another_model_is_refused():
    with pytest.raises(ValueError, match="embed_tokens.weight has 5 rows, the dictionary 4"):
        remap_state_dict({"embed_tokens.weight": table(5)}, OLD, NEW)


def test_adaptive_softmax_is_refused():
    with pytest.raises(ValueError, match="adaptive softmax"):
        remap_state_dict({"decoder.adaptive_softmax.head.weight": table()}, OLD, NEW)


def trained_pair(dim=4):
    """An embedding and a linear layer after one Adam step, and their optimizer."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(len(OLD), dim), "fc1": torch.nn.Linear(dim, 7)})
    optimizer = torch.optim.Adam(model.parameters())
    model["fc1"](model["embed_tokens"](torch.tensor([0, 1, 2, 3]))).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_the_moments_follow_their_symbols():
    model, optimizer = trained_pair()
    state = optimizer.state_dict()
    moved = remap_optimizer_state(state, model.state_dict(), OLD, NEW)
    before, after = state["state"][0]["exp_avg"], moved["state"][0]["exp_avg"]
    assert after.shape == (len(NEW), 4) and before.abs().min() > 0
    for row, symbol in enumerate(NEW):
        assert_close(after[row], before[OLD.index(symbol)] if symbol in OLD else torch.zeros(4))
    assert moved["state"][0]["step"] == state["state"][0]["step"]
    assert moved["state"][1] is state["state"][1]
    assert moved["param_groups"] == state["param_groups"]


def test_moments_that_cannot_be_told_apart_are_given_up():
    model, optimizer = trained_pair()
    twin = torch.nn.Linear(4, len(OLD), bias=False)  # the shape of the embedding
    optimizer.add_param_group({"params": twin.parameters()})
    twin(torch.ones(4)).sum().backward()
    optimizer.step()
    assert remap_optimizer_state(optimizer.state_dict(), model.state_dict(), OLD, NEW) is None
    flat = {"state": {0: {"exp_avg": torch.zeros(100), "step": 3}}, "param_groups": []}
    assert remap_optimizer_state(flat, model.state_dict(), OLD, NEW) is None


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_means_the_same_after_it_moved(tied):
    """The same sentence in symbols gets the same logits for the same symbols."""
    torch.manual_seed(1)

    class Model(torch.nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(rows, 8)
            self.hidden = torch.nn.Linear(8, 8)
            self.output_projection = torch.nn.Linear(8, rows, bias=False)
            if tied:
                self.output_projection.weight = self.embed_tokens.weight

        def forward(self, rows):
            return self.output_projection(torch.tanh(self.hidden(self.embed_tokens(rows))))

    old, new = Model(len(OLD)), Model(len(NEW))
    new.load_state_dict(remap_state_dict(old.state_dict(), OLD, NEW).state)
    sentence = ["b", "__de__", "a"]
    before = old(torch.tensor([OLD.index(symbol) for symbol in sentence]))
    after = new(torch.tensor([NEW.index(symbol) for symbol in sentence]))
    assert_close(after[:, [NEW.index(symbol) for symbol in OLD]], before)

import pytest
import torch

from fairseq_plugins.checkpoints.encoder_to_decoder import (
    interleaved_stack,
    layer_count,
    plain_stack,
    without_segments,
)

PARTS = [
    *(f"self_attn.{projection}_proj.weight" for projection in ("q", "k", "v", "out")),
    *("self_attn_layer_norm.bias", "feed_forward.fc1.weight", "feed_forward.fc2.bias", "final_layer_norm.weight"),
]
# four layers whose tensors know where they come from
STACK = {f"layers.{layer}.{part}": torch.tensor([layer, number]) for layer in range(4) for number, part in
         enumerate(PARTS)}  # fmt: skip
STACK["embed_tokens.weight"] = torch.tensor([9, 9])


def origin(taken):
    """name -> the name in STACK of the tensor that it holds."""
    names = {tuple(value.tolist()): name for name, value in STACK.items()}
    return {name: names[tuple(value.tolist())] for name, value in taken.items()}


def test_layers_are_counted():
    assert layer_count(STACK) == 4 and layer_count({"embed_tokens.weight": torch.ones(1)}) == 0


def test_chosen_layers_come_in_their_order():
    found = origin(plain_stack(STACK, [3, 1]))
    expected = {f"layers.{new}.{part}": f"layers.{old}.{part}" for new, old in ((0, 3), (1, 1)) for part in PARTS}
    assert found == {**expected, "embed_tokens.weight": "embed_tokens.weight"}


def test_cross_attention_gets_queries_keys_and_values():
    plain, more = origin(plain_stack(STACK, [2])), origin(plain_stack(STACK, [2], cross_attention=True))
    assert {name: more[name] for name in more.keys() - plain.keys()} == {
        f"layers.0.encoder_attn.{letter}_proj.weight": f"layers.2.self_attn.{letter}_proj.weight" for letter in "qkv"
    }


def test_an_interleaved_layer_is_made_of_two():
    found = origin(interleaved_stack(STACK, [0, 1, 2, 3]))
    assert {name: value for name, value in found.items() if name.startswith("layers.1.")} == {
        **{f"layers.1.self_attn.{letter}_proj.weight": f"layers.2.self_attn.{letter}_proj.weight" for letter in "qkv"},
        "layers.1.self_attn.out_proj.weight": "layers.2.self_attn.out_proj.weight",
        "layers.1.self_attn_layer_norm.bias": "layers.2.self_attn_layer_norm.bias",
        "layers.1.first_feed_forward.fc1.weight": "layers.2.feed_forward.fc1.weight",
        "layers.1.first_feed_forward.fc2.bias": "layers.2.feed_forward.fc2.bias",
        "layers.1.ffn_layer_norm.weight": "layers.2.final_layer_norm.weight",
        **{f"layers.1.encoder_attn.{word}_proj.weight": f"layers.3.self_attn.{word}_proj.weight" for word in
           ("q", "k", "v", "out")},
        "layers.1.encoder_attn_layer_norm.bias": "layers.3.self_attn_layer_norm.bias",
        "layers.1.feed_forward.fc1.weight": "layers.3.feed_forward.fc1.weight",
        "layers.1.feed_forward.fc2.bias": "layers.3.feed_forward.fc2.bias",
        "layers.1.final_layer_norm.weight": "layers.3.final_layer_norm.weight",
    }  # fmt: skip
    without = interleaved_stack(STACK, [0, 1, 2, 3], cross_attention=False)
    assert {name for name in found if "encoder_attn" in name} == found.keys() - without.keys()


def test_half_an_interleaved_layer_is_refused():
    with pytest.raises(ValueError):
        interleaved_stack(STACK, [0, 1, 2])


def test_the_first_segment_becomes_part_of_every_position():
    positions, segments = torch.arange(6.0).reshape(3, 2), torch.tensor([[10.0, 20.0], [7.0, 7.0]])
    stack = {**STACK, "embed_positions.weight": positions, "embed_segments.weight": segments}
    found = without_segments(stack)
    assert found.pop("embed_positions.weight").tolist() == [[10, 21], [12, 23], [14, 25]]
    assert found == STACK and positions.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert without_segments(STACK) == STACK and without_segments(STACK) is not STACK
    with pytest.raises(ValueError, match="segments and no learned positions"):
        without_segments({**STACK, "embed_segments.weight": segments})

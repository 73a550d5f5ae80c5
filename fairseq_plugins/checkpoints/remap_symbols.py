"""Move a checkpoint to another dictionary: rows follow their symbol, never their number.

Row letters: V rows of the old dictionary, W rows of the new one, D model dim.
"""

import hashlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

# Parameters with one row per symbol, by the last words of their names: token tables, output projections, the heads of
# masked language models, and the same inside any model of this package or of fairseq that is built from these parts.
VOCABULARY_PARAMETERS = ("embed_tokens.weight", "output_projection.weight", "output_projection.bias",
                         "lm_head.weight", "lm_head.bias", "embed_out")  # fmt: skip
_UNSUPPORTED = "adaptive_softmax"  # rows sorted into clusters by frequency: a new symbol has no place there


class Remapped(NamedTuple):
    """A state dict for the new dictionary and what happened to it."""

    state: Dict[str, Any]
    moved: List[str]  # parameters whose rows were moved
    look_alikes: List[str]  # left alone although they have V rows


def source_rows(old: Sequence[str], new: Sequence[str]) -> Tensor:
    """For every row of the new dictionary the old row of the same symbol, -1 where there is none; shape (W,), long.

    A symbol that the old dictionary holds twice (``#fairseq:overwrite``) means its last row, as in fairseq.
    """
    row_of = {symbol: row for row, symbol in enumerate(old)}
    return torch.tensor([row_of.get(symbol, -1) for symbol in new], dtype=torch.long)


def remap_state_dict(state: Mapping[str, Any], old: Sequence[str], new: Sequence[str], seed: int = 1) -> Remapped:
    """Move every vocabulary parameter of a model to a new dictionary.

    A new symbol's row is drawn from N(0, D^-0.5) as fairseq draws embeddings, from ``seed`` and the symbol alone, so
    that copies of tied tables stay equal however the file stores them; a new bias is 0. Tensors that share memory
    share it afterwards. Symbols that the new dictionary lacks are lost.

    Args:
        state: parameter name -> tensor.
        old, new: the symbols of both dictionaries, row 0 first.
        seed: of the new rows.
    Raises:
        ValueError: a vocabulary parameter has not V rows, or the model has an adaptive softmax.
    """
    source, done = source_rows(old, new), {}
    remapped, moved, look_alikes = dict(state), [], []
    for name, tensor in state.items():
        if _UNSUPPORTED in name:
            raise ValueError(f"{name}: a model with an adaptive softmax cannot move to another dictionary")
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            continue
        if not name.endswith(VOCABULARY_PARAMETERS):
            if len(tensor) == len(old):
                look_alikes.append(name)
            continue
        if len(tensor) != len(old):
            raise ValueError(f"{name} has {len(tensor)} rows, the dictionary {len(old)}: they do not belong together")
        memory = tensor.data_ptr(), tensor.shape, tensor.stride()
        if memory not in done:
            done[memory] = _move_rows(tensor, source, new, seed)
        remapped[name] = done[memory]
        moved.append(name)
    return Remapped(remapped, moved, look_alikes)


def remap_optimizer_state(
    state: Mapping[str, Any], model: Mapping[str, Any], old: Sequence[str], new: Sequence[str]
) -> Optional[Dict[str, Any]]:
    """Move the optimizer's per-element state (Adam's moments) of the vocabulary parameters; new rows start at 0.

    torch numbers an optimizer's parameters and does not name them. The vocabulary parameters are found as those with
    their shapes, which is certain only if no other parameter has such a shape.

    Args:
        state: ``state_dict()`` of a torch optimizer.
        model: the state dict of the model *before* it was remapped.
    Returns:
        the new state, or None where the parameters cannot be told apart (flattened fp16 parameters, factored
        moments, another matrix of the same shape): training then has to start with a fresh optimizer.
    """
    source = source_rows(old, new)
    expected = sorted(_distinct_shapes(model))
    moved, found = {}, []
    for number, values in state["state"].items():
        shapes = {tuple(value.shape) for value in values.values() if isinstance(value, Tensor) and value.dim() > 0}
        if len(shapes) > 1 or not shapes:
            return None
        shape = shapes.pop()
        if shape in expected:
            found.append(shape)
            values = {key: _move_moments(value, source) for key, value in values.items()}
        moved[number] = values
    return {**state, "state": moved} if sorted(found) == expected else None


def _distinct_shapes(model: Mapping[str, Any]) -> List[Tuple[int, ...]]:
    """The shapes of the vocabulary parameters, tied ones once."""
    tables = [tensor for name, tensor in model.items() if name.endswith(VOCABULARY_PARAMETERS)]
    return [shape for _, shape in {(tensor.data_ptr(), tuple(tensor.shape)) for tensor in tables}]


def _move_moments(value: Any, source: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    moved = value[source.clamp(min=0)]
    moved[source < 0] = 0
    return moved


def _move_rows(tensor_VD: Tensor, source_W: Tensor, new: Sequence[str], seed: int) -> Tensor:
    moved = tensor_VD[source_W.clamp(min=0)]  # a copy, also of tensors that are mapped from a file
    for row in (source_W < 0).nonzero().flatten().tolist():
        moved[row] = _fresh_row(new[row], moved.shape[1:], seed)
    return moved


def _fresh_row(symbol: str, shape: Tuple[int, ...], seed: int) -> Tensor:
    if not shape:
        return torch.zeros(())
    digest = hashlib.sha256(f"{seed} {symbol}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

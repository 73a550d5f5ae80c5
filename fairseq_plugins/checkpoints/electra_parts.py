"""The two models of an `electra` checkpoint, each under the names of a `transformer_mlm` (arXiv 2003.10555, Section 2).

Both read the same tables of tokens, positions and segments, which stand under either name in the state dict.
"""

from typing import Dict, Mapping

import torch
from torch import Tensor, nn

PARTS = ("generator", "discriminator")
_TOKENS, _HEAD = "embed_tokens.weight", "lm_head."
_REPLACED = "replaced_token_head."
_DENSE = "dense.weight"


def is_electra(state: Mapping[str, object]) -> bool:
    """Whether parameters of these names are a generator and a discriminator."""
    return all(f"{part}.{_TOKENS}" in state for part in PARTS)


def electra_part(state: Mapping[str, Tensor], part: str, seed: int = 1) -> Dict[str, Tensor]:
    """A generator or discriminator as a `transformer_mlm` (a new dict; but for a fresh head the same tensors).

    The generator keeps its head for masked tokens. A discriminator has none and gets a fresh one, which starts as any
    does; its head for replaced tokens is left out, as is the generator's for hardness.

    Args:
        state: of an `electra`.
        part: one of `PARTS`.
        seed: of the fresh head.
    Raises:
        ValueError: a parameter is missing or no matrix where one is needed; the message says which.
    """
    for name in (f"{name}.{_TOKENS}" for name in PARTS):
        if name not in state:
            raise ValueError(f"it has no {name}")
        _check_matrix(state[name], name)
    prefix = f"{part}."
    stack = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    stack = {name: value for name, value in stack.items() if not name.startswith(_REPLACED)}
    if part == "discriminator":
        theirs = f"generator.{_HEAD}"
        like = {name.removeprefix(theirs): value for name, value in state.items() if name.startswith(theirs)}
        head = _fresh_head(like, stack[_TOKENS], part_width(stack), seed)
        stack.update({f"{_HEAD}{name}": value for name, value in head.items()})
    return {f"encoder.{name}": value for name, value in stack.items()}


def part_width(stack: Mapping[str, Tensor]) -> int:
    """Width D of the layers of a stack.

    Raises:
        ValueError: it has no first layer, or none of matrices.
    """
    query = "layers.0.self_attn.q_proj.weight"
    if query not in stack:
        raise ValueError(f"it has no {query}")
    _check_matrix(stack[query], query)
    return stack[query].size(1)


def _check_matrix(value: Tensor, name: str) -> None:
    if value.dim() != 2 or not value.is_floating_point():
        raise ValueError(f"its {name} is no matrix of weights")


def _fresh_head(like: Mapping[str, Tensor], table_VE: Tensor, dim: int, seed: int) -> Dict[str, Tensor]:
    """A head for hidden states of width `dim` that has the parameters of another, over the same table."""
    if _DENSE not in like:
        raise ValueError(f"its generator has no {_HEAD}{_DENSE}")
    _check_matrix(like[_DENSE], f"{_HEAD}{_DENSE}")
    head = {name: torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value)
            for name, value in like.items()}  # fmt: skip
    dense_ED = like[_DENSE].new_empty(table_VE.size(1), dim)
    head[_DENSE] = nn.init.xavier_normal_(dense_ED, generator=torch.Generator().manual_seed(seed))
    head["weight"] = table_VE
    return head

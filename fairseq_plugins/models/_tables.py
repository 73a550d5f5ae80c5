"""Tables of a checkpoint in a model whose own may be of another length."""

from typing import Dict

from torch import Tensor

from ..checkpoints.electra_parts import is_electra
from ..modules.positions import LearnedPositions
from ._adapters import StackEncoder

TWO_MODELS = (
    "is of an electra, which is two models: write one of them with python -m fairseq_plugins export CHECKPOINT "
    "--to discriminator --output FILE, and give FILE"
)


class WrongCheckpoint(SystemExit):
    """A checkpoint that this model cannot hold; the message is one sentence.

    Not an `Exception`: the trainer turns those that are raised while it loads into one that says nothing.
    """


def refuse_two_models(state: Dict[str, Tensor]) -> None:
    """Raises WrongCheckpoint for the state of an `electra`."""
    if is_electra(state):
        raise WrongCheckpoint(f"the checkpoint {TWO_MODELS}")


def fit_tables(state: Dict[str, Tensor], encoder: StackEncoder, flag: str, others: str) -> str:
    """`fit_tables_of` for a model with one stack, its `encoder`.

    Raises:
        WrongCheckpoint: as there, or two models in one.
    """
    refuse_two_models(state)
    return fit_tables_of("encoder", state, encoder, flag, others)


def fit_tables_of(name: str, state: Dict[str, Tensor], encoder: StackEncoder, flag: str, others: str) -> str:
    """Cut the state's learned positions to those of the model, in place.

    Args:
        name: of the stack in the state.
        state: of a model that has `encoder` under that name.
        flag: what makes the model's table longer or shorter.
        others: what else to say where the checkpoint's is too short.
    Returns:
        why the training that wrote the state cannot go on in this model; empty where it can. Weights that were cut
        may start another, but the optimiser's state has the old shape.
    Raises:
        WrongCheckpoint: too few positions, or another number of symbols.
    """
    table = f"{name}.embed_positions.weight"
    tokens_VD, positions_PD = state.get(f"{name}.embed_tokens.weight"), state.get(table)
    rows, positions = encoder.embed_tokens.num_embeddings, encoder.embed_positions
    if tokens_VD is not None and len(tokens_VD) != rows:
        raise WrongCheckpoint(
            f"the checkpoint knows {len(tokens_VD)} symbols and the data's dictionary has {rows}: binarise the "
            "data with the dict.txt that the checkpoint was trained with (fairseq-preprocess --srcdict)"
        )
    if positions_PD is None or not isinstance(positions, LearnedPositions):
        return ""
    wanted, unused = positions.max_positions, encoder.padding_idx + 1
    available = len(positions_PD) - unused
    if available < wanted:
        raise WrongCheckpoint(
            f"the checkpoint's position table ends at {available} tokens and this model's at {wanted}: "
            f"give {flag} {available}, and {others}"
        )
    state[table] = positions_PD[: unused + wanted]
    if available == wanted:
        return ""
    knows = f"the checkpoint's optimiser knows {available} positions and this model has {wanted}"
    return f"{knows}: give {flag} {available}"

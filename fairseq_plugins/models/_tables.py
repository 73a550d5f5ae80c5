"""Tables of a checkpoint in a model whose own may be of another length."""

from typing import Dict

from torch import Tensor

from ..modules.positions import LearnedPositions
from ._adapters import StackEncoder

_TOKENS, _POSITIONS = "encoder.embed_tokens.weight", "encoder.embed_positions.weight"


class WrongCheckpoint(SystemExit):
    """A checkpoint that this model cannot hold; the message is one sentence.

    Not an `Exception`: the trainer turns those that are raised while it loads into one that says nothing.
    """


def fit_tables(state: Dict[str, Tensor], encoder: StackEncoder, shorter: str) -> None:
    """Cut the state's learned positions to those of the model, in place.

    Args:
        state: of a model that has `encoder`.
        shorter: what to do about a table of `{0}` positions where that is too few.
    Raises:
        WrongCheckpoint: too few positions, or another number of symbols.
    """
    tokens_VD, positions_PD = state.get(_TOKENS), state.get(_POSITIONS)
    rows, positions = encoder.embed_tokens.num_embeddings, encoder.embed_positions
    if tokens_VD is not None and len(tokens_VD) != rows:
        raise WrongCheckpoint(
            f"the checkpoint knows {len(tokens_VD)} symbols and the data's dictionary has {rows}: binarise the "
            "data with the dict.txt that the checkpoint was trained with (fairseq-preprocess --srcdict)"
        )
    if positions_PD is None or not isinstance(positions, LearnedPositions):
        return
    wanted, unused = positions.max_positions, encoder.padding_idx + 1
    available = len(positions_PD) - unused
    if available < wanted:
        raise WrongCheckpoint(
            f"the checkpoint's position table ends at {available} tokens and this model's at {wanted}: "
            + shorter.format(available)
        )
    state[_POSITIONS] = positions_PD[: unused + wanted]

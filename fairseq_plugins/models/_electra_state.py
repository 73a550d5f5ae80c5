"""Weights of one `electra` in another: position tables of another length, a hardness head more or less."""

import logging
from typing import Dict, Optional

from torch import Tensor, nn

from ..checkpoints.electra_parts import PARTS, is_electra
from ._adapters import StackEncoder
from ._tables import WrongCheckpoint, fit_tables_of

logger = logging.getLogger(__name__)

_HEAD = "hardness_head."
_TABLE = f"{PARTS[0]}.embed_tokens.weight"


def fit_electra(
    state: Dict[str, Tensor], generator: StackEncoder, discriminator: StackEncoder, hardness_head: Optional[nn.Module]
) -> str:
    """Make a checkpoint's state one of the model with these parts, in place.

    Learned positions are cut under both names. A hardness head that the checkpoint lacks starts as it is, one that the
    model lacks is left out.

    Returns:
        why the training that wrote the state cannot go on in this model; empty where it can.
    Raises:
        WrongCheckpoint: of another model, too few positions, or another number of symbols.
    """
    if not is_electra(state):
        raise WrongCheckpoint(
            "the checkpoint is of no electra, it does not have the two networks: give one that --arch electra wrote, "
            "or train another --arch"
        )
    reasons = [
        fit_tables_of(name, state, stack, "--max-source-positions", "no more to --tokens-per-sample")
        for name, stack in zip(PARTS, (generator, discriminator), strict=True)
    ]
    reasons.append(_fit_head(state, hardness_head))
    return next(filter(None, reasons), "")


def _fit_head(state: Dict[str, Tensor], head: Optional[nn.Module]) -> str:
    theirs = [name for name in state if name.startswith(_HEAD)]
    if head is not None and not theirs:
        logger.info("the hardness head starts at random: the checkpoint has none")
        state.update({f"{_HEAD}{name}": value for name, value in head.state_dict().items()})
        state[f"{_HEAD}weight"] = state[_TABLE]  # tied: the model's own would overwrite the table
        return "the checkpoint's optimiser does not know a hardness head: give --hardness none"
    if head is None and theirs:
        logger.warning("the checkpoint's hardness head is left out: --hardness is none here")
        for name in theirs:
            del state[name]
        return "the checkpoint's optimiser knows a hardness head: give --hardness loss or dist"
    return ""

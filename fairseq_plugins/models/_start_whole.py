"""How a new `unilmv2_seq2seq` starts: with all of a masked language model, rows by symbol."""

import logging
from typing import Any, Dict

import torch
from torch import Tensor, nn

from ..checkpoints.encoder_to_decoder import layer_count
from ..checkpoints.own_dictionary import MASK
from ._build_moe import OptionError
from ._pretrained import read_pretrained
from ._pretrained_parts import Pretrained
from ._start import POSITIONS, TOKENS, compare_names, compare_shape, copy_positions, copy_rows, rows_by_symbol

logger = logging.getLogger(__name__)

_FLAG = "--pretrained-checkpoint"
_RELATIVE, _SEGMENTS = "relative_bias.weight", "embed_segments.weight"
_BIAS = "lm_head.bias"
_SWITCHES = ((_RELATIVE, "--relative-bias-buckets"), (_SEGMENTS, "--segments"))


@torch.no_grad()
def start_whole(stack: Any, cfg: Any, pseudo_mask: str) -> None:
    """Copy into `stack` all that --pretrained-checkpoint holds: embeddings, every layer and the head.

    A file that never learned `pseudo_mask` gives it `<mask>`'s row; symbols that it lacks otherwise stay as they were
    built.

    Args:
        stack: an encoder with `lm_head` and a dictionary.
        cfg: its options.
        pseudo_mask: the symbol.
    Raises:
        OptionError, CheckpointError: no such file, or a model of another shape; one sentence.
    """
    source = read_pretrained(cfg.pretrained_checkpoint, _FLAG)
    who = f"{_FLAG} {source.path}"
    if source.decoder:
        raise OptionError(f"{who} is an encoder-decoder: it must be a masked language model")
    compare_shape(source.encoder, "encoder", source, cfg, who)
    theirs, ours = source.encoder[TOKENS].size(1), cfg.embedding_dim or cfg.encoder_embed_dim
    if theirs != ours:
        raise OptionError(f"{who} needs --embedding-dim {theirs}, not {ours}")
    layers = layer_count(source.encoder)
    if layers != cfg.encoder_layers:
        raise OptionError(f"{who} has {layers} layers: it needs --encoder-layers {layers}, not {cfg.encoder_layers}")
    wanted = {**source.encoder, **{f"lm_head.{name}": value for name, value in source.head.items()}}
    parameters = dict(stack.named_parameters())
    _compare_switches(wanted, parameters, who)
    without_head = "" if source.head else "lm_head."
    compare_names(wanted, parameters, "encoder", without_head, who)
    if without_head:
        logger.warning(f"{who} has no head for masked tokens: that of the model starts at random")
    rows_W = rows_by_symbol(source, stack.dictionary, who)
    copied = _pseudo_mask_row(rows_W, source, stack.dictionary.index(pseudo_mask))
    positions = (
        f"--max-source-positions {cfg.max_source_positions} + --max-target-positions {cfg.max_target_positions} + 1, "
        "or --position-table,"
    )
    for name, value in wanted.items():
        parameter = parameters[name]
        if name in (TOKENS, _BIAS):
            copy_rows(parameter, value, rows_W)
        elif name == POSITIONS:
            copy_positions(parameter, value, stack.padding_idx, source.padding_idx, positions, who)
        elif parameter.shape != value.shape:
            raise OptionError(f"{who} has {name} of {tuple(value.shape)}, the model {tuple(parameter.shape)}")
        else:
            parameter.copy_(value)
    found = int((rows_W >= 0).sum())
    logger.info(f"{who}: {layers} layers, rows of {found} of {len(stack.dictionary)} symbols"
                f"{f', {pseudo_mask} as {MASK}' if copied else ''}")  # fmt: skip


def _compare_switches(wanted: Dict[str, Tensor], parameters: Dict[str, nn.Parameter], who: str) -> None:
    """Refuse a model that has a table which the other lacks, or one of another size, by the flag that decides it."""
    for name, flag in _SWITCHES:
        theirs, ours = (len(of[name]) if name in of else 0 for of in (wanted, parameters))
        if theirs != ours:
            raise OptionError(f"{who} needs {flag} {theirs}, not {ours}")
        if name in wanted and wanted[name].shape != parameters[name].shape:
            raise OptionError(f"{who} has {name} of {tuple(wanted[name].shape)}, the model "
                              f"{tuple(parameters[name].shape)}")  # fmt: skip


def _pseudo_mask_row(rows_W: Tensor, source: Pretrained, row: int) -> bool:
    """Let the pseudo-mask start from `<mask>` where the source never learned it, in place."""
    if source.pseudo_mask or MASK not in source.symbols:
        return False
    rows_W[row] = source.symbols.index(MASK)
    return True

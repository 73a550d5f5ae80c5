"""How a new training starts from what others trained: XLM-T (arXiv 2012.15547) and DeltaLM (arXiv 2106.13736)."""

import logging
from typing import Any, Dict, List, Mapping

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from ..checkpoints.encoder_to_decoder import interleaved_stack, layer_count, plain_stack, without_segments
from ..checkpoints.remap_symbols import source_rows
from ._build_moe import OptionError
from ._pretrained import EPS, Pretrained, read_pretrained

logger = logging.getLogger(__name__)

BOTTOM = "bottom"
TOKENS, POSITIONS = "embed_tokens.weight", "embed_positions.weight"
_PROJECT = "embed_project.weight"  # (D, E), of models whose tables are narrower than their layers
_OWN = "output_projection.weight"  # where it is a table of its own, no encoder can fill it


def check_start(cfg: Any) -> None:
    """Refuse `init_*` options that no file could satisfy. Reads no file: a model that only translates needs none.

    Raises:
        OptionError: one sentence that names the flag and its value.
    """
    for side in ("encoder", "decoder"):
        text = cfg[f"init_{side}_layers"]
        if text == BOTTOM:
            continue
        flag, wanted = f"--init-{side}-layers {text}", cfg[f"{side}_layers"]
        if not all(word.strip().isdecimal() for word in text.split(",")):
            raise OptionError(f"{flag} must be {BOTTOM} or numbers of layers from 0, such as 0,2,4")
        if not cfg[f"init_{side}"]:
            raise OptionError(f"{flag} needs --init-{side}")
        count, needed = len(text.split(",")), _per_layer(cfg, side) * wanted
        if count not in (wanted, needed):
            raise OptionError(f"{flag} names {count} layers; --{side}-layers {wanted} needs {needed}")


def start_from_pretrained(model: nn.Module, cfg: Any) -> None:
    """Copy into `model` what --init-encoder and --init-decoder name; what they lack stays as it was built.

    Where both sides share one token table, it becomes the encoder's.

    Args:
        model: with `encoder` and `decoder`, stacks with a dictionary.
        cfg: its options, checked.
    Raises:
        OptionError, CheckpointError: no such file, or a model of another shape; one sentence.
    """
    copies = str(cfg.init_cross_attention) == "self-attention"
    quiet = cfg.interleaved_ffn and not cfg.init_encoder  # a preset of DeltaLM that starts from nothing
    if copies and not cfg.init_decoder and not quiet:
        logger.warning("--init-cross-attention self-attention does nothing without --init-decoder")
    for side in ("decoder", "encoder"):
        if cfg[f"init_{side}"]:
            source = read_pretrained(cfg[f"init_{side}"], f"--init-{side}")
            _start_side(getattr(model, side), side, source, cfg)


def _per_layer(cfg: Any, side: str) -> int:
    """Layers of an encoder that make one of this side."""
    return 2 if side == "decoder" and cfg.interleaved_ffn else 1


@torch.no_grad()
def _start_side(stack: Any, side: str, source: Pretrained, cfg: Any) -> None:
    who = f"--init-{side} {source.path}"
    own_decoder = side == "decoder" and bool(source.decoder)
    given = _in_one_segment(_in_one_width(source.decoder if own_decoder else source.encoder, who), who)
    compare_shape(given, side, source, cfg, who)
    if str(cfg.residual) == "deepnorm":
        raise OptionError(f"{who} needs --residual post or pre: the skips of deepnorm depend on a model's own depth")
    per_layer = 1 if own_decoder else _per_layer(cfg, side)
    layers = _chosen_layers(cfg, side, layer_count(given), per_layer, who)
    cross = side == "decoder" and str(cfg.init_cross_attention) == "self-attention"
    if cross and own_decoder:
        cross = False
        if not cfg.interleaved_ffn:  # whose presets say so for those that start from an encoder
            logger.warning(f"--init-cross-attention self-attention does nothing: {who} has a decoder of its own")
    if per_layer == 2:
        wanted = interleaved_stack(given, layers, cross_attention=cross)
    else:
        wanted = plain_stack(given, layers, cross_attention=cross)
    parameters = {name: parameter for name, parameter in stack.named_parameters() if name != _OWN}
    compare_names(wanted, parameters, side, "" if own_decoder else "encoder_attn", who)
    for name, value in wanted.items():
        parameter = parameters[name]
        if name == TOKENS:
            found = copy_rows(parameter, value, rows_by_symbol(source, stack.dictionary, who))
        elif name == POSITIONS:
            flag = f"--max-{'source' if side == 'encoder' else 'target'}-positions"
            copy_positions(parameter, value, stack.padding_idx, source.padding_idx, flag, who)
        elif parameter.shape != value.shape:
            raise OptionError(f"{who} has {name} of {tuple(value.shape)}, the model's {side} {tuple(parameter.shape)}")
        else:
            parameter.copy_(value)
    logger.info(f"{who}: layers {layers}, rows of {found} of {len(stack.dictionary)} symbols"
                f"{', cross-attention too' if cross or own_decoder else ''}")  # fmt: skip


def _in_one_width(given: Dict[str, Tensor], who: str) -> Dict[str, Tensor]:
    """`given`, or OptionError: here tables are as wide as layers."""
    if _PROJECT in given:
        dim, width = given[_PROJECT].shape
        raise OptionError(f"{who} has embeddings of width {width} and layers of width {dim} (--embedding-dim): only a "
                          "model with one width for both can be a side of this one")  # fmt: skip
    return given


def _in_one_segment(given: Dict[str, Tensor], who: str) -> Dict[str, Tensor]:
    """The same function of a text in the first segment, without a segment table: there is none here."""
    try:
        alike = without_segments(given)
    except ValueError as error:
        raise OptionError(f"{who} does not fit: {error}") from None
    if len(alike) != len(given):
        logger.info(f"{who}: its first segment becomes part of every position")
    return alike


def compare_shape(given: Mapping[str, Tensor], side: str, source: Pretrained, cfg: Any, who: str) -> None:
    """Refuse a model of other widths or of a meaning that the tensors do not tell."""
    if source.norm_eps != EPS:
        logger.warning(f"{who}: its norms have an eps of {source.norm_eps}, those here {EPS}")
    hidden = "layers.0.feed_forward.fc1.weight"
    for name in (TOKENS, hidden):
        if name not in given:
            raise OptionError(f"{who} has no {name}: it is no dense Transformer of a layout that is known here")
    width = given[_PROJECT].size(0) if _PROJECT in given else given[TOKENS].size(1)
    heads = source.options.get(f"{side}_attention_heads", source.options.get("encoder_attention_heads"))
    for option, theirs in (
        (f"{side}_embed_dim", width),
        (f"{side}_ffn_embed_dim", given[hidden].size(0)),
        (f"{side}_attention_heads", heads),
        ("residual", source.options.get("residual")),
        ("activation_fn", source.options.get("activation_fn")),
        ("relative_bias_max_distance", source.options.get("relative_bias_max_distance")),
    ):
        flag = f"--{option.replace('_', '-')}"
        if theirs is not None and str(theirs) != str(cfg[option]):
            raise OptionError(f"{who} needs {flag} {theirs}, not {cfg[option]}")
    head_dim = cfg.attention_head_dim or cfg[f"{side}_embed_dim"] // cfg[f"{side}_attention_heads"]
    theirs, ours = (of.get("attention_temperature") or head_dim for of in (source.options, cfg))
    if theirs != ours:
        raise OptionError(f"{who} needs --attention-temperature {theirs:g}, not {ours:g}")
    scaled = not source.options.get("no_scale_embedding", True)
    if scaled == cfg.no_scale_embedding:
        raise OptionError(f"{who} needs a model {'without' if scaled else 'with'} --no-scale-embedding")


def _chosen_layers(cfg: Any, side: str, available: int, per_layer: int, who: str) -> List[int]:
    text, wanted = cfg[f"init_{side}_layers"], per_layer * cfg[f"{side}_layers"]
    chosen = list(range(wanted)) if text == BOTTOM else [int(word) for word in text.split(",")]
    if len(chosen) != wanted:
        raise OptionError(f"--init-{side}-layers {text} must name {wanted} layers of {who}")
    if max(chosen) >= available:
        flag = f"--{side}-layers {cfg[f'{side}_layers']}" if text == BOTTOM else f"--init-{side}-layers {text}"
        raise OptionError(f"{who} has {available} layers, too few for {flag}")
    return chosen


def compare_names(
    wanted: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], side: str, optional: str, who: str
) -> None:
    """Refuse a source that has other parts than the model; what holds `optional` in its name may be missing in it."""
    extra = next((name for name in wanted if name not in parameters), None)
    if extra is not None:
        raise OptionError(f"{who} has {extra}, for which the model's {side} has no place: they differ in their parts")
    lacking = (name for name in parameters if name not in wanted and not (optional and optional in name))
    missing = next(lacking, None)
    if missing is not None:
        raise OptionError(f"{who} has no {missing}, which the model's {side} has: they differ in their parts")


def rows_by_symbol(source: Pretrained, dictionary: Dictionary, who: str) -> Tensor:
    """For each symbol of `dictionary` its row in the source's table, -1 where there is none; (W,) long."""
    found = source_rows(source.symbols, list(dictionary.symbols))
    if not (found[dictionary.nspecial :] >= 0).any():
        raise OptionError(f"{who} shares no symbol with the data's dictionary: binarise the data with its pieces")
    found[dictionary.pad()] = -1  # padding's row stays zero
    return found


def copy_rows(parameter: nn.Parameter, table_VD: Tensor, found_W: Tensor) -> int:
    """Rows `found_W` of a table, where they are not -1, into a parameter of W rows; returns how many."""
    rows = (found_W >= 0).nonzero().flatten()
    parameter.index_copy_(0, rows.to(parameter.device), table_VD[found_W[rows]].to(parameter))
    return len(rows)


def copy_positions(
    parameter: nn.Parameter, table_PD: Tensor, padding_idx: int, their_padding_idx: int, flag: str, who: str
) -> None:
    """Both tables begin with rows that are never used; the first token's stands after padding's.

    Raises:
        OptionError: the file has too few; the message names `flag`.
    """
    longest, available = len(parameter) - padding_idx - 1, len(table_PD) - their_padding_idx - 1
    if longest > available:
        raise OptionError(f"{who} has {available} positions; {flag} {longest} must be at most that")
    first = their_padding_idx + 1
    parameter[padding_idx + 1 :].copy_(table_PD[first : first + longest])

"""A frozen encoder that lends its relations: any of this package, of stock fairseq, or of Hugging Face (MiniLM)."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import torch
from fairseq import models
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ..checkpoints.electra_parts import is_electra
from ..checkpoints.encoder_to_decoder import layer_count
from ..checkpoints.own_dictionary import is_text
from ..checkpoints.remap_symbols import source_rows
from ..compat import safe_load
from ..modules.attention import Projections
from ..modules.embedding import segment_embedding, token_embedding
from ._adapters import StackEncoder
from ._build import schemes, stack_arguments
from ._build_moe import OptionError
from ._config import TransformerMLMConfig, complete
from ._pretrained import Pretrained, checkpoint_file, from_checkpoint, from_huggingface_folder, options_of, symbols_of
from ._tables import TWO_MODELS

logger = logging.getLogger(__name__)

# B batch, T length, D model dim, W symbols of the data
_FLAG = "--teacher"
_TOKENS, _POSITIONS, _SEGMENTS = "embed_tokens.weight", "embed_positions.weight", "embed_segments.weight"
_OWN = __package__.split(".")[0]


class Teacher:
    """A plain object, no module: so it is in nobody's parameters, checkpoint or optimiser.

    Args:
        encoder: with its weights.
        rows_W: of each symbol of the data, the row of the teacher's table.
        number: layer that lends its relations, counted from 1.
        translates: whether it was trained on tagged sources.
    """

    def __init__(self, encoder: StackEncoder, rows_W: Tensor, number: int, translates: bool = False):
        self.encoder = encoder.eval().requires_grad_(False)
        self.rows_W, self.number, self.translates = rows_W, number, translates

    @torch.no_grad()
    def projections(self, src_tokens: Tensor, segments: Optional[Tensor] = None) -> Projections:
        """Queries, keys and values of texts in rows of the data's dictionary, (B, T), on their device: (B, T, D).

        `segments` are read where the teacher knows any.
        """
        if self.rows_W.device != src_tokens.device:
            self.rows_W = self.rows_W.to(src_tokens.device)
            self.encoder.to(src_tokens.device)
        table = self.encoder.embed_segments
        segments = None if table is None or segments is None else segments.clamp(max=table.num_embeddings - 1)
        with torch.autocast(src_tokens.device.type, enabled=False):  # its precision is --teacher-dtype
            return self.encoder.project(self.number, self.rows_W[src_tokens], segments)[1]["projections"]


def read_teacher(
    path: str, dictionary: Dictionary, *, layer: int = 0, dtype: torch.dtype = torch.float32, longest: int, minilm: bool
) -> Teacher:
    """Read a teacher for texts in rows of `dictionary`.

    Args:
        path: a checkpoint of this package or of fairseq, or a folder of fairseq's or Hugging Face's.
        dictionary: of the data.
        layer: which lends its relations, counted from 1; 0: that of the papers.
        dtype: what it computes in.
        longest: tokens of the longest text.
        minilm: whether it is MiniLM that asks, whose layer is the last in any case.
    Raises:
        OptionError, CheckpointError: it is missing, damaged, no encoder, too short or shallow, or lacks pieces of the
            data; one sentence.
    """
    found = _read(path, longest)
    who, encoder = f"{_FLAG} {path}", found.encoder.float()
    number = layer or _papers_layer(found, minilm)
    if not 0 < number <= encoder.attention_layers:
        raise OptionError(f"--teacher-layer {layer} must be from 1 to {encoder.attention_layers}, the layers of {who}, "
                          "or 0 for the papers' choice")  # fmt: skip
    if encoder.max_positions() < longest:
        raise OptionError(f"--tokens-per-sample {longest} must be at most {encoder.max_positions()}, the positions of "
                          f"{who}")  # fmt: skip
    rows_W = _rows(found, dictionary, who)
    logger.info(f"{who}: {encoder.attention_layers} layers of width {encoder.dim}, {encoder.attention_heads} heads; "
                f"relations of layer {number}, in {str(dtype).removeprefix('torch.')}")  # fmt: skip
    return Teacher(encoder.to(dtype), rows_W, number, found.translates)


class _Found(NamedTuple):
    encoder: StackEncoder
    symbols: List[str]
    translates: bool  # its encoder reads tagged sources
    kind: str = "roberta"  # or "bert"


def _papers_layer(found: _Found, minilm: bool) -> int:
    """MiniLMv2, Section 4: the last of base teachers, and of large ones (24 layers) an upper middle one."""
    layers = found.encoder.attention_layers
    return layers if minilm or layers != 24 else {"bert": 21, "roberta": 19}[found.kind]


def _rows(found: _Found, dictionary: Dictionary, who: str) -> Tensor:
    """For each symbol of the data the teacher's row; what is no text and the teacher lacks is <unk> to it."""
    rows_W = source_rows(found.symbols, dictionary.symbols)
    pieces = [symbol for symbol in dictionary.symbols if is_text(symbol)]
    lacking = [symbol for symbol, row in zip(dictionary.symbols, rows_W.tolist(), strict=True) if row < 0]
    lacking_pieces = [symbol for symbol in lacking if is_text(symbol)]
    if lacking_pieces:
        raise OptionError(f"{who} lacks {len(lacking_pieces)} of the {len(pieces)} pieces of the data, such as "
                          f"{', '.join(lacking_pieces[:3])}: binarise the data with the teacher's pieces")  # fmt: skip
    padding = int(rows_W[dictionary.pad()])
    if padding not in (-1, found.encoder.padding_idx):
        raise OptionError(f"{who} has its padding in row {found.encoder.padding_idx} by its configuration and in row "
                          f"{padding} by its dictionary: they do not belong together")  # fmt: skip
    specials = [dictionary[row] for row in (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk())]
    missing = [symbol for symbol in specials if symbol in lacking]
    if missing:
        raise OptionError(f"{who} has no {missing[0]}: it is no model for text as fairseq has it")
    if lacking:
        logger.warning(f"{who} lacks {len(lacking)} symbols that are no text, such as {lacking[0]}: it reads <unk>")
    rows_W[rows_W < 0] = rows_W[dictionary.unk()]
    return rows_W


# ---- where it comes from ---------------------------------------------------------------------------------------------


def _read(path: str, longest: int) -> _Found:
    file = checkpoint_file(path, _FLAG)
    if file is None:
        source = from_huggingface_folder(Path(path), _FLAG)
        return _Found(_foreign(source, longest, f"{_FLAG} {path}"), source.symbols, False, source.kind)
    saved, who = safe_load(file), f"{_FLAG} {file}"
    options = options_of(saved, "model") if isinstance(saved, dict) else {}
    name = str(options.get("_name") or options.get("arch"))
    model = models.ARCH_MODEL_REGISTRY.get(name)
    if model is not None and model.__module__.startswith(f"{_OWN}."):
        if name.startswith("unilmv2_seq2seq"):
            raise OptionError(f"{who} is of a {name}, which reads sources as no student does: give the masked language "
                              "model that it was trained from")  # fmt: skip
        return _own(model, options, saved, file, who)
    source = from_checkpoint(saved, file, _FLAG)
    return _Found(_foreign(source, longest, who), source.symbols, bool(source.decoder))


def _own(model: Any, options: Dict[str, Any], saved: Mapping[str, Any], file: Path, who: str) -> _Found:
    """The encoder of a checkpoint of this package, built by the options that it was trained with."""
    state = saved.get("model")
    table_VD = state.get(f"encoder.{_TOKENS}") if isinstance(state, dict) else None
    if isinstance(state, dict) and is_electra(state):
        raise OptionError(f"{who} {TWO_MODELS}")
    if not isinstance(table_VD, Tensor) or table_VD.dim() != 2:
        raise OptionError(f"{who} has no encoder: only masked language models and encoder-decoders have one")
    target_VD = state.get(f"decoder.{_TOKENS}")
    if target_VD is not None and len(target_VD) != len(table_VD):
        raise OptionError(f"{who} has two dictionaries: only models with one fit")
    symbols = symbols_of(saved, file, len(table_VD), target_VD is not None, who)
    dictionary = Dictionary()
    for symbol in symbols[dictionary.nspecial :]:
        dictionary.add_symbol(symbol)
    if dictionary.symbols != symbols:
        raise OptionError(f"{who} has a dictionary that names a symbol twice, or other specials than fairseq's")
    positions_PD = state.get(f"encoder.{_POSITIONS}")
    if options.get("max_source_positions") is None and isinstance(positions_PD, Tensor):  # the task's, by default
        options["max_source_positions"] = len(positions_PD) - dictionary.pad() - 1
    try:
        cfg = OmegaConf.create(options)
        trained = OmegaConf.create(options_of(saved, "task"))
        task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary, cfg=trained)
        built = model.build_model(cfg, task)
        built.load_state_dict(state, strict=True)
    except (AttributeError, KeyError, OmegaConfBaseException, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{who} is damaged: its weights are not those of the model that its options describe "
                          f"({str(error).splitlines()[-1].strip()[:200]})") from None  # fmt: skip
    return _Found(built.encoder, symbols, target_VD is not None)


def _foreign(source: Pretrained, longest: int, who: str) -> StackEncoder:
    """The encoder that others' tensors and options describe."""
    table_VD, options = source.encoder[_TOKENS], source.options
    heads, hidden = options.get("encoder_attention_heads"), source.encoder.get("layers.0.feed_forward.fc1.weight")
    if heads is None:
        raise OptionError(f"{who} does not say how many attention heads it has: it is no encoder that is known here")
    if hidden is None:
        raise OptionError(f"{who} has no dense feed-forward: it is no encoder of a layout that is known here")
    positions_PD, segments_SD = source.encoder.get(_POSITIONS), source.encoder.get(_SEGMENTS)
    learned = positions_PD is not None
    cfg = complete(
        OmegaConf.create(
            {
                "residual": options.get("residual", "pre" if "layer_norm.weight" in source.encoder else "post"),
                "activation_fn": options.get("activation_fn", "relu"),
                "no_scale_embedding": options.get("no_scale_embedding", False),
                "no_token_positional_embeddings": options.get("no_token_positional_embeddings", False),
                "layernorm_embedding": "layernorm_embedding.weight" in source.encoder,
                "encoder_learned_pos": learned,
                "encoder_layers": layer_count(source.encoder),
                "encoder_embed_dim": table_VD.size(1),
                "encoder_ffn_embed_dim": len(hidden),
                "encoder_attention_heads": heads,
                "max_source_positions": len(positions_PD) - source.padding_idx - 1 if learned else longest,
            }
        ),
        TransformerMLMConfig,
    )
    embed_tokens = token_embedding(*table_VD.shape, source.padding_idx)
    try:
        stack = stack_arguments(cfg, "encoder", schemes(cfg, encoder=True, decoder=False).encoder, embed_tokens)
        if segments_SD is not None:
            stack["embed_segments"] = segment_embedding(*segments_SD.shape)
        encoder = StackEncoder(Dictionary(), stack)
        encoder.load_state_dict(source.encoder, strict=True)
    except RuntimeError as error:  # of torch, whose last line names a tensor; of the engine for activations
        raise OptionError(f"{who} is no encoder of a layout that is known here: "
                          f"{str(error).splitlines()[-1].strip()[:200]}") from None  # fmt: skip
    for module in encoder.modules():
        if "normalized_shape" in vars(module):  # torch's norms and NVIDIA apex's
            module.eps = source.norm_eps
    return encoder

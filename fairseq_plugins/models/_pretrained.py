"""Reading what others trained: fairseq's XLM-R and RoBERTa, `transformer_mlm`, Hugging Face's folders, DeltaLM."""

import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from fairseq.data import Dictionary
from torch import Tensor

from ..checkpoints.deltalm_names import from_deltalm
from ..checkpoints.huggingface_names import from_huggingface
from ..checkpoints.roberta_names import from_roberta
from ..compat import safe_load
from ._build_moe import OptionError

logger = logging.getLogger(__name__)

_ROBERTA = {"residual": "post", "activation_fn": "gelu", "no_scale_embedding": True}
_HUGGING_FACE_MODELS = ("xlm-roberta", "roberta")
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
_EPS = 1e-5  # of every norm here


class Pretrained(NamedTuple):
    """A model that someone trained, in our names."""

    path: str
    encoder: Dict[str, Tensor]  # without the side: `layers.0.self_attn.q_proj.weight`
    decoder: Dict[str, Tensor]  # of an encoder-decoder, else empty
    options: Dict[str, Any]  # what tensors do not tell, as far as it is known, by our options' names
    symbols: Optional[List[str]]  # of the rows of the token tables; the last ones may be missing
    padding_idx: int


def read_pretrained(path: str, flag: str) -> Pretrained:
    """Read a file or folder that `flag` names.

    Args:
        path: a folder with model.pt (fairseq's XLM-R), or with config.json and model.safetensors or pytorch_model.bin
            (Hugging Face), or a checkpoint file of fairseq, of this package or of DeltaLM.
    Raises:
        OptionError, CheckpointError: nothing there, or nothing that can be read; one sentence.
    """
    place = Path(path)
    if not place.exists():
        raise OptionError(f"{flag} {path} does not exist; give a checkpoint, or a folder that holds one")
    if place.name in _HUGGING_FACE_FILES:
        place = place.parent
    if place.is_file():
        return _from_checkpoint(place, flag)
    if (place / "config.json").is_file():
        return _from_huggingface(place, flag)
    if (place / "model.pt").is_file():
        return _from_checkpoint(place / "model.pt", flag)
    raise OptionError(
        f"{flag} {path} holds neither model.pt (fairseq) nor config.json (Hugging Face); name the checkpoint itself"
    )


# ---- fairseq ---------------------------------------------------------------------------------------------------------


def _from_checkpoint(path: Path, flag: str) -> Pretrained:
    saved = safe_load(path)
    saved = saved if isinstance(saved, dict) else {}
    state = saved.get("model", saved.get("weights"))
    if not isinstance(state, dict):
        raise OptionError(f"{flag} {path} has neither 'model' (fairseq) nor 'weights' (DeltaLM): it is no checkpoint")
    options = _options(saved, "model")
    if "model" not in saved:
        named, known = from_deltalm(state), dict(_ROBERTA)
    elif any(".sentence_encoder." in name for name in state):
        named, known = from_roberta(state), dict(_ROBERTA)
    else:
        named, known = from_roberta(state), {key: options[key] for key in _ROBERTA if key in options}
    encoder, decoder = _side(named, "encoder."), _side(named, "decoder.")
    if "layer_norm.weight" in encoder and known.get("residual") == "post":
        known["residual"] = "pre"
    for name in ("encoder_attention_heads", "decoder_attention_heads", "activation_fn"):
        if options.get(name):
            known[name] = options[name]
    if not encoder:
        raise OptionError(f"{flag} {path} has no encoder: only masked language models and encoder-decoders have one")
    symbols = _dictionary_of(path, _options(saved, "task"), flag)
    padding = 1 if symbols is None else symbols.index("<pad>")
    return Pretrained(str(path), encoder, decoder, known, symbols, padding)


def _options(saved: Mapping[str, Any], part: str) -> Dict[str, Any]:
    """One part of a checkpoint's options, empty where it has none. Old ones hold one Namespace for everything."""
    stored = (saved.get("cfg") or {}).get(part) or saved.get("args") or {}
    return dict(vars(stored)) if isinstance(stored, Namespace) else dict(stored)


def _side(state: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """What a stack holds; heads of language models are no part of it."""
    stack = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in stack.items() if not name.startswith(("lm_head.", "output_projection."))}


def _dictionary_of(path: Path, task: Mapping[str, Any], flag: str) -> Optional[List[str]]:
    """The symbols of dict.txt beside a checkpoint, or in the data folder that it was trained from if that is there."""
    data = str(task.get("data") or "").split(":")[0]
    for folder in (path.parent, *([Path(data)] if data else [])):
        if (folder / "dict.txt").is_file():
            return _symbols(folder / "dict.txt", flag)
    return None


def _symbols(path: Path, flag: str) -> List[str]:
    try:
        return list(Dictionary.load(str(path)).symbols)
    except Exception as error:  # the engine's own kinds for every kind of damage
        raise OptionError(f"{flag}: {path} is no dictionary of fairseq: {error}") from None


# ---- Hugging Face ----------------------------------------------------------------------------------------------------


def _from_huggingface(folder: Path, flag: str) -> Pretrained:
    config = _json(folder / "config.json", flag)
    kind = config.get("model_type")
    if kind not in _HUGGING_FACE_MODELS:
        fitting = " and ".join(_HUGGING_FACE_MODELS)
        raise OptionError(f"{flag} {folder} holds a model of type {kind}: only {fitting} have XLM-R's layout")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise OptionError(f"{flag} {folder} has {config['position_embedding_type']} positions: only absolute ones fit")
    if config.get("layer_norm_eps", _EPS) != _EPS:
        logger.warning(f"{flag} {folder}: its norms have an eps of {config['layer_norm_eps']}, those here {_EPS}")
    encoder = _side(from_huggingface(_huggingface_state(folder, flag)), "encoder.")
    if not encoder:
        raise OptionError(f"{flag} {folder} has no parameters of a RoBERTa or XLM-R encoder")
    known = {**_ROBERTA, "activation_fn": config.get("hidden_act", "gelu")}
    if config.get("num_attention_heads"):
        known["encoder_attention_heads"] = config["num_attention_heads"]
    symbols = _huggingface_symbols(folder, flag)
    return Pretrained(str(folder), encoder, {}, known, symbols, config.get("pad_token_id", 1))


def _huggingface_state(folder: Path, flag: str) -> Dict[str, Tensor]:
    if (folder / "model.safetensors").is_file():
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ModuleNotFoundError:
            raise OptionError(
                f"{flag} {folder} holds model.safetensors, which needs the package safetensors: pip install safetensors"
            ) from None
        try:
            return load_file(folder / "model.safetensors")
        except (SafetensorError, OSError) as error:
            raise OptionError(f"{flag} {folder / 'model.safetensors'} is truncated or damaged: {error}") from None
    if (folder / "pytorch_model.bin").is_file():
        return safe_load(folder / "pytorch_model.bin")
    raise OptionError(f"{flag} {folder} has config.json and neither model.safetensors nor pytorch_model.bin beside it")


def _huggingface_symbols(folder: Path, flag: str) -> Optional[List[str]]:
    """Symbols by row: dict.txt of fairseq, which has the same rows, or the tokenizer's vocabulary."""
    if (folder / "dict.txt").is_file():
        return _symbols(folder / "dict.txt", flag)
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = _json(folder / "tokenizer.json", flag)
    vocabulary = tokenizer.get("model", {}).get("vocab")
    if not isinstance(vocabulary, list):  # a RoBERTa's byte-level pieces, which are no symbols of ours
        return None
    rows = dict(enumerate(piece for piece, _ in vocabulary))
    rows.update((token["id"], token["content"]) for token in tokenizer.get("added_tokens", []))
    return [rows.get(row, "") for row in range(1 + max(rows))]


def _json(path: Path, flag: str) -> Dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{flag} {path} cannot be read: {error}") from None

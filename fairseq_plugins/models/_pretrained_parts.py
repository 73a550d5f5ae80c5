"""What readers of others' models share: the model in our names, checks of its parameters, the symbols of its rows."""

import hashlib
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from fairseq.data import Dictionary
from torch import Tensor

from ..checkpoints.own_dictionary import dictionary_files, rows_of_task
from ._build_moe import OptionError

logger = logging.getLogger(__name__)

EPS = 1e-5  # of every norm here
ROBERTA = {"residual": "post", "activation_fn": "gelu", "no_scale_embedding": True}
MASKED_LM = {"task": "masked_lm"}  # what every encoder without a decoder was trained for: <mask> is its last row
BESIDE = "put the dict.txt that it was trained with beside it"
TOKENS, POSITIONS = "embed_tokens.weight", "embed_positions.weight"
_TABLES = (TOKENS, POSITIONS, "embed_segments.weight", "layers.0.feed_forward.fc1.weight")


class Pretrained(NamedTuple):
    """A model that someone trained, in our names."""

    path: str
    encoder: Dict[str, Tensor]  # without the side: `layers.0.self_attn.q_proj.weight`
    decoder: Dict[str, Tensor]  # of an encoder-decoder, else empty
    options: Dict[str, Any]  # what tensors do not tell, as far as it is known, by our options' names
    symbols: List[str]  # of the rows of the token tables; only DeltaLM's may have more rows
    padding_idx: int
    pseudo_mask: bool = False  # whether it learned what <pseudo_mask> means
    head: Dict[str, Tensor] = {}  # of a masked language model, without the rows that it shares: `dense.weight`
    norm_eps: float = EPS
    kind: str = "roberta"  # or "bert"


def options_of(saved: Mapping[str, Any], part: str) -> Dict[str, Any]:
    """One part of a checkpoint's options, empty where it has none. Old ones hold one Namespace for everything."""
    cfg = saved.get("cfg")
    stored = (cfg.get(part) if isinstance(cfg, Mapping) else None) or saved.get("args")
    if isinstance(stored, Namespace):
        return dict(vars(stored))
    return dict(stored) if isinstance(stored, Mapping) else {}


def read_json(path: Path, what: str) -> Dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{what}: {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f"{what}: {path} is damaged: it is no JSON object; copy it again")
    return value


# ---- parameters ------------------------------------------------------------------------------------------------------


def stacks_of(
    translate: Callable[[Dict[str, Tensor]], Dict[str, Tensor]], state: Any, what: str
) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Encoder and decoder in our names, after a look at whether they are parameters at all."""
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise OptionError(f"{what} is damaged or no model: it must hold tensors by name; copy it again")
    try:
        named = translate(state)
    except (IndexError, RuntimeError, TypeError, ValueError):  # of slices and sums of tensors with too few dimensions
        raise OptionError(f"{what} is damaged: its parameters have shapes that no Transformer's have") from None
    encoder, decoder = _side(named, "encoder."), _side(named, "decoder.")
    for stack in (encoder, decoder):
        for name in _TABLES:
            if name in stack and stack[name].dim() != 2:
                raise OptionError(f"{what} is damaged: {name} has shape {tuple(stack[name].shape)}, not rows x columns")
    return encoder, decoder


def _side(state: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """What a stack holds; heads of language models are no part of it."""
    stack = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in stack.items() if not name.startswith(("lm_head.", "output_projection."))}


def row_count(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], what: str) -> int:
    """How many symbols a model knows."""
    if TOKENS not in encoder:
        raise OptionError(f"{what} has no {TOKENS}: it is no dense Transformer of a layout that is known here")
    rows = len(encoder[TOKENS])
    if TOKENS in decoder and len(decoder[TOKENS]) != rows:
        raise OptionError(f"{what} has {rows} rows for its source and {len(decoder[TOKENS])} for its target: only "
                          "models with one dictionary fit")  # fmt: skip
    return rows


# ---- symbols ---------------------------------------------------------------------------------------------------------


def symbols_of(saved: Mapping[str, Any], path: Path, rows: int, translates: bool, what: str) -> List[str]:
    """The symbols of a checkpoint's rows, from the dictionary that it was trained with.

    Args:
        saved: the checkpoint, read from `path`.
        rows: of its token table.
        translates: whether it has a decoder; every other encoder learned with `<mask>` as its last row.
        what: the flag and the file, for messages.
    Raises:
        OptionError: no such dictionary is there.
    """
    task, deltalm = options_of(saved, "task"), "model" not in saved
    files = [path.parent / "dict.txt"] if deltalm else dictionary_files(path, task)
    bound = _bound_hash(saved) or _manifest_hash(path.parent / "dict.txt", what)
    return dictionary_of(files, bound, rows, task if translates else MASKED_LM, what, deltalm)


def dictionary_of(
    files: Sequence[Path], bound: Optional[str], rows: int, task: Mapping[str, Any], what: str, spare: bool = False
) -> List[str]:
    """The symbols of a model's rows, from the first file that can be its dictionary. Nothing else names the rows.

    Args:
        files: where it may lie.
        bound: sha256 that it must have, where the model says so; otherwise a manifest beside the dictionary may.
        rows: of the model's token table.
        task: its options, for what it appended.
        what: the flag and the model, for messages.
        spare: the model may have more rows than its dictionary.
    """
    problems = []
    for file in filter(Path.is_file, files):
        if (bound or _manifest_hash(file, what)) not in (None, hashlib.sha256(file.read_bytes()).hexdigest()):
            problems.append(f"{file} is not the file that manifest.json or the checkpoint describes")
            continue
        symbols = rows_of_task(_read_symbols(file, what), rows, task)
        if len(symbols) == rows:
            return symbols
        if spare and len(symbols) < rows:
            logger.warning(f"{what} has {rows - len(symbols)} rows more than {file}, which are left out")
            return symbols
        problems.append(f"{file} has {len(symbols)}")
    found = f" ({'; '.join(dict.fromkeys(problems))})" if problems else ""
    raise OptionError(f"{what} has {rows} rows, and no dictionary says of which symbols{found}; {BESIDE}")


def _read_symbols(path: Path, what: str) -> List[str]:
    try:
        return list(Dictionary.load(str(path)).symbols)
    except Exception as error:  # the engine's own kinds for every kind of damage
        raise OptionError(f"{what}: {path} is no dictionary of fairseq: {error}") from None


def _bound_hash(saved: Mapping[str, Any]) -> Optional[str]:
    """sha256 of its dictionary that `average` has written into a checkpoint."""
    extra = saved.get("extra_state")
    return _hash_in(extra.get("fairseq_plugins"), "dict.txt") if isinstance(extra, Mapping) else None


def _manifest_hash(file: Path, what: str) -> Optional[str]:
    """What a manifest.json of this package beside a dictionary says of it."""
    manifest = file.with_name("manifest.json")
    return _hash_in(read_json(manifest, what), file.name) if manifest.is_file() else None


def _hash_in(record: Any, name: str) -> Optional[str]:
    hashes = record.get("sha256") if isinstance(record, Mapping) else None
    return hashes.get(name) if isinstance(hashes, Mapping) else None

"""Reading what others trained: fairseq's XLM-R and RoBERTa, `transformer_mlm`, Hugging Face's folders, DeltaLM."""

import hashlib
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch.nn.functional as F
from fairseq.data import Dictionary
from torch import Tensor

from ..checkpoints.deltalm_names import from_deltalm
from ..checkpoints.electra_parts import is_electra
from ..checkpoints.huggingface_names import ACTIVATIONS, from_huggingface, our_activation
from ..checkpoints.own_dictionary import MASK, dictionary_files, rows_of_task
from ..checkpoints.roberta_names import from_roberta
from ..compat import safe_load
from ._build_moe import OptionError
from ._tables import TWO_MODELS

logger = logging.getLogger(__name__)

_ROBERTA = {"residual": "post", "activation_fn": "gelu", "no_scale_embedding": True}
# model_type -> --residual
_HUGGING_FACE_MODELS = {"xlm-roberta": "post", "roberta": "post", "roberta-prelayernorm": "pre", "bert": "post"}
_BERT_SYMBOLS = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": MASK}
_HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
_HEAD = "encoder.lm_head."
EPS = 1e-5  # of every norm here
_TOKENS = "embed_tokens.weight"
_POSITIONS = "embed_positions.weight"
_TABLES = (_TOKENS, _POSITIONS, "embed_segments.weight", "layers.0.feed_forward.fc1.weight")
_MASKED_LM = {"task": "masked_lm"}  # what every encoder without a decoder was trained for: <mask> is its last row
_BESIDE = "put the dict.txt that it was trained with beside it"


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


def read_pretrained(path: str, flag: str) -> Pretrained:
    """Read a file or folder that `flag` names.

    Args:
        path: a folder with model.pt (fairseq's XLM-R), or with config.json and model.safetensors or pytorch_model.bin
            (Hugging Face), or a checkpoint file of fairseq, of this package or of DeltaLM.
    Raises:
        OptionError, CheckpointError: nothing there, or nothing that can be read; one sentence.
    """
    file = checkpoint_file(path, flag)
    return from_huggingface_folder(Path(path), flag) if file is None else from_checkpoint(safe_load(file), file, flag)


def checkpoint_file(path: str, flag: str) -> Optional[Path]:
    """The checkpoint that `flag` names, itself or by its folder; None for a folder of Hugging Face's.

    Raises:
        OptionError: nothing there, or no model in it.
    """
    place = Path(path)
    if not place.exists():
        raise OptionError(f"{flag} {path} does not exist; give a checkpoint, or a folder that holds one")
    if place.name in _HUGGING_FACE_FILES:
        place = place.parent
    if place.is_file():
        return place
    if (place / "config.json").is_file():
        return None
    if (place / "model.pt").is_file():
        return place / "model.pt"
    raise OptionError(
        f"{flag} {path} holds neither model.pt (fairseq) nor config.json (Hugging Face); name the checkpoint itself"
    )


# ---- fairseq ---------------------------------------------------------------------------------------------------------


def from_checkpoint(saved: Any, path: Path, flag: str) -> Pretrained:
    """What `saved` holds, which was read from the file `path` that `flag` names.

    Raises:
        OptionError: no model, or none that fits; one sentence.
    """
    saved = saved if isinstance(saved, dict) else {}
    state = saved.get("model", saved.get("weights"))
    if not isinstance(state, dict):
        raise OptionError(f"{flag} {path} has neither 'model' (fairseq) nor 'weights' (DeltaLM): it is no checkpoint")
    options, deltalm, what = options_of(saved, "model"), "model" not in saved, f"{flag} {path}"
    if is_electra(state):
        raise OptionError(f"{what} {TWO_MODELS}")
    encoder, decoder = _stacks(from_deltalm if deltalm else from_roberta, state, what)
    if deltalm or any(".sentence_encoder." in name for name in state):
        known = dict(_ROBERTA)
    else:
        known = {key: options[key] for key in (*_ROBERTA, "no_token_positional_embeddings") if key in options}
    if "layer_norm.weight" in encoder and known.get("residual") == "post":
        known["residual"] = "pre"
    for name in ("encoder_attention_heads", "decoder_attention_heads", "activation_fn", "attention_temperature"):
        if options.get(name):
            known[name] = options[name]
    if "relative_bias.weight" in encoder and "relative_bias_max_distance" in options:
        known["relative_bias_max_distance"] = options["relative_bias_max_distance"]
    if not encoder:
        raise OptionError(f"{what} has no encoder: only masked language models and encoder-decoders have one")
    task = options_of(saved, "task")
    symbols = symbols_of(saved, path, _rows(encoder, decoder, what), bool(decoder), what)
    head = {} if decoder else _head(state)
    return Pretrained(
        str(path), encoder, decoder, known, symbols, symbols.index("<pad>"), _knows_pseudo_mask(saved, task), head
    )


def _knows_pseudo_mask(saved: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Every prepared dictionary has the symbol; only some trainings had it in their text."""
    if str(options_of(saved, "model").get("_name")).startswith("unilmv2_seq2seq"):
        return True
    return task.get("_name") == "pseudo_masked_lm" and "par" in task.get("objectives", "ae,par")


def options_of(saved: Mapping[str, Any], part: str) -> Dict[str, Any]:
    """One part of a checkpoint's options, empty where it has none. Old ones hold one Namespace for everything."""
    cfg = saved.get("cfg")
    stored = (cfg.get(part) if isinstance(cfg, Mapping) else None) or saved.get("args")
    if isinstance(stored, Namespace):
        return dict(vars(stored))
    return dict(stored) if isinstance(stored, Mapping) else {}


# ---- parameters ------------------------------------------------------------------------------------------------------


def _stacks(
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


def _head(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The head of a masked language model of fairseq, without the token table that is its last layer."""
    head = {name: value for name, value in from_roberta(state).items() if name.startswith(_HEAD)}
    return {name.removeprefix(_HEAD): value for name, value in head.items() if name != f"{_HEAD}weight"}


def _rows(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], what: str) -> int:
    """How many symbols a model knows."""
    if _TOKENS not in encoder:
        raise OptionError(f"{what} has no {_TOKENS}: it is no dense Transformer of a layout that is known here")
    rows = len(encoder[_TOKENS])
    if _TOKENS in decoder and len(decoder[_TOKENS]) != rows:
        raise OptionError(f"{what} has {rows} rows for its source and {len(decoder[_TOKENS])} for its target: only "
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
    return _dictionary(files, bound, rows, task if translates else _MASKED_LM, what, deltalm)


def _dictionary(
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
    raise OptionError(f"{what} has {rows} rows, and no dictionary says of which symbols{found}; {_BESIDE}")


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
    return _hash_in(_json(manifest, what), file.name) if manifest.is_file() else None


def _hash_in(record: Any, name: str) -> Optional[str]:
    hashes = record.get("sha256") if isinstance(record, Mapping) else None
    return hashes.get(name) if isinstance(hashes, Mapping) else None


# ---- Hugging Face ----------------------------------------------------------------------------------------------------


def from_huggingface_folder(folder: Path, flag: str) -> Pretrained:
    """The RoBERTa, XLM-R or BERT in a folder that `flag` names.

    Raises:
        OptionError, CheckpointError: another model, or damaged files; one sentence.
    """
    folder = folder.parent if folder.name in _HUGGING_FACE_FILES else folder
    what = f"{flag} {folder}"
    config = _json(folder / "config.json", what)
    kind = config.get("model_type")
    padding, eps = config.get("pad_token_id", 0 if kind == "bert" else 1), config.get("layer_norm_eps")
    if not isinstance(kind, str) or kind not in _HUGGING_FACE_MODELS:
        fitting = ", ".join(_HUGGING_FACE_MODELS)
        raise OptionError(f"{what} holds a model of type {kind}: only those of {fitting} have a layout that fits")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise OptionError(f"{what} has {config['position_embedding_type']} positions: only absolute ones fit")
    if not isinstance(padding, int) or padding < 0:
        raise OptionError(f"{what}: config.json gives {padding} as pad_token_id; it must be a row, 1 for XLM-R")
    eps = 1e-12 if eps is None else eps  # what their software takes it to be
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps > 0:
        raise OptionError(f"{what}: config.json gives {eps} as layer_norm_eps; it must be a small number")
    encoder, _ = _stacks(from_huggingface, _huggingface_state(folder, flag), what)
    if not encoder:
        raise OptionError(f"{what} has no parameters of a BERT, RoBERTa or XLM-R encoder")
    activation = our_activation(config.get("hidden_act", "gelu"))
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise OptionError(f"{what} has {activation} as its activation, which no encoder here has")
    known = {**_ROBERTA, "residual": _HUGGING_FACE_MODELS[kind], "activation_fn": activation}
    if config.get("num_attention_heads"):
        known["encoder_attention_heads"] = config["num_attention_heads"]
    symbols = _huggingface_symbols(folder, _rows(encoder, {}, what), kind, what)
    if kind == "bert" and "<pad>" in symbols:  # whatever config.json says: its positions do not depend on it
        padding = symbols.index("<pad>")
    if kind == "bert" and _POSITIONS in encoder:  # its first row is the first token's: no padding's stands before
        encoder[_POSITIONS] = F.pad(encoder[_POSITIONS], (0, 0, padding + 1, 0))
    return Pretrained(
        str(folder), encoder, {}, known, symbols, padding, norm_eps=eps, kind="bert" if kind == "bert" else "roberta"
    )


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


def _huggingface_symbols(folder: Path, rows: int, kind: str, what: str) -> List[str]:
    """Symbols by row: dict.txt of fairseq, which has the same rows, or those of the tokenizer.

    BERT's first rows are others than those that fairseq gives its dictionaries.
    """
    symbols = None
    if kind == "bert" or not (folder / "dict.txt").is_file():
        symbols = _tokenizer_symbols(folder / "tokenizer.json", what)
        if symbols is None and kind == "bert":
            symbols = _bert_symbols(folder / "vocab.txt", what)
            if symbols is None:
                raise OptionError(f"{what} has no vocab.txt: put that which it was trained with beside it")
        if symbols is None and kind == "xlm-roberta":
            symbols = _sentencepiece_symbols(folder / "sentencepiece.bpe.model", what)
    if symbols is None:
        return _dictionary([folder / "dict.txt"], None, rows, _MASKED_LM, what)
    if len(symbols) != rows:
        raise OptionError(f"{what} has {rows} rows and its tokenizer {len(symbols)}: they do not belong together; "
                          f"{_BESIDE}")  # fmt: skip
    return symbols


def _tokenizer_symbols(path: Path, what: str) -> Optional[List[str]]:
    """None without such a file, and for a RoBERTa's, whose byte-level pieces are no symbols of ours."""
    tokenizer = _json(path, what) if path.is_file() else {}
    try:
        vocabulary = tokenizer.get("model", {}).get("vocab")
        if isinstance(vocabulary, dict) and tokenizer["model"].get("type") == "WordPiece":
            pieces = sorted(vocabulary, key=vocabulary.__getitem__)
            return [_BERT_SYMBOLS.get(piece, piece) for piece in pieces]
        if not isinstance(vocabulary, list):
            return None
        named = dict(enumerate(piece for piece, _ in vocabulary))
        named.update((token["id"], token["content"]) for token in tokenizer.get("added_tokens") or [])
        return [named[row] for row in range(len(named))]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise OptionError(f"{what}: {path} is damaged: it has no list of pieces by number; copy it again") from None


def _bert_symbols(path: Path, what: str) -> Optional[List[str]]:
    """BERT's word pieces, its special ones under fairseq's names."""
    if not path.is_file():
        return None
    try:
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise OptionError(f"{what}: {path} cannot be read: {error}") from None
    return [_BERT_SYMBOLS.get(piece, piece) for piece in pieces]


def _sentencepiece_symbols(path: Path, what: str) -> Optional[List[str]]:
    """XLM-R's rows: fairseq's four specials, the pieces behind the model's own three, and <mask>."""
    if not path.is_file():
        return None
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        pieces = [model.id_to_piece(number) for number in range(model.get_piece_size())]
    except (OSError, RuntimeError) as error:
        raise OptionError(f"{what}: {path} is no SentencePiece model: {str(error).splitlines()[0]}") from None
    if pieces[:3] != ["<unk>", "<s>", "</s>"]:
        raise OptionError(f"{what}: {path} begins with {' '.join(pieces[:3])}, not as XLM-R's; {_BESIDE}")
    return ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], MASK]


def _json(path: Path, what: str) -> Dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{what}: {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f"{what}: {path} is damaged: it is no JSON object; copy it again")
    return value

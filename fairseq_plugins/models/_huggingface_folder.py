"""Reading folders of Hugging Face's transformers: BERT, RoBERTa, XLM-R and pre-norm RoBERTa."""

from pathlib import Path
from typing import Dict, List, Optional

import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.huggingface_names import ACTIVATIONS, from_huggingface, our_activation
from ..checkpoints.own_dictionary import MASK
from ..compat import safe_load
from ._build_moe import OptionError
from ._pretrained_parts import (
    BESIDE,
    MASKED_LM,
    POSITIONS,
    ROBERTA,
    Pretrained,
    dictionary_of,
    read_json,
    row_count,
    stacks_of,
)

# model_type -> --residual
_MODELS = {"xlm-roberta": "post", "roberta": "post", "roberta-prelayernorm": "pre", "bert": "post"}
_BERT_SYMBOLS = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": MASK}
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")


def from_huggingface_folder(folder: Path, flag: str) -> Pretrained:
    """The RoBERTa, XLM-R or BERT in a folder that `flag` names.

    Raises:
        OptionError, CheckpointError: another model, or damaged files; one sentence.
    """
    folder = folder.parent if folder.name in HUGGING_FACE_FILES else folder
    what = f"{flag} {folder}"
    config = read_json(folder / "config.json", what)
    kind = config.get("model_type")
    padding, eps = config.get("pad_token_id", 0 if kind == "bert" else 1), config.get("layer_norm_eps")
    if not isinstance(kind, str) or kind not in _MODELS:
        fitting = ", ".join(_MODELS)
        raise OptionError(f"{what} holds a model of type {kind}: only those of {fitting} have a layout that fits")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise OptionError(f"{what} has {config['position_embedding_type']} positions: only absolute ones fit")
    if not isinstance(padding, int) or padding < 0:
        raise OptionError(f"{what}: config.json gives {padding} as pad_token_id; it must be a row, 1 for XLM-R")
    eps = 1e-12 if eps is None else eps  # what their software takes it to be
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps > 0:
        raise OptionError(f"{what}: config.json gives {eps} as layer_norm_eps; it must be a small number")
    encoder, _ = stacks_of(from_huggingface, _state(folder, flag), what)
    if not encoder:
        raise OptionError(f"{what} has no parameters of a BERT, RoBERTa or XLM-R encoder")
    activation = our_activation(config.get("hidden_act", "gelu"))
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise OptionError(f"{what} has {activation} as its activation, which no encoder here has")
    known = {**ROBERTA, "residual": _MODELS[kind], "activation_fn": activation}
    if config.get("num_attention_heads"):
        known["encoder_attention_heads"] = config["num_attention_heads"]
    symbols = _symbols(folder, row_count(encoder, {}, what), kind, what)
    if kind == "bert" and "<pad>" in symbols:  # whatever config.json says: its positions do not depend on it
        padding = symbols.index("<pad>")
    if kind == "bert" and POSITIONS in encoder:  # its first row is the first token's: no padding's stands before
        encoder[POSITIONS] = F.pad(encoder[POSITIONS], (0, 0, padding + 1, 0))
    return Pretrained(
        str(folder), encoder, {}, known, symbols, padding, norm_eps=eps, kind="bert" if kind == "bert" else "roberta"
    )


def _state(folder: Path, flag: str) -> Dict[str, Tensor]:
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


def _symbols(folder: Path, rows: int, kind: str, what: str) -> List[str]:
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
        return dictionary_of([folder / "dict.txt"], None, rows, MASKED_LM, what)
    if len(symbols) != rows:
        raise OptionError(f"{what} has {rows} rows and its tokenizer {len(symbols)}: they do not belong together; "
                          f"{BESIDE}")  # fmt: skip
    return symbols


def _tokenizer_symbols(path: Path, what: str) -> Optional[List[str]]:
    """None without such a file, and for a RoBERTa's, whose byte-level pieces are no symbols of ours."""
    tokenizer = read_json(path, what) if path.is_file() else {}
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
        raise OptionError(f"{what}: {path} begins with {' '.join(pieces[:3])}, not as XLM-R's; {BESIDE}")
    return ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:], MASK]

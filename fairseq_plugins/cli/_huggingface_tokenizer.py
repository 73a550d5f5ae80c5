"""A prepared folder's SentencePiece model and dictionary as tokenizer.json of Hugging Face's tokenizers.

The numbers it gives are rows of the dictionary, as `opus100 encode` and `prepare` have them.
"""

import base64
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from fairseq_plugins.checkpoints.own_dictionary import is_text
from fairseq_plugins.cli._sentencepiece_file import SentencePieceFile, read_sentencepiece, replaced_by_space
from fairseq_plugins.data.symbols import BOS_ROW, EOS_ROW, MASK, PAD_ROW, SPECIALS, UNK_ROW

_SPACE = "\u2581"  # how SentencePiece writes one
_NAMES = {"bos": BOS_ROW, "cls": BOS_ROW, "eos": EOS_ROW, "sep": EOS_ROW, "unk": UNK_ROW, "pad": PAD_ROW}


class Tokenizer(NamedTuple):
    """Two files of a folder of transformers."""

    tokenizer: Dict[str, Any]  # of tokenizer.json
    config: Dict[str, Any]  # of tokenizer_config.json
    notices: List[str]  # where it may cut text in another way


def huggingface_tokenizer(
    model: bytes, symbols: Sequence[str], *, begins: bool, segments: int, longest: int
) -> Tokenizer:
    """Make both files.

    Every row that is no piece of text is a symbol to write in a text: `<mask>`, tags of languages.

    Args:
        model: of SentencePiece.
        symbols: of the dictionary, row 0 first.
        begins: whether a text begins with `<s>`.
        segments: rows of the model's table of segments.
        longest: rows of a text, at most.
    Raises:
        ValueError: a model that has no such form, or rows that are no pieces of it.
    """
    file = read_sentencepiece(model)
    row_of = {symbol: row for row, symbol in enumerate(symbols)}
    scores = dict(file.pieces)
    stray = [symbol for symbol in symbols if symbol not in scores and is_text(symbol)]
    if stray:
        raise ValueError(f"it has no piece {stray[0]!r}, which has a row in the dictionary")
    known = {piece: score for piece, score in file.pieces if row_of.get(piece, UNK_ROW) != UNK_ROW}
    kept = {piece: score for piece, score in known.items() if is_text(piece)}
    notices = []
    if len(kept) < len(scores):
        notices.append(f"{len(scores) - len(kept)} pieces of the SentencePiece model have no row of their own; text "
                       "that has them may be cut in another way by transformers")  # fmt: skip
    steps = _normalisation(file)
    if any(step["type"] == "Precompiled" for step in steps):
        notices.append("transformers normalises a letter with its marks at a time, SentencePiece a sentence (nmt_nfkc "
                       "and the like): text with rare sequences of marks may be cut in another way")  # fmt: skip
    splits = all(_SPACE not in piece[1:] for piece in kept)
    added = [{"id": row, "content": symbol, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for row, symbol in enumerate(symbols) if symbol not in kept]  # fmt: skip
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": _metaspace("never", splits),
        "post_processor": _template(begins, segments),
        "decoder": _metaspace("always", splits),
        "model": (_bpe if file.bpe else _unigram)(kept, symbols),
    }
    inputs = ["input_ids", *(["token_type_ids"] if segments > 1 else []), "attention_mask"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": SPECIALS[row] for name, row in _NAMES.items()},
        **({"mask_token": MASK} if MASK in row_of else {}),
        "model_max_length": longest,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(tokenizer, config, notices)


def _normalisation(file: SentencePieceFile) -> List[Dict[str, Any]]:
    """The steps from text to what pieces are looked for in: spaces written as marks, one before the first word."""
    steps: List[Dict[str, Any]] = []
    spaces = replaced_by_space(file.charsmap) if file.charsmap else ""
    if spaces:
        steps.append(_replace({"Regex": f"[{''.join(map(re.escape, spaces))}]"}, " "))
    elif file.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(file.charsmap).decode()})
    steps += [_replace({"Regex": " {2,}"}, " "), _replace({"Regex": r"\A "}, ""), _replace({"String": " "}, _SPACE)]
    return [*steps, _replace({"Regex": rf"{_SPACE}+\z"}, ""), {"type": "Prepend", "prepend": _SPACE}]


def _replace(pattern: Dict[str, str], content: str) -> Dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _metaspace(prepend: str, split: bool) -> Dict[str, Any]:
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": prepend, "split": split}


def _template(begins: bool, segments: int) -> Dict[str, Any]:
    """`<s> text </s>`, and a pair as `<s> one </s> other </s>`, which is how tasks of this package join it."""

    def part(kind: str, name: str, segment: int) -> Dict[str, Any]:
        return {kind: {"id": name, "type_id": min(segment, segments - 1)}}

    start, end = SPECIALS[BOS_ROW], SPECIALS[EOS_ROW]
    single = [*([part("SpecialToken", start, 0)] if begins else []), part("Sequence", "A", 0)]
    single.append(part("SpecialToken", end, 0))
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("Sequence", "B", 1), part("SpecialToken", end, 1)],
        "special_tokens": {
            symbol: {"id": symbol, "ids": [SPECIALS.index(symbol)], "tokens": [symbol]} for symbol in (start, end)
        },
    }


def _named(scores: Mapping[str, float], symbols: Sequence[str]) -> Sequence[str]:
    """The rows that the algorithm itself numbers, which must be the first ones; those behind are only added tokens."""
    return symbols[: 1 + max((row for row, symbol in enumerate(symbols) if symbol in scores), default=UNK_ROW)]


def _unigram(scores: Mapping[str, float], symbols: Sequence[str]) -> Dict[str, Any]:
    vocabulary = [[symbol, scores.get(symbol, 0.0)] for symbol in _named(scores, symbols)]
    return {"type": "Unigram", "unk_id": UNK_ROW, "vocab": vocabulary, "byte_fallback": False}


def _bpe(scores: Mapping[str, float], symbols: Sequence[str]) -> Dict[str, Any]:
    """Every pair of pieces that makes a piece, best score first: SentencePiece ranks pairs by what they make."""
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [f"{left} {right}" for left, right in cuts if left in scores and right in scores]
    return {
        "type": "BPE", "dropout": None, "unk_token": SPECIALS[UNK_ROW], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": False, "ignore_merges": False,
        "vocab": {symbol: row for row, symbol in enumerate(_named(scores, symbols))}, "merges": merges,
    }  # fmt: skip

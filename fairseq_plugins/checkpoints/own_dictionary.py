"""The dictionary that the rows of a checkpoint mean: where it may lie, what its task appended, which rows are text."""

import re
from pathlib import Path
from typing import Any, List, Mapping

MASK = "<mask>"
_MASK_TASKS = (
    "masked_lm", "multilingual_masked_lm", "denoising", "multilingual_denoising", "sentence_prediction",
    "sentence_ranking",
)  # fmt: skip
_TAG_TASKS = (
    "translation_multi_simple_epoch", "translation_multi_validated", "translation_multi_temperature_ramp",
    "multilingual_translation",
)  # fmt: skip
# Masks, sentinels and tags, as fairseq, Hugging Face, T5, BERT and this package write them, and rows that only fill up.
# Nothing wider: <0x41>, the byte 65 of SentencePiece, and [I] are pieces of text.
_SYMBOL = re.compile(
    r"<(s|/s|pad|unk|mask|pseudo_mask|sentinel_\d+|extra_id_\d+|2[a-z]\w*)>|\[(CLS|SEP|PAD|UNK|MASK)\]|"
    r"\[[a-z]{2,3}_[A-Z]{2}\]|__[A-Za-z][A-Za-z0-9_]*__|madeupword\d{4,}"
)


def is_text(symbol: str) -> bool:
    """Whether a symbol of a dictionary is a piece of text, and not one that only software writes."""
    return _SYMBOL.fullmatch(symbol) is None


def dictionary_files(path: Path, task: Mapping[str, Any]) -> List[Path]:
    """Where to look for the dictionary of a checkpoint, the likeliest first; none of them need be there.

    Args:
        path: the checkpoint.
        task: options of the task that it was trained with.
    """
    files = [Path(task["fixed_dictionary"])] if task.get("fixed_dictionary") else []
    data = str(task.get("data") or "").split(":")[0]
    folders = [path.parent, path.parent.parent, *([Path(data)] if data else [])]
    return files + [folder / "dict.txt" for folder in folders]


def rows_of_task(symbols: List[str], size: int, task: Mapping[str, Any]) -> List[str]:
    """The dictionary as a model saw it: stock tasks append language tags and <mask> after they load dict.txt.

    Args:
        symbols: of dict.txt, row 0 first.
        size: rows of the model's token table.
        task: options of the task.
    Returns:
        `size` symbols, or `symbols` as they are where what the task appends does not make that many.
    """
    name = task.get("_name") or task.get("task")
    appended = [MASK] if name in _MASK_TASKS else []
    if name in _TAG_TASKS:
        pairs = task.get("lang_pairs") or []
        pairs = pairs.split(",") if isinstance(pairs, str) else pairs
        spoken = sorted({language for pair in pairs for language in pair.split("-")})
        appended = [f"__{language}__" for language in task.get("langs") or spoken]
    seen = symbols + [symbol for symbol in appended if symbol not in symbols]
    return seen if len(symbols) != size and len(seen) == size else symbols

"""Give an older data folder, and checkpoints trained on it, every symbol that the tasks of this package need.

Reads a folder of fairseq-preprocess or of an older `prepare` and writes a new one; nothing is changed in place. Pieces
keep their order, then come the language tags, <mask>, <pseudo_mask> and the sentinels, as in every dictionary of
`prepare`. Binarised files are rewritten where rows moved. Checkpoints move by symbol: known rows keep their numbers,
new ones are drawn as fairseq draws embeddings. A model has to train on for a while before it translates: until then its
untrained rows may win the output softmax.
"""

import argparse
import shutil
import struct
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins._whole_checkpoints import DICTIONARIES
from fairseq_plugins.data.symbols import (
    UNK_ROW,
    dictionary_rows,
    dictionary_text,
    is_filler,
    language_tag,
    task_symbols,
)
from fairseq_plugins.opus100.binarise import open_shard, token_dtype
from fairseq_plugins.opus100.checkpoint_files import load_checkpoint, sound, write_checkpoint
from fairseq_plugins.opus100.corpus import split_list
from fairseq_plugins.opus100.data_folder import MANIFEST, link_or_copy
from fairseq_plugins.opus100.files import (
    Progress,
    hashes,
    plain_os_errors,
    read_json,
    read_symbols,
    sha256_of,
    whole_path,
    write_json,
    write_whole,
)
from fairseq_plugins.opus100.run_folder import BOUND_KEY

_MAPPED = {8: np.uint16, 9: np.uint32, 4: np.int32, 5: np.int64}  # fairseq's numbers of the types in an .idx file
_MANIFEST = {"languages": [str], "vocabulary": {}, "sha256": hashes}  # what is read of it; older ones have less
_BLOCK = 1 << 22  # tokens rewritten at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``add-symbols``."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="OLD", help="data folder with dict.txt or dict.<lang>.txt")
    add("--out", type=Path, required=True, metavar="NEW", help="folder to write; not OLD")
    add("--languages", default="", metavar="A,B,...", help="languages that need a tag besides those of OLD")
    add("--checkpoint", type=Path, nargs="+", default=[], metavar="FILE",
        help="checkpoints of OLD; written to NEW/checkpoints/ under the same names")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="of the new rows (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write NEW."""
    check_at_least(args, seed=0)
    with plain_os_errors(args.data):
        old_rows, languages = read_old(args.data, split_list(args.languages))
        new_rows = new_dictionary(old_rows, languages, args.data)
    with plain_os_errors(args.out):
        _open_out(args, dictionary_text(new_rows))
        moved = _write_data(args.data, args.out, old_rows, new_rows, languages)
        print(f"{args.out}: {len(old_rows):,} rows became {len(new_rows):,}; {moved} binarised files were rewritten")
        for path in args.checkpoint:
            move_checkpoint(path, args.out / "checkpoints" / path.name, old_rows, new_rows, args.seed)


def read_old(data: Path, more: List[str]) -> Tuple[List[str], List[str]]:
    """The rows of the old dictionary and all languages that need a tag.

    Raises:
        UserError: no dictionary, several different ones, or a language code that fairseq cannot carry.
    """
    paths = sorted(data.glob("dict.txt")) + sorted(data.glob("dict.*.txt"))
    if not paths:
        raise UserError(f"--data {data} holds no dict.txt or dict.<lang>.txt")
    rows = read_symbols(paths[0])
    for path in paths[1:]:
        if read_symbols(path) != rows:
            raise UserError(f"{paths[0]} and {path} differ; only a dictionary that all languages share can be kept")
    manifest = read_json(data / MANIFEST, _MANIFEST) or {}
    for name, digest in manifest.get("sha256", {}).items():
        if sha256_of(data / name) not in (digest, None):  # what it copies gets hashes anew, damage and all
            raise UserError(f"{data / name} is not the file that {MANIFEST} describes; make that folder again")
    languages = set(more) | set(manifest.get("languages", ()))
    languages |= {path.name.split(".")[1] for path in paths if path.name != "dict.txt"}
    try:
        for language in languages:
            language_tag(language)
    except ValueError as error:
        raise UserError(str(error)) from None
    return rows, sorted(languages)


def new_dictionary(old_rows: List[str], languages: List[str], data: Path) -> List[str]:
    """The old pieces in their order, then our symbols in theirs.

    Raises:
        UserError: a piece occurs twice in the old dictionary.
    """
    ours = set(task_symbols(languages))
    pieces = [symbol for symbol in old_rows[4:] if symbol not in ours and not is_filler(symbol)]
    try:
        return dictionary_rows(pieces, languages)
    except ValueError:
        raise UserError(f"the dictionary of --data {data} holds a piece twice; it cannot be moved by symbol") from None


def _open_out(args: argparse.Namespace, dictionary: str) -> None:
    if args.out.resolve() == args.data.resolve():
        raise UserError(f"--out {args.out} is --data; give another folder, nothing is changed in place")
    if args.out.exists() and any(args.out.iterdir()):
        present = args.out / "dict.txt"
        if not present.exists() or present.read_bytes() != dictionary.encode():
            raise UserError(f"--out {args.out} is not empty and was not made by this command; give a new folder")
    (args.out / "raw").mkdir(parents=True, exist_ok=True)
    (args.out / "checkpoints").mkdir(exist_ok=True)
    write_whole(args.out / "dict.txt", dictionary.encode())


def _write_data(data: Path, out: Path, old_rows: List[str], new_rows: List[str], languages: List[str]) -> int:
    """Everything but checkpoints; returns the number of shards that had to be rewritten."""
    row_of = {symbol: row for row, symbol in enumerate(new_rows)}
    table = np.array([UNK_ROW if is_filler(s) else row_of.get(s, UNK_ROW) for s in old_rows], dtype=np.int64)
    used = [row for row, symbol in enumerate(old_rows) if not is_filler(symbol)]  # fillers occur in no text
    same = all(table[row] == row for row in used) and token_dtype(len(old_rows)) == token_dtype(len(new_rows))
    for language in languages:
        link_or_copy(out / "dict.txt", out / f"dict.{language}.txt")
    prefixes = [path.with_suffix("") for path in sorted(data.glob("*.idx"))]
    progress = Progress("binarised files", len(prefixes), "files")
    for done, prefix in enumerate(prefixes):
        progress.show(done)
        if same:
            for end in (".bin", ".idx"):
                _copy(Path(f"{prefix}{end}"), out / f"{prefix.name}{end}")
        else:
            rewrite_shard(prefix, out / prefix.name, table, token_dtype(len(new_rows)))
    for pattern in ("sentencepiece.*", "raw/*", "lang_pairs.txt", "zero_shot_pairs.txt"):
        for path in data.glob(pattern):
            _copy(path, out / path.relative_to(data))
    write_whole(out / "languages.txt", "".join(f"{language}\n" for language in languages).encode())
    if manifest := read_json(data / MANIFEST, _MANIFEST):
        manifest["languages"] = languages
        manifest["vocabulary"]["rows"] = len(new_rows)
        names = set(manifest["sha256"]) | {f"dict.{language}.txt" for language in languages}
        manifest["sha256"] = {name: digest for name in sorted(names) if (digest := sha256_of(out / name))}
        write_json(out / MANIFEST, manifest)
    return 0 if same else len(prefixes)


def _copy(source: Path, target: Path) -> None:
    """A copy, not a link: fairseq-preprocess would write into both."""
    with whole_path(target) as temporary:
        shutil.copyfile(source, temporary)


def rewrite_shard(source: Path, target: Path, table: np.ndarray, dtype: np.dtype) -> None:
    """Send every token of a shard through ``table``; old row -> new row.

    Raises:
        UserError: not in fairseq's mmap format, not of rows, or a row that the old dictionary lacks.
    """
    with open(f"{source}.idx", "rb") as index:
        head = index.read(26)
        if len(head) < 26 or not head.startswith(b"MMIDIDX\x00\x00"):
            raise UserError(f"{source}.idx is not in fairseq's mmap format; binarise with --dataset-impl mmap")
        _, code, count = struct.unpack("<QBQ", head[9:])
        if code not in _MAPPED:
            raise UserError(f"{source}.idx: fairseq's number type {code} is none for the rows of a dictionary")
        sizes = np.frombuffer(index.read(4 * min(count, Path(index.name).stat().st_size))[: 4 * count], np.uint8)
    data = Path(f"{source}.bin")
    if len(sizes) != 4 * count or data.stat().st_size % np.dtype(_MAPPED[code]).itemsize:
        raise UserError(f"{source}.idx or its .bin is cut off; binarise that text again")
    sizes = sizes.view(np.int32)
    tokens = np.memmap(data, _MAPPED[code], "r") if data.stat().st_size else np.zeros(0, np.int64)
    highest = int(tokens.max()) if len(tokens) else 0
    if sizes.sum() != len(tokens) or (sizes < 0).any() or (len(tokens) and int(tokens.min()) < 0):
        raise UserError(f"{data} and its .idx do not belong together; binarise that text again")
    if highest >= len(table):
        raise UserError(f"{data} holds row {highest}, the dictionary ends at {len(table) - 1}: not the same data")
    with open_shard(target, dtype, {}) as shard:
        for start in range(0, len(tokens), _BLOCK):
            shard.add(table[tokens[start : start + _BLOCK]], np.zeros(0, np.int32))
        shard.add(np.zeros(0, np.int64), sizes)


def move_checkpoint(path: Path, target: Path, old_rows: List[str], new_rows: List[str], seed: int) -> None:
    """Write ``path`` for the new dictionary.

    Raises:
        UserError: unreadable, or trained with another dictionary.
    """
    state = load_checkpoint(path)
    with sound(path):
        _move(state, path, target, old_rows, new_rows, seed)


def _move(
    state: Dict[str, Any], path: Path, target: Path, old_rows: List[str], new_rows: List[str], seed: int
) -> None:
    from fairseq_plugins.checkpoints.remap_symbols import remap_optimizer_state, remap_state_dict

    old_rows = rows_of_checkpoint(state, old_rows)
    model = state["model"]
    try:
        remapped = remap_state_dict(model, old_rows, new_rows, seed)
        extra = state.get("extra_state") or {}
        for key in [key for key in ("ema", "ema_fp32_params") if extra.get(key)]:
            extra[key] = remap_state_dict(extra[key], old_rows, new_rows, seed).state
        for record in (BOUND_KEY, DICTIONARIES):  # of the old dictionary
            extra.pop(record, None)
    except ValueError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
    if not remapped.moved:
        raise UserError(f"checkpoint {path} has no token table that this command knows")
    if state.get("last_optimizer_state") is not None:
        optimizer = remap_optimizer_state(state["last_optimizer_state"], model, old_rows, new_rows)
        if optimizer is None:
            print(f"notice: {path}: its optimizer state cannot be moved and is left out; training on from it starts "
                  "a fresh optimizer", file=sys.stderr)  # fmt: skip
        state["last_optimizer_state"] = optimizer
    if remapped.look_alikes:
        names = " ".join(remapped.look_alikes)
        print(f"notice: left alone although they have as many rows as the dictionary: {names}", file=sys.stderr)
    state["model"] = remapped.state
    write_checkpoint(state, target, "--out")
    lost = len([s for s in old_rows if s not in set(new_rows) and not is_filler(s)])
    print(f"{target}: {len(remapped.moved)} tables moved" + (f"; {lost} symbols have no row any more" if lost else ""))


def rows_of_checkpoint(state: Dict[str, Any], rows: List[str]) -> List[str]:
    """The dictionary as the model saw it: stock tasks append tags and <mask> after they load dict.txt."""
    from fairseq_plugins.checkpoints.own_dictionary import rows_of_task
    from fairseq_plugins.checkpoints.remap_symbols import VOCABULARY_PARAMETERS

    sizes = [len(tensor) for name, tensor in state["model"].items() if name.endswith(VOCABULARY_PARAMETERS)]
    if not sizes:
        return rows
    task = (state.get("cfg") or {}).get("task") if state.get("cfg") else state.get("args")
    return rows_of_task(rows, sizes[0], vars(task) if isinstance(task, argparse.Namespace) else dict(task or {}))

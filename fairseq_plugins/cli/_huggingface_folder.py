"""The folder that `export --to huggingface` writes: config.json, model.safetensors and, from DATA, a tokenizer.

dict.txt goes along, as it says which symbol each row is: `--init-encoder` reads it. export.json says what the model was
made from.
"""

import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.checkpoints.own_dictionary import dictionary_files, rows_of_task
from fairseq_plugins.cli._huggingface_model import HuggingFaceModel, huggingface_model
from fairseq_plugins.cli._huggingface_tokenizer import huggingface_tokenizer
from fairseq_plugins.data.symbols import PAD_ROW, dictionary_text
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of
from fairseq_plugins.opus100.engines.exported_folder import MANIFEST, check_output, whole_folder
from fairseq_plugins.opus100.files import read_json, read_symbols, sha256_of, write_json, write_whole
from fairseq_plugins.opus100.run_folder import check_same_data, data_of_checkpoint, read_manifest


class Written(NamedTuple):
    """What to tell the user."""

    architecture: str  # class of transformers
    remarks: List[str]


def write_huggingface(folder: Path, checkpoint: Path, data: Optional[Path]) -> Written:
    """Convert a checkpoint; the folder appears whole or not at all and replaces an earlier export.

    Args:
        folder: to write.
        checkpoint: of `transformer_mlm`, `transformer_mt` or `xlm_t`.
        data: folder of prepare that it was trained with; None writes no tokenizer.
    Raises:
        UserError: there is no such model or tokenizer, DATA is not the checkpoint's, or the folder is something else.
    """
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        raise UserError("--to huggingface needs the package safetensors: pip install safetensors") from None
    check_output(folder)
    state = load_state(checkpoint, typed=False)
    model = huggingface_model(state, checkpoint)
    files: Dict[str, Any] = {"config.json": model.config}
    symbols = _symbols(state, checkpoint, model, data)
    remarks = [f"left out: {', '.join(model.left_out)}"] if model.left_out else []
    if data is None:
        remarks.append("no tokenizer: --data DATA, the folder of prepare that it was trained with, makes one")
        if symbols is None:
            remarks.append("no dict.txt: none was found that belongs to the checkpoint")
    else:
        assert symbols is not None
        longest = model.config["max_position_embeddings"] - PAD_ROW - 1
        try:
            tokenizer = huggingface_tokenizer(
                (data / "sentencepiece.model").read_bytes(), symbols, begins=not model.translates,
                segments=model.config["type_vocab_size"], longest=longest,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"{data / 'sentencepiece.model'} cannot become a tokenizer.json: {error}") from None
        files.update({"tokenizer.json": tokenizer.tokenizer, "tokenizer_config.json": tokenizer.config})
        remarks += [f"notice: {notice}" for notice in tokenizer.notices]
        if model.translates:
            remarks.append("a text has no <s> and begins with the tag that it had in training, such as __de__, which "
                           "must be written")  # fmt: skip
    source = {"file": checkpoint.name, "sha256": sha256_of(checkpoint)}
    with whole_folder(folder) as scratch:
        save_file(model.tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        for name, value in files.items():
            write_json(scratch / name, value)
        mode = (scratch / "config.json").stat().st_mode
        (scratch / "model.safetensors").chmod(mode)  # the library makes it readable for its owner alone
        if symbols is not None:
            write_whole(scratch / "dict.txt", dictionary_text(symbols).encode())
        hashes = {path.name: sha256_of(path) for path in sorted(scratch.iterdir())}
        write_json(scratch / MANIFEST, {"format": 1, "engine": "huggingface", "checkpoint": source, "sha256": hashes})
    return Written(model.config["architectures"][0], remarks)


def _symbols(
    state: Dict[str, Any], checkpoint: Path, model: HuggingFaceModel, data: Optional[Path]
) -> Optional[List[str]]:
    """The symbol of each row: from DATA, or else from a dictionary beside the checkpoint or in its training data.

    Raises:
        UserError: DATA is not what the checkpoint was trained with.
    """
    trained, task = data_of_checkpoint(checkpoint, state), options_of(state, "task")
    rows = model.config["vocab_size"]
    if data is None:
        bound = trained["sha256"]["dict.txt"] if trained else None
        found = (_fitting(file, bound, rows, task) for file in dictionary_files(checkpoint, task))
        return next(filter(None, found), None)
    manifest = read_manifest(data)
    if trained is not None:
        check_same_data(trained, f"checkpoint {checkpoint}", manifest, data)
    symbols = rows_of_task(read_symbols(data / "dict.txt"), rows, task)
    if len(symbols) != rows:
        raise UserError(f"{data / 'dict.txt'} has {len(symbols)} symbols but checkpoint {checkpoint} has {rows} rows "
                        "in its embedding: give the data that the checkpoint was trained on")  # fmt: skip
    if trained is None:
        print(f"notice: neither checkpoint {checkpoint} nor a manifest.json beside it says from which data it was "
              f"trained, so only the size of {data / 'dict.txt'} was compared, not its words",
              file=sys.stderr)  # fmt: skip
    return symbols


def _fitting(file: Path, bound: Optional[str], rows: int, task: Mapping[str, Any]) -> Optional[List[str]]:
    """The symbols of a dictionary, None where it cannot be the one of so many rows."""
    try:
        hashes = (read_json(file.with_name("manifest.json")) or {}).get("sha256") or {}
        if (bound or hashes.get(file.name)) not in (None, sha256_of(file)):
            return None
        symbols = rows_of_task(read_symbols(file), rows, task)
    except (AttributeError, OSError, TypeError, UserError, ValueError):
        return None
    return symbols if len(symbols) == rows else None

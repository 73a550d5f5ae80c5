"""The folder that `export --to ctranslate2` writes: a CTranslate2 model and all that is needed to translate with it.

model.bin, config.json and shared_vocabulary.json are CTranslate2's; dict.txt, sentencepiece.model and languages.txt are
DATA's; export.json says what the model was made from and how it is used. A folder for another engine has one too.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import TAG_SCHEMES
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of
from fairseq_plugins.opus100.engines.ctranslate2_engine import import_ctranslate2
from fairseq_plugins.opus100.engines.ctranslate2_spec import ctranslate2_spec
from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
from fairseq_plugins.opus100.facts import Facts
from fairseq_plugins.opus100.files import (
    Progress,
    hashes,
    misfit,
    plain_os_errors,
    read_json,
    read_symbols,
    sha256_of,
    whole_number,
    write_json,
)
from fairseq_plugins.opus100.run_folder import BOUND_SHAPE, bound_data, make_folder

MANIFEST = "export.json"
_ENGINE = "ctranslate2"
QUANTIZATIONS = ("float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")
_FROM_DATA = ("dict.txt", "sentencepiece.model", "languages.txt")


class Exported(NamedTuple):
    """What export.json says."""

    quantization: str
    checkpoint: Dict[str, str]  # file name and sha256 of what it was made from
    facts: Facts
    languages: List[str]
    longest_source: int  # rows, tag and end included
    longest_target: int


_SHAPE = {
    "sha256": hashes, "quantization": str, "checkpoint": {"file": str, "sha256": str}, "languages": [str],
    "longest_source": whole_number, "longest_target": whole_number,
    "facts": {"arch": str, "updates": whole_number, "parameters": whole_number, "sampling": str, "tag_scheme": str,
              "rows": whole_number, "decoder_size": whole_number,
              "data": lambda of: of is None or misfit(of, BOUND_SHAPE) is None},
}  # fmt: skip


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that `export` wrote."""
    return (folder / MANIFEST).is_file()


def check_output(folder: Path) -> None:
    """Raises UserError if an export cannot take this place: there is something that is none."""
    if folder.exists() and not is_exported(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} exists and is no export; give a new folder")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write an export into; it appears whole under its name, in an earlier one's place, or not at all.

    Raises:
        UserError: nothing can be written there.
    """
    make_folder(folder.parent, "--output")
    scratch = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        _replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_exported(folder: Path) -> Exported:
    """The manifest of a folder, after checking that its files are the ones it describes.

    Raises:
        UserError: no export, for another engine, or damaged.
    """
    with plain_os_errors(folder):
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            raise UserError(f"{folder} holds no {MANIFEST}; give a folder of: python -m fairseq_plugins export --to "
                            "ctranslate2")
        if manifest.get("engine", _ENGINE) != _ENGINE:
            raise UserError(f"{folder} is an export for {manifest['engine']}: nothing here translates with it")
        try:
            if misfit(manifest, _SHAPE) is not None:
                raise KeyError
            found = Exported(**{name: manifest[name] for name in Exported._fields})
            found = found._replace(facts=Facts(**found.facts))
            files = manifest["sha256"]
        except (KeyError, TypeError):
            raise UserError(f"{folder / MANIFEST} is not one of this version's export; export again") from None
        if found.facts.tag_scheme not in TAG_SCHEMES:
            raise UserError(f"{folder / MANIFEST} names the unknown tag scheme {found.facts.tag_scheme}; export again")
        for name, digest in files.items():
            if sha256_of(folder / name) != digest:
                raise UserError(f"{folder / name} is missing or changed since the export; export again")
    return found


def write_exported(
    folder: Path, checkpoint: Path, sha256: str, facts: Facts, data: Path, languages: List[str], quantization: str
) -> Exported:
    """Convert a checkpoint; the folder appears whole or not at all and replaces an earlier export.

    Args:
        folder: to write.
        checkpoint: file that fits to DATA; `sha256` is its hash and `facts` what it says.
        data: folder of prepare, with these languages.
        quantization: of `QUANTIZATIONS`.
    Raises:
        UserError: CTranslate2 is missing or does not know this model, or the folder is something else.
    """
    import_ctranslate2()
    check_output(folder)
    state = load_state(checkpoint)
    model = plain_transformer(state, checkpoint)
    task = options_of(state, "task")
    longest = {}
    for side in ("source", "target"):
        limit = task.get(f"max_{side}_positions")  # the task may take less than the model
        longest[side] = min(filter(None, (limit, model.options[f"max_{side}_positions"])))
    with whole_folder(folder) as scratch:
        for name in _FROM_DATA:
            shutil.copyfile(data / name, scratch / name)
        _write_model(scratch, checkpoint, model, quantization)
        files = sorted(path.name for path in scratch.iterdir())
        facts = facts._replace(data=facts.data or bound_data(data))
        exported = Exported(quantization, {"file": checkpoint.name, "sha256": sha256}, facts, languages,
                            longest["source"], longest["target"])  # fmt: skip
        hashes = {name: sha256_of(scratch / name) for name in files}
        about = {"format": 1, "engine": _ENGINE, "sha256": hashes}
        write_json(scratch / MANIFEST, {**exported._asdict(), "facts": facts._asdict(), **about})
    return exported


def _write_model(folder: Path, checkpoint: Path, model: Any, quantization: str) -> None:
    progress = Progress("exporting", model.options["encoder_layers"] + model.options["decoder_layers"], "layers")
    done = 0

    def next_layer() -> None:
        nonlocal done
        done += 1
        progress.show(done)

    try:
        spec = ctranslate2_spec(model, read_symbols(folder / "dict.txt"), next_layer)
        spec.validate()
        spec.optimize(quantization=quantization)
        spec.save(str(folder))
    except ValueError as error:
        raise UserError(f"checkpoint {checkpoint} cannot be exported: {error}") from None
    progress.finish()


def _replace(scratch: Path, folder: Path) -> None:
    """Put a finished folder in the place of an earlier one, which is out of the way for one moment only."""
    old = folder.parent / f".{folder.name}.{os.getpid()}.old"
    if folder.exists():
        os.replace(folder, old)
    os.replace(scratch, folder)
    shutil.rmtree(old, ignore_errors=True)

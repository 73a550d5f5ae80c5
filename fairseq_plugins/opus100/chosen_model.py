"""The model that a verb translates with: a checkpoint or an exported folder, checked against DATA, and its engine."""

import sys
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.codec import Codec
from fairseq_plugins.opus100.engines import Engine, Search
from fairseq_plugins.opus100.engines.exported_folder import Exported, is_exported, read_exported, write_exported
from fairseq_plugins.opus100.facts import Facts, check_rows, checkpoint_facts
from fairseq_plugins.opus100.files import sha256_of
from fairseq_plugins.opus100.run_folder import check_same_data

ENGINES = ("fairseq", "ctranslate2")


class ChosenModel(NamedTuple):
    """What to load."""

    path: Path  # checkpoint file, or folder of export --to ctranslate2
    facts: Facts
    checkpoint: Dict[str, str]  # file name and sha256 of the checkpoint that it is, or was made from
    exported: Optional[Exported]  # of the folder

    @property
    def engine(self) -> str:
        """Of ``ENGINES``."""
        return "fairseq" if self.exported is None else "ctranslate2"


def choose_model(path: Path, engine: Optional[str] = None) -> ChosenModel:
    """A checkpoint or an exported folder.

    Raises:
        UserError: neither, damaged, or a folder although ``engine`` says fairseq.
    """
    if path.is_dir():
        exported = read_exported(path)
        if engine == "fairseq":
            raise UserError(f"{path} is an export for CTranslate2: --engine fairseq needs the checkpoint")
        return ChosenModel(path, exported.facts, exported.checkpoint, exported)
    facts = checkpoint_facts(path)
    return ChosenModel(path, facts, {"file": path.name, "sha256": sha256_of(path) or ""}, None)


def check_model(
    model: ChosenModel, manifest: Dict[str, Any], data: Path, trained: Optional[Dict[str, Any]] = None
) -> None:
    """See that a model belongs to DATA; a notice says where that cannot be known.

    Args:
        model: chosen.
        manifest: of DATA.
        data: the folder, for the message.
        trained: what the checkpoint was trained from, where it does not say so itself (``run_folder.bound_data``).
    Raises:
        UserError: another dictionary, SentencePiece model or tag scheme.
    """
    what = f"checkpoint {model.path}" if model.exported is None else f"export {model.path}"
    trained = model.facts.data or trained
    # the tags are those the checkpoint was trained with, whatever a manifest says
    bound = {"sha256": (trained or manifest)["sha256"], "tag_scheme": model.facts.tag_scheme}
    check_same_data(bound, what, manifest, data)
    check_rows(model.facts, data, model.path)
    if trained is None:
        print(f"notice: neither {what} nor a manifest.json beside it says from which data it was trained, "
              f"so only the size of {data / 'dict.txt'} was compared, not its words", file=sys.stderr)


def converted(model: ChosenModel, data: Path, manifest: Dict[str, Any], folder: Path, quantization: str) -> ChosenModel:
    """A checkpoint as an export in ``folder``; one that is there already and the same is taken.

    Raises:
        UserError: it cannot be exported.
    """
    if is_exported(folder):
        try:
            there = choose_model(folder)
        except UserError:  # damaged: made again
            there = model
        if there.exported and (there.checkpoint["sha256"], there.exported.quantization) == (
            model.checkpoint["sha256"], quantization):  # fmt: skip
            return there
    exported = write_exported(folder, model.path, model.checkpoint["sha256"], model.facts, data, manifest["languages"],
                              quantization)  # fmt: skip
    return ChosenModel(folder, exported.facts, exported.checkpoint, exported)


def load_engine(model: ChosenModel, codec: Codec, data: Path, search: Search, device: str, threads: int = 1) -> Engine:
    """Load a model.

    Args:
        model: chosen.
        codec: of its dictionary.
        data: folder with dict.txt and languages.txt; read for checkpoints only.
        search: how to decode.
        device: "cpu", "cuda:0", ...
        threads: on CPU.
    Raises:
        UserError: CTranslate2 is not installed, or cannot read the folder.
    """
    if model.exported is not None:
        from fairseq_plugins.opus100.engines.ctranslate2_engine import CTranslate2Engine

        longest, longest_target = model.exported.longest_source, model.exported.longest_target
        return CTranslate2Engine(model.path, codec.symbols, longest, longest_target, search, device, threads)
    import torch

    from fairseq_plugins.opus100.engines.fairseq_engine import FairseqEngine

    if device == "cpu":
        torch.set_num_threads(threads)
    return FairseqEngine(model.path, data, search, device)

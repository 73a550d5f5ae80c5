"""What `train` and `evaluate` know about DATA and RUN folders: manifests, what must agree, checkpoints on disk."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Dict, List, Optional

from fairseq_plugins._verbs import UserError

# What a checkpoint is bound to. Other data files may change: more pairs are no reason to refuse.
BOUND_FILES = ("dict.txt", "sentencepiece.model")
TAG_FLAGS = {"target": ["--encoder-langtok", "tgt"], "source+target": ["--encoder-langtok", "src", "--decoder-langtok"]}


def tag_flags(scheme: str) -> List[str]:
    """The stock flags of a tag scheme of the manifest."""
    if scheme not in TAG_FLAGS:
        raise UserError(f"tag scheme '{scheme}' in manifest.json is unknown; known are {', '.join(TAG_FLAGS)}")
    return TAG_FLAGS[scheme]


def read_manifest(data: Path) -> Dict:
    """DATA/manifest.json, after checking that dictionary and SentencePiece model are the files it describes.

    Raises:
        UserError: no such folder, no manifest, or a file that is missing or changed.
    """
    path = data / "manifest.json"
    if not path.is_file():
        raise UserError(f"--data {data} holds no manifest.json; give the folder that `prepare` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        expected = {name: manifest["sha256"][name] for name in BOUND_FILES}
        tag_flags(manifest["tag_scheme"])
        manifest["languages"], manifest["pairs"], manifest["pivot"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is not a manifest of `prepare` ({error}); run prepare again") from None
    for name, digest in expected.items():
        if not (data / name).is_file():
            raise UserError(f"{data / name} is missing; run prepare again")
        if file_sha256(data / name) != digest:
            raise UserError(f"{data / name} is not the file that manifest.json describes; run prepare again")
    return manifest


def check_same_data(run: Path, manifest: Dict, data: Path) -> None:
    """Refuse to mix DATA with a RUN that was trained from another dictionary, SentencePiece model or tag scheme.

    Raises:
        UserError: one sentence that names what differs.
    """
    path = run / "manifest.json"
    if not path.is_file():
        return
    trained = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in BOUND_FILES if trained["sha256"][name] != manifest["sha256"][name]]
    differing += [f"the tag scheme ({trained['tag_scheme']} there, {manifest['tag_scheme']} here)"] * (
        trained["tag_scheme"] != manifest["tag_scheme"])
    if differing:
        raise UserError(f"{run} was trained from other data than {data}: {' and '.join(differing)} differ; "
                        "use the data of that run or another --run")


def make_folder(path: Path, flag: str) -> None:
    """Create ``path`` and see that files can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror}); give another folder") from None


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` with \\n line ends so that ``path`` is either the old file or the whole new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(scratch, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
    os.replace(scratch, path)


def load_checkpoint(path: Path) -> Dict:
    """A checkpoint as fairseq saved it, on CPU, memory-mapped; only allow-listed types are unpickled.

    Raises:
        UserError: the file is missing, cut short, or holds types that are not on the list.
    """
    import pickle

    import torch

    import fairseq_plugins

    fairseq_plugins.register()
    if not path.is_file():
        raise UserError(f"checkpoint {path} is missing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read, it may be cut short ({reason})") from None


def checkpoint_updates(run: Path) -> Optional[int]:
    """Updates in RUN/checkpoint_last.pt, or None if there is no such file."""
    path = run / "checkpoint_last.pt"
    return load_checkpoint(path)["optimizer_history"][-1]["num_updates"] if path.exists() else None


def repair_last_checkpoint(run: Path) -> None:
    """Replace an unreadable checkpoint_last.pt by the newest readable checkpoint of RUN.

    The engine copies the newest checkpoint over checkpoint_last.pt in place; killed while it copies, it leaves half a
    file.

    Raises:
        UserError: checkpoint_last.pt is unreadable and nothing can replace it.
    """
    last = run / "checkpoint_last.pt"
    if not last.exists():
        return
    try:
        load_checkpoint(last)
        return
    except UserError as error:
        problem = error
    others = sorted(run.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others:
        if path == last:
            continue
        try:
            load_checkpoint(path)
        except UserError:
            continue
        scratch = run / f".checkpoint_last.{os.getpid()}.tmp"
        shutil.copyfile(path, scratch)
        os.replace(scratch, last)
        print(f"{problem}; going on from {path.name}")
        return
    raise UserError(f"{problem}, and no other checkpoint in {run} can replace it; remove it to start again")

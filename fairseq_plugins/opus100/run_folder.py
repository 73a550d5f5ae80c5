"""What `train` and `evaluate` know about DATA and RUN folders: manifests, what must agree, checkpoints on disk."""

import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import TAG_SCHEMES, language_tag
from fairseq_plugins.opus100.files import hashes, misfit, plain_os_errors, read_json, sha256_of, whole_number

# What a checkpoint is bound to. Other data files may change: more pairs are no reason to refuse.
PATIENCE = 8  # seconds to wait for a lock: processes that load data notice within five that their training was killed
BOUND_FILES = ("dict.txt", "sentencepiece.model")
BOUND_SHAPE = {"sha256": dict.fromkeys(BOUND_FILES, str), "tag_scheme": str}  # as ``files.misfit`` reads it
BOUND_KEY = "fairseq_plugins"  # where a checkpoint's extra_state keeps it


def _is_language(value: Any) -> bool:
    try:
        return bool(language_tag(value))
    except (TypeError, ValueError):
        return False


def _are_pairs(value: Any) -> bool:
    """``{"a-b": {"kind": ..., "train": {"lines": n}, ...}}``"""
    counts = {"lines?": whole_number}
    shape = {str: {"kind": str, "train?": counts, "dev?": counts, "test?": counts}}
    return misfit(value, shape) is None and all(
        len(codes := name.split("-")) == 2 and all(map(_is_language, codes)) for name in value
    )


# what is read of a manifest, by any verb; files.misfit says how to read this
MANIFEST_SHAPE = {
    "sha256": hashes,
    "tag_scheme": lambda value: isinstance(value, str) and value in TAG_SCHEMES,
    "languages": [_is_language],
    "pairs": _are_pairs,
    "pivot": _is_language,
    "vocabulary?": {"rows?": whole_number},
    "prepare?": {"options?": {"max_length?": whole_number}},
}


def read_manifest(data: Path, flag: str = "--data") -> Dict[str, Any]:
    """DATA/manifest.json, after checking that dictionary and SentencePiece model are the files it describes.

    Raises:
        UserError: no such folder, no manifest, or a file that is missing or changed.
    """
    with plain_os_errors(data):
        manifest = read_json(data / "manifest.json")
    if manifest is None:
        raise UserError(f"{flag} {data} holds no manifest.json; give the folder that prepare wrote")
    if (where := misfit(manifest, MANIFEST_SHAPE)) is not None:
        raise UserError(f"{data / 'manifest.json'} is not a manifest of prepare ({where}); run prepare again")
    for name in BOUND_FILES:
        with plain_os_errors(data):
            digest = sha256_of(data / name)
        if digest != manifest["sha256"].get(name):
            problem = "is missing" if digest is None else "is not the file that manifest.json describes"
            raise UserError(f"{data / name} {problem}; run prepare again")
    return manifest


def bound_data(folder: Path) -> Optional[Dict[str, Any]]:
    """The part of a folder's manifest that checkpoints are bound to, None without a manifest of ours.

    Returns:
        {"sha256": {file of ``BOUND_FILES``: hash}, "tag_scheme": name}

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / "manifest.json"
    manifest = (read_json(path) if path.is_file() else None) or {}
    if misfit(manifest, BOUND_SHAPE) is not None:
        return None
    known = manifest["sha256"]
    return {"sha256": {name: known[name] for name in BOUND_FILES}, "tag_scheme": manifest["tag_scheme"]}


def data_of_checkpoint(path: Path, state: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """What ``bound_data`` says of a checkpoint's training data: written into it by `average`, or beside it.

    Raises:
        UserError: what is written into it is nothing that `average` writes.
    """
    record = (state.get("extra_state") or {}).get(BOUND_KEY)
    if record and misfit(record, BOUND_SHAPE) is not None:
        raise UserError(f"{path} is damaged: it does not say from which data it was trained; copy it again")
    return record or bound_data(path.parent)


def differences(trained: Dict[str, Any], manifest: Dict[str, Any]) -> List[str]:
    """What differs so that a checkpoint of one cannot be used with the data of the other."""
    found = [name for name in BOUND_FILES if trained["sha256"][name] != manifest["sha256"][name]]
    if trained["tag_scheme"] != manifest["tag_scheme"]:
        found.append(f"the tag scheme ({trained['tag_scheme']} against {manifest['tag_scheme']})")
    return found


def check_same_data(trained: Dict[str, Any], what: str, manifest: Dict[str, Any], data: Path) -> None:
    """Refuse to mix DATA with what was trained from another dictionary, SentencePiece model or tag scheme.

    Args:
        trained: as ``bound_data`` returns it.
        what: was trained, in words.
        manifest: of DATA.

    Raises:
        UserError: one sentence that names what differs.
    """
    differing = differences(trained, manifest)
    if differing:
        raise UserError(f"{what} was trained from other data than {data}: {' and '.join(differing)} differ; give the "
                        "data it was trained from, or another run")


def make_folder(path: Path, flag: str) -> None:
    """Create ``path`` and see that files can be written there.

    Raises:
        UserError: they cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror}); give another folder") from None


@contextmanager
def only_one(run: Path) -> Iterator[List[int]]:
    """Hold RUN, so that a second training there is refused.

    Yields file descriptors to hand to the process that trains (``pass_fds``): it then holds RUN too, also when this
    process is killed and leaves it behind.

    Raises:
        UserError: another process holds RUN.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        yield []
        return
    with open(run / ".lock", "a") as lock:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"a training is still running in {run}; wait for it or stop it") from None
            time.sleep(0.2)
        yield [lock.fileno()]


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Hide the engine's log below warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)

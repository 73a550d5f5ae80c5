"""A data folder while a verb makes it: what is finished, what belongs to it, what must not be mixed.

Every finished step leaves a record with the hashes of its files in ``.<verb>/``. A restarted run trusts a record only
if the files still have these hashes. When all is done the manifest replaces the records.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import hashes, read_json, sha256_of, write_json

MANIFEST = "manifest.json"


class Layout(NamedTuple):
    """What a verb writes into its folder."""

    verb: str
    files: Tuple[str, ...]  # patterns of everything but the manifest
    folders: Tuple[str, ...] = ()  # patterns of folders that hold nothing else


PREPARE = Layout("prepare", (
    "dict.txt", "dict.*.txt", "sentencepiece.model", "sentencepiece.vocab",
    "languages.txt", "lang_pairs.txt", "zero_shot_pairs.txt", ".*.tmp",
    *(f"{split}.*-*.*.{end}" for split in ("train", "valid", "test") for end in ("bin", "idx")),
    "raw/dev.*-*.*", "raw/test.*-*.*", "raw/.*.tmp",
))  # fmt: skip


_IDENTITY = {"options": dict, "inputs": {str: str}}  # as ``files.misfit`` reads it


class DataFolder:
    """The folder and the records of an unfinished run.

    Args:
        path: of it, absolute.
        identity: {"options": ..., "inputs": ...}, everything that decides the bytes of the output.
        layout: of the verb that makes it.
    """

    def __init__(self, path: Path, identity: Dict[str, Any], layout: Layout = PREPARE):
        self.path, self.state = path, path / f".{layout.verb}"
        self._identity, self._layout = identity, layout

    def open(self, force: bool) -> bool:
        """Make the folder, or check that what is there was made from the same input. True if it is complete.

        Args:
            force: remove what an earlier run made from other input.
        Raises:
            UserError: the folder is not ours, or was made from other input and ``force`` is not given.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; give a folder")
        verb = f"{self._layout.verb}?"
        manifest = read_json(self.path / MANIFEST, {"sha256": hashes, verb: _IDENTITY})
        started = read_json(self.state / "plan.json", _IDENTITY)
        known = started if manifest is None else manifest.get(self._layout.verb)
        if manifest is None and started and not any(self.state.glob("step.*.json")):
            known = self._identity  # nothing was finished, so nothing can be mixed: take the new options
        if known is None and self.path.is_dir() and any(entry != self.state for entry in self.path.iterdir()):
            verb = self._layout.verb
            raise UserError(f"--out {self.path} is not empty and was not made by {verb}; give a new folder")
        if known is not None and known != self._identity:
            if not force:
                raise UserError(_name_changes(known, self._identity, self.path))
            self._clear()
            manifest = None
        if manifest is not None:
            damaged = [name for name, digest in manifest["sha256"].items() if sha256_of(self.path / name) != digest]
            if not damaged:
                shutil.rmtree(self.state, ignore_errors=True)  # killed between the manifest and the end
                return True
            print(f"notice: {len(damaged)} files are missing or changed and are made again", file=sys.stderr)
            (self.path / MANIFEST).unlink()
        self.state.mkdir(parents=True, exist_ok=True)
        for pattern in self._layout.files:
            for leftover in self.path.glob(pattern) if pattern.endswith(".tmp") else ():  # of a killed run
                leftover.unlink(missing_ok=True)
        write_json(self.state / "plan.json", self._identity)
        return False

    def _clear(self) -> None:
        """Remove what the verb writes and nothing else, the manifest last."""
        for path in [path for pattern in self._layout.files for path in self.path.glob(pattern)]:
            path.unlink(missing_ok=True)
        for path in [path for pattern in self._layout.folders for path in self.path.glob(pattern)]:
            with contextlib.suppress(OSError):  # something else is in it
                path.rmdir()
        shutil.rmtree(self.state, ignore_errors=True)
        (self.path / MANIFEST).unlink(missing_ok=True)

    def finished(self, step: str, shape: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """The record of a finished step, None if it was not finished, or it or its files have changed since.

        Args:
            step: name of it.
            shape: what the record must look like beside its "sha256", see ``files.misfit``.
        """
        try:
            record = read_json(self.state / f"step.{step}.json", {**shape, "sha256": hashes})
        except UserError:  # damaged: made again
            return None
        if record and all(sha256_of(self.path / name) == digest for name, digest in record["sha256"].items()):
            return record
        return None

    def record(self, step: str, record: Dict[str, Any]) -> Dict[str, Any]:
        """Remember that a step is finished; its "sha256" names its files."""
        write_json(self.state / f"step.{step}.json", record)
        return record

    def close(self, manifest: Dict[str, Any]) -> None:
        """Write the manifest: from here on the folder is complete."""
        write_json(self.path / MANIFEST, {**manifest, self._layout.verb: self._identity})
        shutil.rmtree(self.state)


def _name_changes(old: Dict[str, Any], new: Dict[str, Any], path: Path) -> str:
    def changed(part: str) -> List[str]:
        before, after = old.get(part, {}), new[part]
        return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))

    names = [
        f"--{key.replace('_', '-')} was {old.get('options', {}).get(key)} and is {new['options'].get(key)}"
        for key in changed("options")
    ] + changed("inputs")
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{path} was made from other input ({'; '.join(names[:3])}{more}); give another --out, or --force to redo it"


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # rename does nothing where both names are the same file already

"""Checkpoints that survive a kill, a full disk and a second training in their folder.

For every training that imports the package. Applied by ``compat.apply()``.
"""

import contextlib
import functools
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

LAST = "checkpoint_last"
DICTIONARIES = "dictionaries"  # in extra_state: their hashes
ATTEMPTS, PAUSE = 3, 2.5  # of writing a checkpoint, as stock: disks in a network come back

_held: Dict[str, IO[str]] = {}  # locks of this process: open until it ends


def apply() -> None:
    """Change how the engine writes checkpoints, and what it does before it reads one."""
    write_whole_checkpoints()
    begin_on_safe_ground()
    bind_checkpoints_to_dictionaries()


def write_whole_checkpoints() -> None:
    """Let a checkpoint appear whole under its name or not at all, also when one is copied over another.

    Stock writes the first name of a checkpoint so, and then copies it over `checkpoint_best.pt` and
    `checkpoint_last.pt` in place: killed then, it leaves half a file under the name that the next start reads. And
    where writing fails it prints pages of tracebacks.
    """
    import torch
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    save, copy_stock = checkpoint_utils.torch_persistent_save, PathManager.copy

    @functools.wraps(save)
    def torch_persistent_save(obj: Any, filename: Any, async_write: bool = False) -> None:
        if async_write or not isinstance(filename, str) or not PathManager.supports_rename(filename):
            save(obj, filename, async_write)
            return
        _write_whole(filename, lambda temporary: torch.save(obj, temporary))

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if not PathManager.supports_rename(dst_path):
            return copy_stock(src_path, dst_path, overwrite)
        _write_whole(dst_path, lambda temporary: shutil.copyfile(src_path, temporary))
        return True

    checkpoint_utils.torch_persistent_save = torch_persistent_save
    PathManager.copy = staticmethod(copy)


_meet: Optional[Callable[[bool], None]] = None


@contextlib.contextmanager
def together(meet: Callable[[bool], None]) -> Iterator[None]:
    """Call ``meet`` between writing a checkpoint and giving it its name, with whether it could be written.

    Ranks that have a file each meet there: none has a new checkpoint, and removes old ones, before all have it.
    """
    global _meet
    _meet = meet
    try:
        yield
    finally:
        _meet = None


def _write_whole(filename: str, write: Callable[[str], Any]) -> None:
    temporary = f"{filename}.tmp"
    for attempt in range(ATTEMPTS):
        try:
            write(temporary)
            break
        except (OSError, RuntimeError) as error:  # torch says RuntimeError when its writer cannot write
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if attempt == ATTEMPTS - 1:
                from fairseq_plugins.compat import Refusal

                if _meet is not None:
                    _meet(False)
                raise Refusal(f"checkpoint {filename} cannot be written: {why_not_written(error, filename)}; what was "
                              "written before is whole, so mend that and give the same command again") from None
        time.sleep(PAUSE)
    if _meet is not None:
        _meet(True)
    os.replace(temporary, filename)


def why_not_written(error: BaseException, filename: str) -> str:
    """In words: torch's errors do not say why."""
    folder = os.path.dirname(filename) or "."
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < 1 << 20:
            return "the disk is full"
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return "the disk is read-only"
    if not os.path.isdir(folder):
        return "its folder is gone"
    return (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]


def begin_on_safe_ground() -> None:
    """Before a training reads its checkpoint: hold the folder against a second one, and repair what a kill left."""
    from fairseq import checkpoint_utils

    load = checkpoint_utils.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        on_rank_0(trainer, lambda: secure(cfg, trainer))
        loaded = load(cfg, trainer, **passthrough)
        if cfg.restore_file == f"{LAST}.pt":
            end_what_is_done(trainer)
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


def secure(cfg: Any, trainer: Any) -> None:
    """Hold ``--save-dir`` and repair the checkpoint in it. Shards of ``fully_sharded`` are left as they are."""
    if not cfg.no_save:
        lock_folder(cfg.save_dir, trainer.checkpoint_suffix)
    if cfg.restore_file == f"{LAST}.pt" and not trainer.is_fsdp:
        repair_last(Path(cfg.save_dir), _suffixes(trainer), check_content=True)


def on_rank_0(trainer: Any, do: Callable[[], None]) -> None:
    """Do something once, before any rank goes on; where rank 0 refuses, none waits for it."""
    import torch
    from fairseq.distributed import utils as distributed

    from fairseq_plugins.compat import Refusal

    refusal: Optional[Refusal] = None
    if distributed.get_global_rank() == 0:
        try:
            do()
        except Refusal as error:
            refusal = error
    if trainer.data_parallel_world_size > 1:
        refused = torch.tensor([float(refusal is not None)], device=trainer.device)
        distributed.all_reduce(refused, group=trainer.data_parallel_process_group)
        if refusal is None and refused.item():
            raise Refusal("the first rank of this training does not begin, and its message says why")
    if refusal is not None:
        raise refusal


def end_what_is_done(trainer: Any) -> None:
    """Stock looks at ``--max-update`` only after a step, so each start of a finished training would add one.

    Raises:
        SystemExit: with status 0.
    """
    done, most = trainer.get_num_updates(), trainer.cfg.optimization.max_update
    if 0 < most <= done:
        if trainer.data_parallel_rank == 0:
            folder = trainer.cfg.checkpoint.save_dir
            print(f"{folder} has {done} updates, --max-update {most} is reached: nothing to do", flush=True)
        raise SystemExit(0)


def _suffixes(trainer: Any) -> List[str]:
    """Of the files that make one checkpoint."""
    own = trainer.checkpoint_suffix
    if not own.endswith("-rank-0"):
        return [own]
    return [f"{own.removesuffix('-rank-0')}-rank-{rank}" for rank in range(trainer.data_parallel_world_size)]


def lock_folder(folder: str, suffix: str = "") -> None:
    """Let no other training begin in ``folder`` while this process lives.

    Args:
        suffix: of the checkpoints; trainings with different ones may share a folder.
    Raises:
        Refusal: another process trains there.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        return
    path = os.path.join(os.path.realpath(folder), f".training{suffix}.lock")
    if path in _held:
        return
    os.makedirs(folder, exist_ok=True)
    try:
        lock = open(path, "a")  # noqa: SIM115
    except PermissionError:  # of another user, in a folder of several
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        from fairseq_plugins.compat import Refusal

        raise Refusal(f"another training is running in --save-dir {folder}; wait for it or stop it, or give another "
                      "folder") from None
    except OSError:  # a file system without locks
        return
    if not _held:  # processes that load data would hold it for seconds after a kill of this one
        os.register_at_fork(after_in_child=_let_go)
    _held[path] = lock


def _let_go() -> None:
    for lock in _held.values():
        lock.close()


def repair_last(folder: Path, suffixes: Sequence[str] = ("",), check_content: bool = False) -> Optional[int]:
    """Updates in ``checkpoint_last*.pt``, None if there is none; damaged or unequal ones are replaced first.

    A training is killed while it writes, or a disk damages a file; ranks with a file each are killed when some have
    written. The newest checkpoint that can be read, for all ranks at once, takes their place; it may be one that was
    written and had not got its name. What was damaged stays as ``....damaged``. What can be read and says nothing of
    updates, or cannot be opened, is none of our business.

    Args:
        folder: of the checkpoints.
        suffixes: behind the name of each file that makes one checkpoint, such as "-rank-0".
        check_content: compare the checksums of all that the last one holds; costs the reading of it.
    Raises:
        CheckpointError: nothing can take the place of what is damaged.
    """
    from fairseq_plugins.compat import CheckpointError

    lasts = [folder / f"{LAST}{suffix}.pt" for suffix in suffixes]
    if not any(path.exists() for path in lasts):
        return None
    known = [_look_into(path, check_content) for path in lasts if path.exists()]
    damage = next((said for _, said in known if said), "")
    if not damage and any(updates is None for updates, _ in known):
        return None
    if len(known) == len(lasts) and not damage and len({updates for updates, _ in known}) == 1:
        return known[0][0]
    missing = [path for path in lasts if not path.exists()]
    if missing and not any(path.with_name(f"{path.name}.tmp").exists() for path in missing):
        return None  # files of another number of ranks, or on another machine
    problem = damage or f"{lasts[0]} and those of other ranks are of different updates"
    newest: Dict[int, List[Path]] = {}
    for number, suffix in enumerate(suffixes):
        for path in [*folder.glob(f"checkpoint*{suffix}.pt"), *folder.glob(f"checkpoint*{suffix}.pt.tmp")]:
            updates = _look_into(path, check_content)[0] if suffix or "-rank-" not in path.name else None
            if updates is not None and len(newest.setdefault(updates, [])) == number:
                newest[updates].append(path)
    whole = [updates for updates, paths in newest.items() if len(paths) == len(suffixes)]
    if not whole:
        raise CheckpointError(f"{problem}; no other checkpoint in {folder} can replace it, so move {LAST}*.pt away to "
                              "start again")
    updates = max(whole)
    for source, path in zip(newest[updates], lasts, strict=True):
        if source != path:
            temporary = f"{path}.repaired"
            shutil.copyfile(source, temporary)
            if path.exists():
                os.replace(path, f"{path}.damaged")
            os.replace(temporary, path)
    print(f"{problem}\ngoing on from {newest[updates][0].name}, update {updates}", file=sys.stderr, flush=True)
    return updates


def _look_into(path: Path, check_content: bool) -> Tuple[Optional[int], str]:
    """Updates of a checkpoint, if it says, and how it is damaged, if it is."""
    import torch

    from fairseq_plugins.compat import CheckpointError, DamagedCheckpoint, safe_load

    try:
        state = safe_load(path)
        if check_content and zipfile.is_zipfile(path) and torch.serialization.get_crc32_options():
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return None, f"checkpoint {path} is damaged: a checksum in it is wrong"
        return int(state["optimizer_history"][-1]["num_updates"]), ""
    except (DamagedCheckpoint, zipfile.BadZipFile) as error:
        return None, str(error)
    except (CheckpointError, KeyError, IndexError, TypeError, ValueError):
        return None, ""


def bind_checkpoints_to_dictionaries() -> None:
    """Refuse to go on with a dictionary in which the same rows mean other symbols: nothing else would notice."""
    import hashlib

    from fairseq.trainer import Trainer

    load, state_dict = Trainer.load_checkpoint, Trainer.state_dict

    def hashes(trainer: Any) -> Dict[str, str]:
        found = {}
        for side in ("source", "target"):
            try:
                symbols = getattr(trainer.task, f"{side}_dictionary").symbols
            except (AttributeError, NotImplementedError, KeyError):  # a task without it
                continue
            found[side] = hashlib.sha256("\n".join(symbols).encode()).hexdigest()
        return found

    @functools.wraps(load)
    def load_checkpoint(self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any) -> Any:
        extra_state = load(self, filename, reset_optimizer, *args, **kwargs)
        before = (extra_state or {}).get(DICTIONARIES) or {}
        for side, now in hashes(self).items() if not reset_optimizer else ():
            if before.get(side, now) != now:
                from fairseq_plugins.compat import Refusal

                raise Refusal(f"checkpoint {filename} was trained with another {side} dictionary than that of the "
                              "data, whose rows mean other symbols; give the data it was trained on, or another "
                              "--save-dir")
        return extra_state

    @functools.wraps(state_dict)
    def state_dict_(self: Any) -> Any:
        state = state_dict(self)
        state["extra_state"][DICTIONARIES] = hashes(self)
        return state

    Trainer.load_checkpoint, Trainer.state_dict = load_checkpoint, state_dict_

"""Checkpoints that survive a kill, a full disk and a second training in their folder.

For every training that imports the package. Applied by ``compat.apply()``.
"""

import contextlib
import functools
import os
import shutil
import sys
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

LAST = "checkpoint_last"
LOCK = ".training.lock"  # beside .lock, which `opus100 train` holds while it writes what it hands to fairseq-train
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
        _whole(filename, lambda temporary: torch.save(obj, temporary))

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if not PathManager.supports_rename(dst_path):
            return copy_stock(src_path, dst_path, overwrite)
        _whole(dst_path, lambda temporary: shutil.copyfile(src_path, temporary))
        return True

    checkpoint_utils.torch_persistent_save = torch_persistent_save
    PathManager.copy = staticmethod(copy)


_before_rename: Callable[[], None] = lambda: None  # noqa: E731


@contextlib.contextmanager
def together(meet: Callable[[], None]) -> Iterator[None]:
    """Call ``meet`` between writing a checkpoint and giving it its name.

    Ranks that have a file each meet there: none has a new checkpoint, and removes old ones, before all have it.
    """
    global _before_rename
    _before_rename = meet
    try:
        yield
    finally:
        _before_rename = lambda: None  # noqa: E731


def _whole(filename: str, write: Callable[[str], Any]) -> None:
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

                raise Refusal(f"checkpoint {filename} cannot be written: {why_not_written(error, filename)}; what was "
                              "written before is whole, so mend that and give the same command again") from None
        time.sleep(PAUSE)
    _before_rename()
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
    from fairseq.distributed import utils as distributed

    load = checkpoint_utils.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(cfg: Any, trainer: Any, **passthrough: Any) -> Any:
        if trainer.data_parallel_rank == 0 and not cfg.no_save:
            hold(cfg.save_dir)
        if trainer.data_parallel_rank == 0 and cfg.restore_file == f"{LAST}.pt" and not trainer.is_fsdp:
            repair_last(Path(cfg.save_dir), _suffixes(trainer))
        if trainer.data_parallel_world_size > 1:
            distributed.all_reduce(_one_on(trainer.device), group=trainer.data_parallel_process_group)  # wait for it
        loaded = load(cfg, trainer, **passthrough)
        end_what_is_done(trainer)
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


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


def _one_on(device: Any) -> Any:
    import torch

    return torch.ones(1, device=device)


def _suffixes(trainer: Any) -> List[str]:
    """Of the files that make one checkpoint."""
    own = trainer.checkpoint_suffix
    if not own.endswith("-rank-0"):
        return [own]
    return [f"{own.removesuffix('-rank-0')}-rank-{rank}" for rank in range(trainer.data_parallel_world_size)]


def hold(folder: str) -> None:
    """Let no other training begin in ``folder`` while this process lives.

    Raises:
        Refusal: another process trains there.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        return
    folder = os.path.realpath(folder)
    if folder in _held:
        return
    os.makedirs(folder, exist_ok=True)
    lock = open(os.path.join(folder, LOCK), "a")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        from fairseq_plugins.compat import Refusal

        raise Refusal(f"another training is running in --save-dir {folder}; wait for it or stop it, or give another "
                      "folder") from None
    except OSError:  # a file system without locks
        return
    _held[folder] = lock


def repair_last(folder: Path, suffixes: Sequence[str] = ("",)) -> Optional[int]:
    """Updates in ``checkpoint_last*.pt``, None if there is none; unreadable or unequal ones are replaced first.

    A training is killed while it writes, or a disk damages a file; ranks with a file each are killed when some have
    written. The newest checkpoint that can be read, for all ranks at once, takes their place; it may be one that was
    written and had not got its name.

    Args:
        folder: of the checkpoints.
        suffixes: behind the name of each file that makes one checkpoint, such as "-rank-0".
    Raises:
        CheckpointError: nothing can take the place of what is unreadable.
    """
    from fairseq_plugins.compat import CheckpointError

    lasts = [folder / f"{LAST}{suffix}.pt" for suffix in suffixes]
    if not any(path.exists() for path in lasts):
        return None
    known = [_updates(path) for path in lasts]
    if len({updates for updates, _ in known}) == 1 and known[0][0] is not None:
        return known[0][0]
    missing = [path for path in lasts if not path.exists()]
    if missing and not any(path.with_name(f"{path.name}.tmp").exists() for path in missing):
        return None  # files of another number of ranks, or on another machine
    problem = next((said for _, said in known if said), f"{lasts[0]} and those of other ranks are of different updates")
    newest: Dict[int, List[Path]] = {}
    for number, suffix in enumerate(suffixes):
        for path in [*folder.glob(f"checkpoint*{suffix}.pt"), *folder.glob(f"checkpoint*{suffix}.pt.tmp")]:
            updates = _updates(path)[0] if suffix or "-rank-" not in path.name else None
            if updates is not None and len(newest.setdefault(updates, [])) == number:
                newest[updates].append(path)
    whole = [updates for updates, paths in newest.items() if len(paths) == len(suffixes)]
    if not whole:
        raise CheckpointError(f"{problem}; no other checkpoint in {folder} can replace it, so remove {LAST}*.pt to "
                              "start again")
    updates = max(whole)
    for source, path in zip(newest[updates], lasts, strict=True):
        if source != path:
            temporary = f"{path}.repaired"
            shutil.copyfile(source, temporary)
            os.replace(temporary, path)
    print(f"{problem}\ngoing on from {newest[updates][0].name}, update {updates}", file=sys.stderr, flush=True)
    return updates


def _updates(path: Path) -> Tuple[Optional[int], str]:
    """Of a checkpoint, or what is wrong with it."""
    from fairseq_plugins.compat import CheckpointError, safe_load

    try:
        return int(safe_load(path)["optimizer_history"][-1]["num_updates"]), ""
    except CheckpointError as error:
        return None, str(error)
    except (KeyError, IndexError, TypeError, ValueError):
        return None, f"{path} is no checkpoint of a training"


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
        before = (extra_state or {}).get("dictionaries") or {}
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
        state["extra_state"]["dictionaries"] = hashes(self)
        return state

    Trainer.load_checkpoint, Trainer.state_dict = load_checkpoint, state_dict_

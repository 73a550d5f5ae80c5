"""`train --init-from`: start a new run with the weights of a checkpoint, under DATA's dictionary.

fairseq's own --finetune-from-model does it: optimiser, learning rate and epochs begin anew, and a run that has a
checkpoint of its own never looks at the file again. What is added here is the dictionary. Rows have no meaning but
through it and fairseq compares nothing: with another one of the same size every word would get another's vector. Where
the two differ, rows move by their symbol into RUN/init.pt. Whether the checkpoint fits --arch is seen before training.
"""

import argparse
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import is_filler, task_symbols
from fairseq_plugins.opus100.add_symbols import rows_of_checkpoint
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of, sound, write_checkpoint
from fairseq_plugins.opus100.files import read_json, read_symbols, sha256_of
from fairseq_plugins.opus100.run_folder import data_of_checkpoint, quiet_engine

RECORD = "init_from"  # key in RUN/manifest.json
FEWEST_SHARED = 0.25  # of DATA's pieces; fewer mean another kind of vocabulary, and a model that knows few words
_OWN_WORDS = ("--finetune-from-model", "--restore-file", "--reset-optimizer", "--reset-lr-scheduler", "--reset-meters",
              "--reset-dataloader")  # fmt: skip
# of --arch xlm_t and unilmv2_seq2seq: read only where no checkpoint gives weights
_OTHER_STARTS = ("--init-encoder", "--init-decoder", "--pretrained-checkpoint")
# Options that say what parameters compute, beside the attention temperature; others with an effect show in the names
# or shapes of parameters.
_MEANING = re.compile(
    r"residual|activation_fn|(?<!clip_)norm|heads|scale_embedding|positional|relative|moe_(router|gate|top_k)"
)


class Start(NamedTuple):
    """Where the weights of a run come from."""

    file: Path  # for --finetune-from-model
    record: Dict[str, Any]  # for RUN/manifest.json
    state: Optional[Dict[str, Any]]  # the checkpoint under DATA's dictionary; None in a run that has begun

    @property
    def flags(self) -> List[str]:
        """For fairseq-train."""
        return ["--finetune-from-model", str(self.file)]


def add_arguments(parser: Any) -> None:
    """Declare the options."""
    parser.add_argument("--init-from", type=Path, metavar="CKPT",
                        help="start a new run with the weights of this checkpoint, its rows moved to DATA's dictionary "
                             "by symbol; not looked at when a run goes on")  # fmt: skip
    parser.add_argument("--init-dictionary", type=Path, metavar="FILE",
                        help="dictionary of CKPT (default: the one beside it, or the one it was trained with if that "
                             "is where it was)")  # fmt: skip


def find_start(args: argparse.Namespace, manifest: Dict[str, Any]) -> Optional[Start]:
    """Read and check the checkpoint of a new run; only the record of one that goes on. Writes nothing.

    Args:
        args: of `train`, folders absolute.
        manifest: of DATA.
    Returns:
        None without --init-from.
    Raises:
        UserError: RUN began otherwise, the checkpoint is missing or damaged, or its dictionary is unknown or another.
    """
    if args.init_from is None:
        if args.init_dictionary is not None:
            raise UserError(f"--init-dictionary {args.init_dictionary} means nothing without --init-from")
        return None
    clash = [word for word in args.fairseq_args if word.split("=")[0] in _OWN_WORDS]
    if clash:
        raise UserError(f"--init-from does not go with {clash[0]}: it starts optimiser and schedule anew by itself")
    clash = [word for word in args.fairseq_args if word.split("=")[0] in _OTHER_STARTS]
    if clash:
        raise UserError(f"--init-from does not go with {clash[0]}, which would not be read: the checkpoint gives the "
                        "model its weights; leave one of the two out")
    path = args.init_from.absolute()
    if (args.run / "checkpoint_last.pt").exists():
        record = began_from(args.run)
        if record is None:
            raise UserError(f"--init-from {path}: {args.run} has begun without it; give another --run, or leave it out")
        if record["checkpoint"] != str(path) and record.get("sha256") != sha256_of(path):
            raise UserError(f"--init-from {path}: {args.run} began from {record['checkpoint']}; give that, or another "
                            "--run")
        return Start(Path(record["file"]), record, None)
    state = load_state(path)
    with sound(path):
        return _new_start(args, manifest, path, state)


def _new_start(args: argparse.Namespace, manifest: Dict[str, Any], path: Path, state: Dict[str, Any]) -> Start:
    record = {"checkpoint": str(path), "sha256": sha256_of(path), "file": str(path)}
    rows = read_symbols(args.data / "dict.txt")
    old, where = dictionary_of(path, state, args.init_dictionary, args.data, manifest)
    if old == rows:
        return Start(path, {**record, "dictionary": "the same"}, state)
    shared = check_shared(old, rows, where, args.data)
    record.update(file=str(args.run / "init.pt"), dictionary=str(where), shared_symbols=shared,
                  new_symbols=sum(1 for symbol in rows if not is_filler(symbol)) - shared)  # fmt: skip
    return Start(args.run / "init.pt", record, moved(path, state, old, rows, args.seed))


def began_from(run: Path) -> Optional[Dict[str, Any]]:
    """The record of the checkpoint that RUN began from, None if it began from nothing.

    Raises:
        UserError: its manifest is damaged.
    """
    return (read_json(run / "manifest.json", {f"{RECORD}?": {"checkpoint": str, "file": str}}) or {}).get(RECORD)


def dictionary_of(
    path: Path, state: Dict[str, Any], given: Optional[Path], data: Path, manifest: Dict[str, Any]
) -> Tuple[List[str], Path]:
    """The dictionary of a checkpoint, row 0 first, with what its task appended, and the file it stands in.

    Args:
        path, state: the checkpoint.
        given: --init-dictionary.
        data, manifest: DATA, whose dictionary it is where the manifest beside the checkpoint names the same hash.
    Raises:
        UserError: none is found, or it has not one row for each of the checkpoint's embedding.
    """
    from fairseq_plugins.checkpoints.own_dictionary import dictionary_files
    from fairseq_plugins.checkpoints.remap_symbols import VOCABULARY_PARAMETERS

    sizes = {len(tensor) for name, tensor in state["model"].items() if name.endswith(VOCABULARY_PARAMETERS)}
    if len(sizes) != 1:
        problem = "has no token table" if not sizes else "has token tables of different sizes"
        raise UserError(f"--init-from {path} {problem}, so it cannot be given DATA's dictionary")
    size, bound = sizes.pop(), data_of_checkpoint(path, state)
    digest = None if bound is None else bound["sha256"]["dict.txt"]
    if given is not None:
        candidates = [given]
    else:
        candidates = dictionary_files(path, options_of(state, "task"))
        candidates += [data / "dict.txt"] if digest == manifest["sha256"]["dict.txt"] else []
    for file in candidates:
        if given is None and (not file.is_file() or digest not in (None, sha256_of(file))):
            continue
        rows = rows_of_checkpoint(state, read_symbols(file))
        if len(rows) == size:
            return rows, file
        if given is not None:
            raise UserError(f"--init-dictionary {given} has {len(rows)} symbols, but {path} has {size} rows in its "
                            "embedding: give the dictionary it was trained with")
    raise UserError(f"--init-from {path}: the dictionary of its {size} rows is neither beside it nor where it was "
                    "trained from; give it with --init-dictionary FILE")


def check_shared(old: Sequence[str], rows: Sequence[str], where: Path, data: Path) -> int:
    """How many of DATA's symbols the checkpoint knows.

    Raises:
        UserError: too few of its pieces to be worth it.
    """
    known, ours = set(old), set(task_symbols([]))
    pieces = [symbol for symbol in rows[4:] if not is_filler(symbol) and symbol not in ours]
    shared = sum(1 for piece in pieces if piece in known)
    if shared < FEWEST_SHARED * len(pieces):
        raise UserError(f"--init-from: only {shared:,} of the {len(pieces):,} pieces of {data / 'dict.txt'} are in "
                        f"{where}, the checkpoint's dictionary; prepare DATA with the vocabulary of the checkpoint")
    return sum(1 for symbol in rows if symbol in known and not is_filler(symbol))


def moved(path: Path, state: Dict[str, Any], old: List[str], rows: List[str], seed: int) -> Dict[str, Any]:
    """A checkpoint for DATA's dictionary with nothing of the training that made it but its options.

    Raises:
        UserError: it cannot be moved.
    """
    from fairseq_plugins.checkpoints.remap_symbols import remap_state_dict

    try:
        model = remap_state_dict(state["model"], old, rows, seed).state
    except ValueError as error:
        raise UserError(f"--init-from {path}: {error}") from None
    anew = {"epoch": 1, "iterations_in_epoch": 0, "version": 2}
    return {
        "args": state.get("args"),
        "cfg": state.get("cfg"),
        "model": model,
        "criterion": state.get("criterion"),
        "optimizer_history": [{**state["optimizer_history"][-1], "num_updates": 0, "lr_scheduler_state": {}}],
        "task_state": state.get("task_state", {}),
        "extra_state": {"train_iterator": anew},
        "last_optimizer_state": None,
    }


def check_fit(start: Start, command: Sequence[str]) -> None:
    """See that the model of a command takes the checkpoint's weights, and means the same by them.

    Args:
        start: of a new run; of one that goes on nothing is looked at.
        command: of `train`.
    Raises:
        UserError: it does not; an option of the command is refused.
        SystemExit: the engine cannot parse the command.
    """
    if start.state is None:
        return
    import torch

    with quiet_engine():
        fairseq_plugins.register()
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from omegaconf import OmegaConf

        words = list(command[command.index("fairseq_cli.train") + 1 :])
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        cfg = convert_namespace_to_omegaconf(parsed)
        task = tasks.setup_task(cfg.task)
        with torch.device("meta"):  # names and shapes alone
            model = task.build_model(cfg.model)
        weights = dict(start.state["model"])
        model.upgrade_state_dict(weights)
    what = f"--init-from {start.record['checkpoint']} does not fit --arch {parsed.arch}"
    trained, wanted = options_of(start.state, "model"), cfg.model
    if OmegaConf.is_config(wanted):  # of a model with a dataclass, which has filled in its defaults by now
        wanted = argparse.Namespace(**OmegaConf.to_container(wanted, resolve=True, enum_to_str=True))
    differing = [
        f"--{name.replace('_', '-')} was {trained[name]} and is {value}"
        for name, value in vars(wanted).items()
        if _MEANING.search(name) and name in trained and str(trained[name]) != str(value)
    ]
    differing += _other_temperature(trained, vars(wanted))
    here, there = ({name: tuple(of.shape) for name, of in all_.items()} for all_ in (model.state_dict(), weights))
    shapes = [name for name in here if name in there and here[name] != there[name]]
    differing += [f"{name} has shape {there[name]} there and {here[name]} here" for name in shapes]
    differing += [f"{name} is missing there" for name in here if name not in there]
    differing += [f"{name} is not in this model" for name in there if name not in here]
    if differing:
        more = f"; {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"{what}: {'; '.join(differing[:3])}{more}; give the architecture and sizes it was trained "
                        "with")


def _other_temperature(trained: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[str]:
    """What differs in the attention temperature: 0, and no such option, as in older files, are the width of a head."""
    was, now = (float(of.get("attention_temperature") or 0) for of in (trained, wanted))
    if was == now:
        return []
    widths = [wanted.get("attention_head_dim") or wanted[f"{side}_embed_dim"] // wanted[f"{side}_attention_heads"]
              for side in ("encoder", "decoder") if wanted.get(f"{side}_attention_heads")]  # fmt: skip
    if all((was or width) == (now or width) for width in widths):
        return []
    return [f"--attention-temperature was {was} and is {now} (0: the width of a head)"]


def write_start(start: Start) -> None:
    """Write the file for --finetune-from-model where that is not the checkpoint itself.

    Raises:
        UserError: it cannot be written.
    """
    if start.state is not None and start.file != Path(start.record["checkpoint"]):
        write_checkpoint(start.state, start.file, "--run")
        print(f"{start.file}: {start.record['shared_symbols']:,} rows of {start.record['checkpoint']}, moved by symbol "
              f"from {start.record['dictionary']}; {start.record['new_symbols']:,} symbols start anew", flush=True)

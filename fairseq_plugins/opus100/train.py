"""Train one model on every direction of a prepared corpus: writes the full fairseq-train command and runs it.

The command is stock fairseq-train, this package as --user-dir. Task (translation_multi_validated), loss
(chunked_label_smoothed_cross_entropy) and optimiser (fused_adam) are fairseq's own, faster or with more in the log.
RUN/command.sh holds the command, so it can be read, changed and run by hand. The same verb again goes on from
RUN/checkpoint_last.pt. Words after `--` reach fairseq-train as they are and win over the flags here.
"""

import argparse
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins._whole_checkpoints import repair_last
from fairseq_plugins.opus100 import init_from
from fairseq_plugins.opus100.checkpoint_files import load_state
from fairseq_plugins.opus100.files import plain_os_errors, write_json, write_whole
from fairseq_plugins.opus100.run_folder import (
    bound_data,
    check_same_data,
    make_folder,
    only_one,
    read_manifest,
)
from fairseq_plugins.opus100.training_command import OPEN_FILES, build_command, command_script, read_pairs

GRACE = 10  # seconds after Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="folder written by prepare")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="folder for checkpoints and logs")
    parser.add_argument("--dry-run", action="store_true", help="print the command and write nothing")
    model = parser.add_argument_group("model")
    model.add_argument("--arch", default="deepnet_mt_12l", help="fairseq architecture (default: %(default)s)")
    model.add_argument("--dropout", type=float, default=0.1, metavar="P", help="default: %(default)s")
    model.add_argument("--separate-embeddings", action="store_true",
                       help="do not tie the two embeddings and the output projection (tied by default, and always by "
                            "the presets deepnet_mt_* and magneto_mt_*)")
    model.add_argument("--max-positions", type=int, metavar="N",
                       help="longest sentence in pieces, both sides, tag and end included; longer ones are not trained "
                            "on (default: prepare's --max-length + 2, so that all of DATA is)")
    init_from.add_arguments(model)
    data = parser.add_argument_group("data and batches")
    data.add_argument("--sampling", default="temperature:5", metavar="HOW",
                      help="how often each direction is seen: temperature:T, ramp:T0:T:N (XLM-T's, from T0 to T over N "
                           "epochs) or concat (default: %(default)s)")
    data.add_argument("--max-tokens", type=int, default=4096, metavar="N",
                      help="pieces per batch and device, padding included (default: %(default)s)")
    data.add_argument("--update-freq", type=int, default=1, metavar="N",
                      help="batches per update; the papers' batch is 128 x 4096 tokens, N = 128 / number of devices "
                           "(default: %(default)s)")
    data.add_argument("--workers", type=int, metavar="N",
                      help="processes that load data (default: 0 on CPU, 2 with a GPU)")
    recipe = parser.add_argument_group("recipe (DeepNet, section 5)")
    recipe.add_argument("--max-update", type=int, default=100000, metavar="N", help="default: %(default)s")
    recipe.add_argument("--lr", type=float, default=5e-4, help="peak, inverse square root (default: %(default)s)")
    recipe.add_argument("--warmup-updates", type=int, default=4000, metavar="N", help="default: %(default)s")
    recipe.add_argument("--label-smoothing", type=float, default=0.1, metavar="P", help="default: %(default)s")
    recipe.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    valid = parser.add_argument_group("validation")
    valid.add_argument("--valid-lines", type=int, default=100, metavar="N",
                       help="lines of each direction to validate on, the same every time; the loss of each direction "
                            "and the mean of all are logged. 0: one loss over all lines (default: %(default)s)")
    valid.add_argument("--valid-scores", default="", metavar="NAMES",
                       help="log these too, comma separated: bleu, sentence_chrf; costs a translation of the lines")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16", "amp"], default="auto",
                         help="auto: bf16 on a GPU that has it, fp16 on an older GPU, fp32 on CPU")
    machine.add_argument("--threads", type=int, metavar="N",
                         help="CPU threads (default: OMP_NUM_THREADS if set, else one per core)")
    machine.add_argument("--cpu", action="store_true", help="do not use a GPU (the default where none is found)")
    machine.add_argument("--save-interval-updates", type=int, default=1000, metavar="N",
                         help="updates between checkpoints, each with a validation (default: %(default)s)")
    machine.add_argument("--keep-checkpoints", type=int, default=5, metavar="N",
                         help="how many of them stay, beside best and last (default: %(default)s)")
    machine.add_argument("--log-interval", type=int, default=100, metavar="N",
                         help="updates between lines of train.log (default: %(default)s)")
    parser.add_argument("fairseq_args", nargs="*", metavar="-- FAIRSEQ ARGUMENTS",
                        help="everything after -- goes to fairseq-train as it is")


def check_options(args: argparse.Namespace) -> None:
    """Refuse what fairseq-train would refuse late, or take for something else.

    Raises:
        UserError: a number out of range, or a word that is none of fairseq's, named by its flag.
    """
    check_at_least(args, max_positions=2, max_tokens=1, update_freq=1, max_update=1, warmup_updates=0, seed=0)
    check_at_least(args, workers=0, threads=1, save_interval_updates=0, keep_checkpoints=0, log_interval=1)
    if args.warmup_updates == 0 and not any(word.startswith("--lr-scheduler") for word in args.fairseq_args):
        raise UserError("--warmup-updates 0 must be at least 1: the inverse square root begins after the warm-up")
    for name in ("dropout", "label_smoothing"):
        if not 0 <= vars(args)[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {vars(args)[name]:g} must be at least 0 and below 1")
    if args.lr <= 0:
        raise UserError(f"--lr {args.lr:g} must be above 0")
    if not re.fullmatch(r"\w[\w.-]*", args.arch, re.ASCII):
        raise UserError(f"--arch {args.arch!r} is no name of an architecture; deepnet_mt_12l is one")


def run(args: argparse.Namespace) -> int:
    check_options(args)
    args.data, args.run = args.data.absolute(), args.run.absolute()  # command.sh then works from any directory
    manifest = read_manifest(args.data)
    trained = bound_data(args.run)
    if trained is not None:
        check_same_data(trained, f"{args.run}", manifest, args.data)
    start = init_from.find_start(args, manifest)

    def made() -> Tuple[Dict[str, str], List[str]]:
        return build_command(args, manifest, [*kept_flags(args), *(start.flags if start else [])])

    environment, command = made()
    if start:
        init_from.check_fit(start, command)
    if args.dry_run:
        print(command_script(environment, command), end="")
        return 0
    make_folder(args.run, "--run")
    with plain_os_errors(args.run), only_one(args.run) as held:
        done = repair_last(args.run)
        if done is not None and done >= args.max_update:
            # the engine looks at --max-update only after a step: started again, it would take one more
            print(f"{args.run} has {done} updates, --max-update {args.max_update} is reached: nothing to do")
            return 0
        environment, command = made()  # again: of the checkpoint that may just have been repaired
        if start:
            init_from.write_start(start)
        record = start.record if start else init_from.began_from(args.run) if done is not None else None
        keep_manifest(args.data, args.run, record)
        keep_script(args.run / "command.sh", command_script(environment, command))
        raise_open_file_limit(needed=8 * len(read_pairs(args.data)))
        status = run_to_the_end(command, environment, held)
    if status:
        raise UserError(f"fairseq-train ended with status {status}; its message is above, the command is in "
                        f"{args.run / 'command.sh'}")
    return 0


def run_to_the_end(command: List[str], environment: Dict[str, str], held: List[int]) -> int:
    """Run a command and return its status.

    Raises:
        KeyboardInterrupt: as soon as an interrupted command has ended by itself. It is not killed: a checkpoint that is
            just being written would be left half.
    """
    process = subprocess.Popen(command, env={**os.environ, **environment}, pass_fds=held)
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:  # a terminal tells both of us; here only this process was told
            process.send_signal(signal.SIGINT)
            process.wait()
        raise


def kept_flags(args: argparse.Namespace) -> List[str]:
    """Loss and optimiser of the checkpoint that RUN goes on from, where they are fairseq's own: it insists on them.

    Also fairseq's Adam where the weights are to stay in half precision, which no other has.
    """
    flags = []
    last = args.run / "checkpoint_last.pt"
    if last.is_file():
        try:
            history = load_state(last)["optimizer_history"][-1]
        except UserError:  # it is repaired, or refused, later on
            history = {}
        if history.get("criterion_name") == "LabelSmoothedCrossEntropyCriterion":
            flags += ["--criterion", "label_smoothed_cross_entropy"]
        if history.get("optimizer_name") == "FairseqAdam":
            flags += ["--optimizer", "adam"]
    if any(word.startswith("--memory-efficient-") for word in args.fairseq_args):
        flags += ["--optimizer", "adam"]
    return flags


def keep_manifest(data: Path, run: Path, record: Optional[Dict]) -> None:
    """DATA's manifest and dictionary in RUN: what its checkpoints are bound to.

    Args:
        record: of the checkpoint that RUN began from, if it began from one.
    """
    write_whole(run / "dict.txt", (data / "dict.txt").read_bytes())
    if record is None:
        write_whole(run / "manifest.json", (data / "manifest.json").read_bytes())
    else:
        write_json(run / "manifest.json", {**read_manifest(data), init_from.RECORD: record})


def keep_script(path: Path, script: str) -> None:
    """Write ``path``; an earlier, different command stays beside it as command.1.sh, command.2.sh, ..."""
    if path.exists():
        if path.read_text(encoding="utf-8") == script:
            return
        number = 1
        while path.with_name(f"command.{number}.sh").exists():
            number += 1
        path.rename(path.with_name(f"command.{number}.sh"))
        print(f"the command differs from the last one in {path.parent}, which is kept as command.{number}.sh")
    write_whole(path, script.encode())
    path.chmod(0o755)


def raise_open_file_limit(needed: int) -> None:
    """Let this process and its children open ``needed`` files and some more, as far as the system allows.

    Of memory-mapped data sets: 204 directions with train and valid take 1,632 in the stock task, half of it in ours.
    """
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        soft = ceiling
    if soft != resource.RLIM_INFINITY and soft < needed + 200:
        raise UserError(f"the system allows {soft} open files, these pairs need about {needed + 200}: raise the hard "
                        "limit (ulimit -Hn)")

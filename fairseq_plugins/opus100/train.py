"""Train one model on every direction of a prepared corpus: writes the full fairseq-train command and runs it.

The command is stock fairseq-train, this package as --user-dir. Task (translation_multi_validated), loss
(chunked_label_smoothed_cross_entropy) and optimiser (fused_adam) are fairseq's own, faster or with more in the log.
RUN/command.sh holds the command, so it can be read, changed and run by hand. The same verb again goes on from
RUN/checkpoint_last.pt. Words after `--` reach fairseq-train as they are and win over the flags here.
"""

import argparse
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins._whole_checkpoints import repair_last
from fairseq_plugins.data.symbols import TAG_SCHEMES, language_tag
from fairseq_plugins.opus100 import init_from
from fairseq_plugins.opus100.checkpoint_files import load_state
from fairseq_plugins.opus100.facts import MULTILINGUAL, RAMP, VALIDATED
from fairseq_plugins.opus100.files import plain_os_errors, write_json, write_whole
from fairseq_plugins.opus100.run_folder import (
    bound_data,
    check_same_data,
    make_folder,
    only_one,
    quiet_engine,
    read_manifest,
)
from fairseq_plugins.opus100.workers import usable_cores

GRACE = 10  # seconds after Ctrl-C
OPEN_FILES = 65536  # asked for, or as many as the system allows: a memory-mapped data set keeps two files open
LONGEST = 258  # pieces in a sentence, tag and end included, for DATA whose manifest does not say prepare's --max-length


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
    environment, command = build_command(args, manifest, [*kept_flags(args), *(start.flags if start else [])])
    if start:
        init_from.check_fit(start, command)
    script = command_script(environment, command)
    if args.dry_run:
        print(script, end="")
        return 0
    make_folder(args.run, "--run")
    with plain_os_errors(args.run), only_one(args.run) as held:
        done = repair_last(args.run)
        if done is not None and done >= args.max_update:
            # the engine looks at --max-update only after a step: started again, it would take one more
            print(f"{args.run} has {done} updates, --max-update {args.max_update} is reached: nothing to do")
            return 0
        if start:
            init_from.write_start(start)
        record = start.record if start else init_from.began_from(args.run) if done is not None else None
        keep_manifest(args.data, args.run, record)
        keep_script(args.run / "command.sh", script)
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


def build_command(
    args: argparse.Namespace, manifest: Dict, kept: Sequence[str] = ()
) -> Tuple[Dict[str, str], List[str]]:
    """Everything fairseq-train is told, as (environment, words of the command).

    Args:
        args: of this verb.
        manifest: of DATA.
        kept: flags that replace those written here; the user's own, after `--`, win over both.

    Raises:
        UserError: for values that fairseq would refuse only after loading the data.
    """
    longest = args.max_positions or longest_kept(manifest)
    if longest > args.max_tokens:
        raise UserError(f"--max-positions {longest} is more than --max-tokens {args.max_tokens}: "
                        "a batch must hold at least one sentence, so give more tokens or fewer positions")
    if os.pathsep in str(args.data):
        raise UserError(f"--data {args.data} contains '{os.pathsep}', where fairseq splits paths; rename the folder")
    if args.separate_embeddings:
        check_separate(args.arch)
    data, cpu = args.data, args.cpu or not has_gpu()
    workers = args.workers if args.workers is not None else (0 if cpu else 2)
    command = [sys.executable, "-m", "fairseq_cli.train", str(data)]
    command += ["--user-dir", str(Path(__file__).resolve().parents[1]), "--save-dir", str(args.run)]
    command += task_flags(data, manifest, task_name(args))
    command += sampling_flags(args.sampling) + validation_flags(args)
    command += ["--arch", args.arch, "--dropout", f"{args.dropout:g}"]
    command += [] if args.separate_embeddings else ["--share-all-embeddings"]
    command += ["--max-source-positions", f"{longest}", "--max-target-positions", f"{longest}"]
    # a dev sentence over the limit would stop the training at its first validation
    command += ["--skip-invalid-size-inputs-valid-test"]
    command += ["--criterion", "chunked_label_smoothed_cross_entropy", "--label-smoothing", f"{args.label_smoothing:g}"]
    command += ["--optimizer", "fused_adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-08", "--clip-norm", "0"]
    command += ["--lr", f"{args.lr:g}", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", f"{args.warmup_updates}"]
    command += ["--warmup-init-lr", "1e-07", "--weight-decay", "0", "--max-update", f"{args.max_update}"]
    command += ["--max-tokens", f"{args.max_tokens}", "--update-freq", f"{args.update_freq}"]
    command += ["--seed", f"{args.seed}", "--num-workers", f"{workers}"] + precision_flags(args.precision, cpu)
    command += ["--save-interval-updates", f"{args.save_interval_updates}", "--no-epoch-checkpoints"]
    command += ["--keep-interval-updates", f"{args.keep_checkpoints}"]
    command += ["--log-format", "json", "--log-interval", f"{args.log_interval}"]
    command += ["--log-file", str(args.run / "train.log")]
    threads = args.threads or os.environ.get("OMP_NUM_THREADS") or usable_cores()
    return {"OMP_NUM_THREADS": f"{threads}"}, [*command, *kept, *args.fairseq_args]


def longest_kept(manifest: Dict) -> int:
    """Pieces of the longest sentence that prepare leaves in train, with a tag and the end."""
    options = manifest.get("prepare", {}).get("options", {})
    return options["max_length"] + 2 if "max_length" in options else LONGEST


def check_separate(arch: str) -> None:
    """See that an architecture leaves the embeddings apart when it is not told to tie them.

    Raises:
        UserError: it is a preset that ties them, and fairseq has no flag that unties.
    """
    with quiet_engine():
        fairseq_plugins.register()
    from fairseq.models import ARCH_CONFIG_REGISTRY

    filled = argparse.Namespace()
    ARCH_CONFIG_REGISTRY.get(arch, lambda args: None)(filled)  # an unknown one is fairseq-train's to refuse
    if getattr(filled, "share_all_embeddings", False):
        flags = f"--residual {filled.residual} --encoder-layers N ..." if "residual" in filled else "its sizes as flags"
        raise UserError(f"--separate-embeddings does nothing with --arch {arch}, which ties them; give --arch "
                        f"transformer_mt {flags} instead")


def task_name(args: argparse.Namespace) -> str:
    """Of the ramp, of validation by direction, or the stock one where neither is wanted."""
    return RAMP if args.sampling.startswith("ramp") else VALIDATED if args.valid_lines else MULTILINGUAL


def validation_flags(args: argparse.Namespace) -> List[str]:
    """What is measured of every direction when the training validates."""
    check_at_least(args, valid_lines=0)
    if not args.valid_lines and args.valid_scores:
        raise UserError(f"--valid-scores {args.valid_scores} needs --valid-lines above 0")
    scores = ["--valid-scores", args.valid_scores] if args.valid_scores else []
    return ["--valid-lines", f"{args.valid_lines}", *scores] if args.valid_lines else []


def task_flags(data: Path, manifest: Dict, task: str) -> List[str]:
    """The stock multilingual task, or ours with a ramp, over DATA, language pairs and languages given as files.

    One --fixed-dictionary instead of one dictionary per language: for 204 directions the engine would parse the same
    file 206 times (measured with 32k symbols: 13.0 s and 1,133 MB against 7.2 s and 690 MB until the third update).

    Not --enable-reservsed-directions-shared-datasets: it hands the tagged source of a-b to b-a as its target.
    """
    for pair in read_pairs(data):
        if not has_split(data, "valid", pair):
            raise UserError(f"{pair} in {data / 'lang_pairs.txt'} has no dev set, where the engine wants one for every "
                            "pair; run prepare again")
    flags = ["--task", task, "--dataset-impl", "mmap"]
    flags += ["--lang-dict", str(data / "languages.txt"), "--fixed-dictionary", str(data / "dict.txt")]
    return flags + ["--lang-pairs", str(data / "lang_pairs.txt"), *TAG_SCHEMES[manifest["tag_scheme"]]]


def read_pairs(data: Path) -> List[str]:
    """The directions of DATA/lang_pairs.txt."""
    path = data / "lang_pairs.txt"
    if not path.is_file():
        raise UserError(f"{path} is missing; run prepare again")
    try:
        pairs = [pair for pair in path.read_text(encoding="utf-8").strip().split(",") if pair]
        for pair in pairs:
            source, target = pair.split("-")
            language_tag(source), language_tag(target)
    except ValueError as error:  # not UTF-8; not two languages; no language
        raise UserError(f"{path} is damaged ({error}); run prepare again") from None
    if not pairs:
        raise UserError(f"{path} names no pair; run prepare again")
    return pairs


def has_split(data: Path, split: str, direction: str) -> bool:
    source, target = direction.split("-")
    pair = "-".join(sorted((source, target)))
    return (data / f"{split}.{pair}.{source}.idx").is_file()


def sampling_flags(how: str) -> List[str]:
    """``temperature:T``, ``ramp:T0:T:N`` or ``concat`` as flags of the task."""
    method, *words = how.split(":")
    if method == "concat" and not words:
        return ["--sampling-method", "concat"]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    numbers = [number for number in numbers if math.isfinite(number)]
    if method == "temperature" and len(numbers) == 1 and numbers[0] > 0:
        return ["--sampling-method", "temperature", "--sampling-temperature", f"{numbers[0]:g}"]
    if method == "ramp" and len(numbers) == 3 and 0 < numbers[0] <= numbers[1] and words[2].isdigit() and numbers[2]:
        return ["--sampling-temperature-start", f"{numbers[0]:g}", "--sampling-temperature", f"{numbers[1]:g}",
                "--sampling-temperature-epochs", f"{numbers[2]:g}"]  # fmt: skip
    raise UserError(f"--sampling {how} is not understood; give temperature:T with T > 0 (for example temperature:5), "
                    "ramp:T0:T:N from T0 > 0 up to T over N epochs (ramp:1:5:5), or concat")


def precision_flags(precision: str, cpu: bool) -> List[str]:
    if precision == "auto":
        import torch

        precision = "fp32" if cpu else ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
    if precision == "fp16" and cpu:
        raise UserError("--precision fp16 needs a GPU; give --precision fp32")
    return (["--cpu"] if cpu else []) + ([] if precision == "fp32" else [f"--{precision}"])


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def command_script(environment: Dict[str, str], command: List[str]) -> str:
    """The command as a shell script, one flag with its values per line."""
    lines: List[str] = []
    for position, word in enumerate(command):
        if position <= 3 or not word.startswith("--"):
            joined = f" {shlex.quote(word)}" if lines else shlex.quote(word)
            lines[-1:] = [lines[-1] + joined] if lines else [joined]
        else:
            lines.append(f"  {word}")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    return ("#!/bin/sh\n# `python -m fairseq_cli.train` is fairseq-train; this runs it with one fixed interpreter.\n"
            f"{exports}ulimit -n {OPEN_FILES} 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"\nexec "
            + " \\\n".join(lines) + "\n")


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

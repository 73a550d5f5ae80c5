"""The words of `fairseq-train` that `opus100 train` runs, and the script that holds them."""

import argparse
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins.data.symbols import TAG_SCHEMES, language_tag
from fairseq_plugins.opus100.facts import MULTILINGUAL, RAMP, VALIDATED
from fairseq_plugins.opus100.run_folder import quiet_engine
from fairseq_plugins.opus100.workers import usable_cores

OPEN_FILES = 65536  # asked for, or as many as the system allows: a memory-mapped data set keeps two files open
LONGEST = 258  # pieces in a sentence, tag and end included, for DATA whose manifest does not say prepare's --max-length


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

"""Write a checkpoint in another form: for stock fairseq, CTranslate2 or transformers, or one model of an electra.

    export run/checkpoint_best.pt --to fairseq --output stock.pt
    export run/checkpoint_best.pt --to ctranslate2 --data DATA --quantization int8 --output served
    export run/checkpoint_best.pt --to huggingface --data DATA --output folder
    export run/checkpoint_best.pt --to discriminator --output discriminator.pt

DeepNorm is folded into plain post-norm, exactly but for the eps of norms (docs/serving.md). `fairseq` is a checkpoint
of stock `--arch transformer`, to be loaded without --user-dir. `ctranslate2` is a folder with all that is needed to
translate: give it to `translate --model` or `opus100 evaluate --checkpoint`. Models with Sub-LN, with experts that are
not pruned to one, and language models have no such form and are refused.

`huggingface` is a folder with the encoder of a masked language model or of a translation model, as an XLM-R (or, with
--residual pre, a roberta-prelayernorm) of Hugging Face's transformers: docs/pretrained.md.

`generator` and `discriminator` are checkpoints of `--arch transformer_mlm`, from `--arch electra`: to fine-tune from,
or to start a translation model from. The second line printed has the options of fairseq-train that build the model. A
discriminator has no head for masked tokens; a fresh one stands in the file, so that whatever loads a transformer_mlm
loads it.
"""

import argparse
from pathlib import Path
from typing import Any, Dict

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import load_checkpoint, load_state, sound, write_checkpoint
from fairseq_plugins.opus100.chosen_model import check_model, choose_model
from fairseq_plugins.opus100.engines.exported_folder import QUANTIZATIONS, write_exported
from fairseq_plugins.opus100.files import plain_os_errors, sha256_of
from fairseq_plugins.opus100.run_folder import data_of_checkpoint, read_manifest

_PARTS = ("generator", "discriminator")
_FOLDERS = ("ctranslate2", "huggingface")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to read and what to write."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT",
        help="of transformer_mt, xlm_t, transformer_mlm (huggingface), electra or stock transformer")  # fmt: skip
    add("--to", required=True, choices=["fairseq", *_FOLDERS, *_PARTS],
        help="who shall run it, or which model of an electra")  # fmt: skip
    add("--output", required=True, type=Path, metavar="PATH",
        help="file, or folder (ctranslate2, huggingface); an earlier export is replaced, nothing else is")  # fmt: skip
    add("--data", type=Path, metavar="DATA", help="folder of prepare: dictionary, SentencePiece model and languages go "
        "along (ctranslate2), or a tokenizer is made of them (huggingface)")  # fmt: skip
    add("--quantization", choices=QUANTIZATIONS, metavar="TYPE",
        help=f"of the weights, for ctranslate2: {', '.join(QUANTIZATIONS)} (default: float32)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Read, fold, write.

    Raises:
        UserError: a checkpoint that is missing, damaged or has no such form, options that do not go together, or an
            output that exists and is no export.
    """
    with plain_os_errors(args.output):
        if args.quantization and args.to != "ctranslate2":
            raise UserError("--quantization is for --to ctranslate2")
        if args.to in _FOLDERS:
            (_to_ctranslate2 if args.to == "ctranslate2" else _to_huggingface)(args)
            return
        if args.data:
            raise UserError(f"--data is for --to {' and '.join(_FOLDERS)}")
        _refuse_to_lose(args.output)
        (_to_part if args.to in _PARTS else _to_fairseq)(args)


def _to_fairseq(args: argparse.Namespace) -> None:
    from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
    from fairseq_plugins.opus100.engines.stock_checkpoint import stock_checkpoint

    state = load_state(args.checkpoint)
    source = {"file": args.checkpoint.name, "sha256": sha256_of(args.checkpoint)}
    with sound(args.checkpoint):
        model = plain_transformer(state, args.checkpoint)
        stock = stock_checkpoint(model, state, source, data_of_checkpoint(args.checkpoint, state))
    write_checkpoint(stock, args.output)
    print(f"{args.output}: {args.checkpoint} for stock fairseq, --arch transformer")


def _to_part(args: argparse.Namespace) -> None:
    from fairseq_plugins.cli._electra_part import electra_part_checkpoint

    checkpoint, flags = electra_part_checkpoint(args.checkpoint, args.to)
    write_checkpoint(checkpoint, args.output)
    fresh = "; its head for masked tokens is fresh" if args.to == "discriminator" else ""
    print(f"{args.output}: the {args.to} of {args.checkpoint}{fresh}; what builds it:")
    print(" ".join(flags))


def _refuse_to_lose(path: Path) -> None:
    """Raises UserError if there is something that is no export."""
    from fairseq_plugins.opus100.engines.stock_checkpoint import EXPORTED_KEY

    if not path.exists():
        return
    try:
        state: Dict[str, Any] = {} if path.is_dir() else load_checkpoint(path)
    except UserError:
        state = {}
    if EXPORTED_KEY not in (state.get("extra_state") or {}):
        raise UserError(f"--output {path} exists and is no export; give a new file")


def _to_ctranslate2(args: argparse.Namespace) -> None:
    if not args.data:
        raise UserError("--to ctranslate2 needs --data DATA: the folder whose dictionary the model was trained with")
    manifest = read_manifest(args.data)
    model = choose_model(args.checkpoint)
    if model.exported:
        raise UserError(f"{args.checkpoint} is an export already; give the checkpoint that it was made from")
    check_model(model, manifest, args.data)
    exported = write_exported(
        args.output, model.path, model.checkpoint["sha256"], model.facts, args.data, manifest["languages"],
        args.quantization or "float32",
    )  # fmt: skip
    print(f"{args.output}: {args.checkpoint} for CTranslate2 in {exported.quantization}")


def _to_huggingface(args: argparse.Namespace) -> None:
    from fairseq_plugins.cli._huggingface_folder import write_huggingface

    written = write_huggingface(args.output, args.checkpoint, args.data)
    print(f"{args.output}: {args.checkpoint} for Hugging Face's transformers, {written.architecture}")
    for line in written.remarks:
        print(line)

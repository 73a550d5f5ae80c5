"""What a checkpoint says about itself, read without building its model."""

from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import TAG_SCHEMES
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of, sound, updates_of
from fairseq_plugins.opus100.files import misfit, number, read_symbols
from fairseq_plugins.opus100.run_folder import data_of_checkpoint

MULTILINGUAL = "translation_multi_simple_epoch"
RAMP = "translation_multi_temperature_ramp"
VALIDATED = "translation_multi_validated"
MULTILINGUAL_TASKS = (MULTILINGUAL, VALIDATED, RAMP)
_TEXT = (str, type(None))
_TASK_SHAPE = {"_name?": _TEXT, "task?": _TEXT, "encoder_langtok?": _TEXT, "sampling_method?": str,
               "sampling_temperature?": number, "sampling_temperature_start?": number}  # fmt: skip


class Facts(NamedTuple):
    """What a table says about its checkpoint."""

    arch: str
    updates: int
    parameters: int  # shared ones once
    sampling: str  # "temperature:5", "ramp:1:5:5", "concat", ...
    tag_scheme: str
    rows: int  # of the embedding
    decoder_size: int  # layers x width; of a model with one stack, that stack's
    data: Optional[Dict[str, Any]]  # what it was trained from, as ``run_folder.bound_data`` says it


def checkpoint_facts(path: Path, state: Optional[Dict[str, Any]] = None) -> Facts:
    """Read a checkpoint's configuration and sizes.

    Args:
        path: of it.
        state: of it, where it has been loaded already.
    Raises:
        UserError: unreadable, or not of a multilingual translation task with one of our tag schemes.
    """
    state = load_state(path) if state is None else state
    with sound(path):
        return _facts(path, state)


def _facts(path: Path, state: Dict[str, Any]) -> Facts:
    task, model = (options_of(state, part) for part in ("task", "model"))
    if misfit(task, _TASK_SHAPE) is not None:
        raise UserError(f"checkpoint {path} is damaged: its task's {misfit(task, _TASK_SHAPE)} is nothing that fairseq "
                        "writes")
    name = task.get("_name", task.get("task"))
    if name not in MULTILINGUAL_TASKS:
        raise UserError(f"checkpoint {path} was not trained with the task {MULTILINGUAL}")
    flags = ["--encoder-langtok", task["encoder_langtok"]] if task.get("encoder_langtok") else []
    flags += ["--decoder-langtok"] if task.get("decoder_langtok") else []
    scheme = next((name for name, its in TAG_SCHEMES.items() if list(its) == flags), None)
    if scheme is None or task.get("lang_tok_style") != "multilingual" or task.get("lang_tok_replacing_bos_eos"):
        raise UserError(f"checkpoint {path} was trained with language tags ({' '.join(flags) or 'none'}) that are "
                        f"no known scheme; known are {', '.join(TAG_SCHEMES)}")
    sampling = task.get("sampling_method", "concat")
    if name == RAMP:
        start, end = task["sampling_temperature_start"], task["sampling_temperature"]
        sampling = f"ramp:{start:g}:{end:g}:{task['sampling_temperature_epochs']}"
    elif sampling == "temperature":
        sampling = f"temperature:{task['sampling_temperature']:g}"
    weights = state["model"]
    tables = (of.shape for name, of in weights.items() if name.endswith("embed_tokens.weight") and of.dim() == 2)
    rows, width = next(tables, (0, 0))
    layers = _layers(weights, "decoder") or _layers(weights, "encoder")
    return Facts(str(model.get("arch") or model.get("_name")), updates_of(state), _count_parameters(weights), sampling,
                 scheme, rows, layers * width, data_of_checkpoint(path, state))


def _layers(weights: Dict[str, Any], side: str) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith(f"{side}.layers.")})


def _count_parameters(model: Dict[str, Any]) -> int:
    sizes = {}
    for name, tensor in model.items():
        if not name.endswith(("version", "_float_tensor")):
            sizes[tensor.data_ptr(), tensor.shape] = tensor.numel()
    return sum(sizes.values())


def check_rows(facts: Facts, data: Path, checkpoint: Path) -> None:
    """See that the checkpoint's embedding has one row per symbol of DATA's dictionary.

    Raises:
        UserError: it has not.
    """
    rows = len(read_symbols(data / "dict.txt"))
    if facts.rows != rows:
        raise UserError(f"{data / 'dict.txt'} has {rows} symbols but checkpoint {checkpoint} has {facts.rows} rows in "
                        "its embedding: give the data that the checkpoint was trained on")


def task_here(data: Path) -> Dict[str, Any]:
    """Task options to override when a multilingual checkpoint is loaded through fairseq.

    DATA may have moved since training, and one dictionary serves all languages.
    """
    files = {"data": str(data), "lang_dict": str(data / "languages.txt"), "fixed_dictionary": str(data / "dict.txt")}
    return {**files, **dict.fromkeys(("langs", "source_dict", "target_dict", "extra_data", "extra_lang_pairs"))}

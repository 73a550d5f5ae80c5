"""Reading what others trained: fairseq's XLM-R and RoBERTa, `transformer_mlm`, Hugging Face's folders, DeltaLM."""

from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from torch import Tensor

from ..checkpoints.deltalm_names import from_deltalm
from ..checkpoints.electra_parts import is_electra
from ..checkpoints.roberta_names import from_roberta
from ..compat import safe_load
from ._build_moe import OptionError
from ._huggingface_folder import HUGGING_FACE_FILES, from_huggingface_folder
from ._pretrained_parts import ROBERTA, Pretrained, options_of, row_count, stacks_of, symbols_of
from ._tables import TWO_MODELS

_HEAD = "encoder.lm_head."


def read_pretrained(path: str, flag: str) -> Pretrained:
    """Read a file or folder that `flag` names.

    Args:
        path: a folder with model.pt (fairseq's XLM-R), or with config.json and model.safetensors or pytorch_model.bin
            (Hugging Face), or a checkpoint file of fairseq, of this package or of DeltaLM.
    Raises:
        OptionError, CheckpointError: nothing there, or nothing that can be read; one sentence.
    """
    file = checkpoint_file(path, flag)
    return from_huggingface_folder(Path(path), flag) if file is None else from_checkpoint(safe_load(file), file, flag)


def checkpoint_file(path: str, flag: str) -> Optional[Path]:
    """The checkpoint that `flag` names, itself or by its folder; None for a folder of Hugging Face's.

    Raises:
        OptionError: nothing there, or no model in it.
    """
    place = Path(path)
    if not place.exists():
        raise OptionError(f"{flag} {path} does not exist; give a checkpoint, or a folder that holds one")
    if place.name in HUGGING_FACE_FILES:
        place = place.parent
    if place.is_file():
        return place
    if (place / "config.json").is_file():
        return None
    if (place / "model.pt").is_file():
        return place / "model.pt"
    raise OptionError(
        f"{flag} {path} holds neither model.pt (fairseq) nor config.json (Hugging Face); name the checkpoint itself"
    )


def from_checkpoint(saved: Any, path: Path, flag: str) -> Pretrained:
    """What `saved` holds, which was read from the file `path` that `flag` names.

    Raises:
        OptionError: no model, or none that fits; one sentence.
    """
    saved = saved if isinstance(saved, dict) else {}
    state = saved.get("model", saved.get("weights"))
    if not isinstance(state, dict):
        raise OptionError(f"{flag} {path} has neither 'model' (fairseq) nor 'weights' (DeltaLM): it is no checkpoint")
    options, deltalm, what = options_of(saved, "model"), "model" not in saved, f"{flag} {path}"
    if is_electra(state):
        raise OptionError(f"{what} {TWO_MODELS}")
    encoder, decoder = stacks_of(from_deltalm if deltalm else from_roberta, state, what)
    if deltalm or any(".sentence_encoder." in name for name in state):
        known = dict(ROBERTA)
    else:
        known = {key: options[key] for key in (*ROBERTA, "no_token_positional_embeddings") if key in options}
    if "layer_norm.weight" in encoder and known.get("residual") == "post":
        known["residual"] = "pre"
    for name in ("encoder_attention_heads", "decoder_attention_heads", "activation_fn", "attention_temperature"):
        if options.get(name):
            known[name] = options[name]
    if "relative_bias.weight" in encoder and "relative_bias_max_distance" in options:
        known["relative_bias_max_distance"] = options["relative_bias_max_distance"]
    if not encoder:
        raise OptionError(f"{what} has no encoder: only masked language models and encoder-decoders have one")
    task = options_of(saved, "task")
    symbols = symbols_of(saved, path, row_count(encoder, decoder, what), bool(decoder), what)
    head = {} if decoder else _head(state)
    return Pretrained(
        str(path), encoder, decoder, known, symbols, symbols.index("<pad>"), _knows_pseudo_mask(saved, task), head
    )


def _knows_pseudo_mask(saved: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Every prepared dictionary has the symbol; only some trainings had it in their text."""
    if str(options_of(saved, "model").get("_name")).startswith("unilmv2_seq2seq"):
        return True
    return task.get("_name") == "pseudo_masked_lm" and "par" in task.get("objectives", "ae,par")


def _head(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The head of a masked language model of fairseq, without the token table that is its last layer."""
    head = {name: value for name, value in from_roberta(state).items() if name.startswith(_HEAD)}
    return {name.removeprefix(_HEAD): value for name, value in head.items() if name != f"{_HEAD}weight"}

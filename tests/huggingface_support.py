"""Small models as checkpoints on disk, and what `export --to huggingface` makes of them, read by transformers."""

import sys
from pathlib import Path
from typing import Any, Tuple

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_plugins.__main__ import main
from tests.models_support import built, model_config
from tests.pretrained_support import POSITIONS, roberta_words, shape

MASKED_LM = ("--tokens-per-sample", str(POSITIONS))
WORDS = roberta_words()


def save_model(
    folder: Path, arch: str, *flags: str, words: Dictionary = WORDS, dtype: torch.dtype = torch.float64
) -> Tuple[Path, Any]:
    """(checkpoint, model): every number random, padding's rows too. dict.txt stands beside it.

    A weight of a norm is around 1, as in what was trained: pre-norm models would otherwise drown their own signal.
    """
    masked_lm = arch.startswith("transformer_mlm")
    sides = [*shape("encoder", 3), *([] if masked_lm else shape("decoder", 2)), "--dropout", "0"]
    limits = MASKED_LM if masked_lm else ("--max-source-positions", str(POSITIONS))
    cfg = model_config(arch, *sides, *limits, *flags, task="masked_lm" if masked_lm else "translation")
    model = built(cfg, words).double()
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    model.to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "dict.txt"))
    cfg = OmegaConf.to_container(cfg, enum_to_str=True)
    cfg["task"]["data"] = str(folder)
    saved = {"args": None, "cfg": cfg, "model": model.state_dict(), "extra_state": {}}
    torch.save(saved, folder / "checkpoint.pt")
    return folder / "checkpoint.pt", model


def export(path: Path, output: Path, *words: object) -> int:
    """The verb's status."""
    return main(["export", str(path), "--to", "huggingface", "--output", str(output), *map(str, words)])


def exported(path: Path, *words: object) -> Path:
    """The folder that the verb makes of a checkpoint."""
    output = path.parent / "folder"
    assert export(path, output, *words) == 0
    return output


def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package; its parts are imported when they are used."""
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # not for text, and one of another torch breaks the import
    return pytest.importorskip("transformers")


def read_by_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model in float64; every number of it is one of the file's."""
    package = transformers(monkeypatch)
    config = package.AutoConfig.from_pretrained(folder)
    kind = getattr(package, config.architectures[0])
    headless = {} if config.architectures[0].endswith("ForMaskedLM") else {"add_pooling_layer": False}
    model, found = kind.from_pretrained(folder, output_loading_info=True, **headless)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    return model.double().eval()

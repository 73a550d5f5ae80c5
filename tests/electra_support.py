"""Small electras as files on disk, in the form in which a training leaves them."""

from pathlib import Path
from typing import Any, Tuple

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_plugins.__main__ import main
from tests.models_support import built, dictionary, model_config

POSITIONS = 32
SHAPE = (
    "--encoder-layers 3 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 2 --dropout 0 "
    "--attention-dropout 0 --tokens-per-sample"
).split() + [str(POSITIONS)]  # fmt: skip


def electra_words() -> Dictionary:
    """20 words and <mask> as the last, as in dict.txt of a prepared folder."""
    words = dictionary()
    words.add_symbol("<mask>")
    return words


def save_electra(folder: Path, *flags: str) -> Tuple[Path, Any]:
    """(checkpoint, model): every number random, padding's rows too, in float64. dict.txt stands beside it."""
    cfg = model_config("electra_tiny", *SHAPE, *flags, task="masked_lm")
    model = built(cfg, electra_words()).double()
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    electra_words().save(str(folder / "dict.txt"))
    cfg = OmegaConf.to_container(cfg, enum_to_str=True)
    cfg["task"]["data"] = str(folder)
    cfg["criterion"] = {"_name": "electra_hardness", "discriminator_weight": 50.0}
    history = [{"criterion_name": "ElectraHardness", "optimizer_name": "FairseqAdam", "num_updates": 7,
                "lr_scheduler_state": {}}]  # fmt: skip
    saved = {"args": None, "cfg": cfg, "model": model.state_dict(), "optimizer_history": history, "extra_state": {},
             "last_optimizer_state": {"state": {}}}  # fmt: skip
    torch.save(saved, folder / "electra.pt")
    return folder / "electra.pt", model


def exported(path: Path, part: str, output: Any = None) -> Path:
    """The part of an electra's checkpoint as a file beside it, by the verb."""
    output = output or path.with_name(f"{part}.pt")
    assert main(["export", str(path), "--to", part, "--output", str(output)]) == 0
    return Path(output)

"""Small pretrained models on disk, in the layouts that `--init-encoder` and `--init-decoder` read."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.compat import Refusal
from tests.models_support import build, dictionary, model_config

LAYERS, DIM, HIDDEN, HEADS, POSITIONS = 6, 16, 20, 2, 32
TAGS = ["__de__", "__en__"]


def shape(side: str, layers: int = LAYERS) -> List[str]:
    """The options that give one side the width of these models."""
    values = dict(layers=layers, embed_dim=DIM, ffn_embed_dim=HIDDEN, attention_heads=HEADS)
    return [word for key, value in values.items() for word in (f"--{side}-{key.replace('_', '-')}", str(value))]


def xlm_t(words: Dictionary, *flags: str, decoder_layers: int = 3, arch: str = "xlm_t_tiny") -> Any:
    """An xlm_t of that width in float64, not started yet."""
    limits = ["--max-source-positions", str(POSITIONS), "--max-target-positions", str(POSITIONS - 8)]
    sides = [*shape("encoder"), *shape("decoder", decoder_layers)]
    torch.manual_seed(7)
    return build(arch, words, *sides, *limits, "--dropout", "0", *flags).double()


def data_dictionary() -> Dictionary:
    """As a training's: the pretrained words in another order, some of them missing, and rows of its own for tags."""
    words = Dictionary()
    for number in (5, 3, 11, *range(12, 20), 0, 1, 2):
        words.add_symbol(f"w{number}")
    for tag in TAGS:
        words.add_symbol(tag)
    return words


def random_roberta(words: Dictionary, arch: str = "roberta", layers: int = LAYERS) -> Any:
    """A RoBERTa of the engine (or `transformer_mlm_base`), every number of it random, padding's rows too."""
    options = [*shape("encoder", layers), "--dropout", "0", "--attention-dropout", "0"]
    torch.manual_seed(3)
    model = build(arch, words, *options, "--tokens-per-sample", str(POSITIONS), task="masked_lm").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def roberta_words() -> Dictionary:
    """20 words and <mask> as the last, which the masked_lm task adds to what stands in dict.txt."""
    words = dictionary()
    words.add_symbol("<mask>")
    return words


def save_roberta(folder: Path, state: Dict[str, Any], *, with_dictionary: bool = True, arch: str = "roberta") -> Path:
    """fairseq's layout: model.pt with `args` and `model`, and dict.txt without <mask>."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = model_config(arch, *shape("encoder"), "--tokens-per-sample", str(POSITIONS), task="masked_lm")
    options = vars(cfg.model) if isinstance(cfg.model, Namespace) else cfg.model
    torch.save({"args": Namespace(**options), "model": state}, folder / "model.pt")
    if with_dictionary:
        dictionary().save(str(folder / "dict.txt"))
    return folder / "model.pt"


def old_names(state: Dict[str, Any]) -> Dict[str, Any]:
    """A RoBERTa's state as fairseq 0.8 wrote it, when XLM-R was released: other names, and q, k, v in one tensor."""
    old = {}
    for name, value in state.items():
        name = name.replace("encoder.sentence_encoder.", "decoder.sentence_encoder.")
        name = name.replace("encoder.lm_head.", "decoder.lm_head.").replace("layernorm_embedding", "emb_layer_norm")
        if ".q_proj." in name:
            parts = [state[name.replace("decoder.sent", "encoder.sent").replace("q_proj", p)] for p in
                     ("q_proj", "k_proj", "v_proj")]  # fmt: skip
            old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            old[name] = value
    return old


def hugging_face_names(state: Dict[str, Any]) -> Dict[str, Any]:
    """A RoBERTa's state as Hugging Face names it, without the head."""
    renamed = {}
    for name, value in state.items():
        if not name.startswith("encoder.sentence_encoder."):
            continue
        name = "roberta." + name.removeprefix("encoder.sentence_encoder.")
        for ours, theirs in _HUGGING_FACE:
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


_HUGGING_FACE = [
    ("embed_tokens", "embeddings.word_embeddings"), ("embed_positions", "embeddings.position_embeddings"),
    ("layernorm_embedding", "embeddings.LayerNorm"), ("layers.", "encoder.layer."),
    ("self_attn.q_proj", "attention.self.query"), ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"), ("self_attn.out_proj", "attention.output.dense"),
    ("self_attn_layer_norm", "attention.output.LayerNorm"), ("fc1", "intermediate.dense"), ("fc2", "output.dense"),
    ("final_layer_norm", "output.LayerNorm"),
]  # fmt: skip


def refusal_of(path: Path) -> str:
    """The one sentence with which a training that starts its encoder from `path` ends."""
    with pytest.raises(Refusal) as refusal:
        xlm_t(data_dictionary(), "--init-encoder", str(path)).start_training()
    message = str(refusal.value)
    assert "\n" not in message and str(path) in message
    return message

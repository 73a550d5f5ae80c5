"""Parameter names of fairseq's RoBERTa and XLM-R -> `transformer_mlm`."""

import re
from typing import Dict

from torch import Tensor

from .fairseq_names import from_fairseq

_BODY = re.compile(r"(?:encoder|decoder)\.sentence_encoder\.")
_HEAD = re.compile(r"decoder\.lm_head\.")
_CLASSIFIER = re.compile(r"classification_heads\.")


def from_roberta(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """`transformer_mlm` names for a RoBERTa or XLM-R state dict, old or new (a new dict; our own names pass through).

    Heads of fine-tuned classifiers are left out: they are not part of the language model.
    """
    renamed = {}
    for name, value in state.items():
        if _CLASSIFIER.match(name):
            continue
        name = _HEAD.sub("encoder.lm_head.", _BODY.sub("encoder.", name))
        renamed[name.replace(".emb_layer_norm.", ".layernorm_embedding.")] = value
    return from_fairseq(renamed)

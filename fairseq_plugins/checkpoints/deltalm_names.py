"""Parameter names of DeltaLM's released checkpoints -> an encoder-decoder of ours with `--interleaved-ffn`."""

import re
from typing import Dict, Mapping

from torch import Tensor

from .fairseq_names import from_fairseq

_SIDES = {"src_embedding.": "encoder.", "tgt_embedding.": "decoder."}
_FIRST_FEED_FORWARD = re.compile(r"\.(?:ffn_1\.fc1|fc3)\.")
_FIRST_OUTPUT = re.compile(r"\.(?:ffn_1\.fc2|fc4)\.")
_FEED_FORWARD = re.compile(r"\.(?:ffn|ffn_2)\.(?=fc)")


def from_deltalm(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """`encoder.*` and `decoder.*` names for the `weights` of a DeltaLM file (a new dict; our own names pass through).

    A decoder layer's feed-forward between the attentions is `ffn_1` there, `fc3` and `fc4` in the authors' model and
    `first_feed_forward` here; the one after cross-attention is `ffn_2`, `fc1` and `fc2`, and `feed_forward`. What
    belongs to neither side, such as the head of pre-training, is left out.
    """
    renamed = {}
    for name, value in state.items():
        for theirs, ours in _SIDES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        if not name.startswith(("encoder.", "decoder.")):
            continue
        name = _FIRST_FEED_FORWARD.sub(".first_feed_forward.fc1.", name)
        name = _FIRST_OUTPUT.sub(".first_feed_forward.fc2.", name)
        name = _FEED_FORWARD.sub(".", name)
        renamed[name.replace(".emb_layer_norm.", ".layernorm_embedding.")] = value
    return from_fairseq(renamed)

"""fairseq's beam search over one checkpoint: what fairseq-generate does, batch by batch."""

from pathlib import Path
from typing import List, Optional, Sequence

import fairseq_plugins
from fairseq_plugins.data.symbols import PAD_ROW
from fairseq_plugins.opus100.checkpoint_files import sound
from fairseq_plugins.opus100.engines import Search
from fairseq_plugins.opus100.facts import task_here
from fairseq_plugins.opus100.run_folder import quiet_engine


class FairseqEngine:
    """A checkpoint of fairseq-train on one device.

    Args:
        checkpoint: file of a multilingual translation task.
        data: folder with dict.txt and languages.txt.
        search: how to decode.
        device: "cpu", "cuda:0", ...
    """

    def __init__(self, checkpoint: Path, data: Path, search: Search, device: str):
        import torch

        with quiet_engine():
            fairseq_plugins.register()
        from fairseq import checkpoint_utils
        from fairseq.sequence_generator import SequenceGenerator
        from fairseq.utils import resolve_max_positions

        with quiet_engine(), sound(checkpoint):
            models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], task_here(data))
        for model in models:
            model.to({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[search.precision])
            model.to(device).eval()
            model.make_generation_fast_(beamable_mm_beam_size=search.beam, need_attn=False)  # looks at the device
        self._generator = SequenceGenerator(
            models, task.target_dictionary, beam_size=search.beam, len_penalty=search.lenpen, max_len_a=0,
            max_len_b=search.max_len,
        )
        self._models, self._device, self._left_pad = models, device, task.args.left_pad_source
        self.longest = resolve_max_positions(task.max_positions(), *(model.max_positions() for model in models))[0]

    def search(self, sources: Sequence[List[int]], prefixes: Sequence[Optional[int]]) -> List[List[int]]:
        """As ``Engine`` says."""
        import torch
        from fairseq.data.data_utils import collate_tokens

        # as in the stock task: no target tag, no prefix; one tag per sentence, so directions can share a batch
        prefixed = prefixes[0] is not None
        prefix = torch.tensor(prefixes, device=self._device)[:, None] if prefixed else None
        batch = {
            "src_tokens": collate_tokens([torch.tensor(rows) for rows in sources], PAD_ROW, left_pad=self._left_pad),
            "src_lengths": torch.tensor([len(rows) for rows in sources]),
        }
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
        found = self._generator.generate(self._models, {"net_input": batch}, prefix_tokens=prefix)
        return [hypotheses[0]["tokens"][int(prefixed) :].tolist() for hypotheses in found]

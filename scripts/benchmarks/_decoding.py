"""Beam search with the same weights in stock fairseq's transformer and in this package's: variants for `_turns`."""

import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, NamedTuple

import torch
from _turns import Variant

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ARCHS = {"stock": ["transformer"], "ours": ["transformer_mt", "--residual", "post"]}


class Case(NamedTuple):
    """What is decoded; plain values, so that they reach a worker."""

    sentences: int = 32
    beam: int = 5
    source: int = 16  # tokens of each source sentence
    steps: int = 32  # tokens of each hypothesis: none may end earlier
    layers: int = 6
    dim: int = 512
    hidden_dim: int = 2048
    heads: int = 8
    vocabulary: int = 8000
    threads: int = 1


class Decoding(Variant):
    """A model with random weights; a step of the benchmark translates one batch."""

    def __init__(self, name: str, case: Case):
        torch.set_num_threads(case.threads)
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        import fairseq_plugins

        fairseq_plugins.register()
        from fairseq import models, options
        from fairseq.data import Dictionary
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.sequence_generator import SequenceGenerator

        words = Dictionary()
        for number in range(case.vocabulary - len(words)):
            words.add_symbol(f"w{number}")
        flags = ["no-data", "--task", "translation", "--share-all-embeddings", "--arch", *ARCHS[name]]
        sizes = {"layers": case.layers, "embed-dim": case.dim, "ffn-embed-dim": case.hidden_dim}
        for side in ("encoder", "decoder"):
            for size, value in {**sizes, "attention-heads": case.heads}.items():
                flags += [f"--{side}-{size}", f"{value}"]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), flags))
        torch.manual_seed(0)
        task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
        self.model = models.build_model(cfg.model, task).eval()
        self.beam = case.beam
        # none shorter and none longer: each variant takes the same number of steps
        limits = dict(max_len_a=0, max_len_b=case.steps, min_len=case.steps)
        self.generator = SequenceGenerator([self.model], words, beam_size=case.beam, **limits)
        tokens = torch.randint(words.nspecial, len(words), (case.sentences, case.source))
        tokens[:, -1] = words.eos()
        lengths = torch.full((case.sentences,), case.source)
        self.sample = {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
        self.found: List[Any] = []

    def step(self) -> None:
        self.found = self.generator.generate([self.model], self.sample)

    def save(self, path: str) -> None:
        """Write weights and input, then prepare for decoding."""
        torch.save([self.model.state_dict(), self.sample], path)
        self.model.make_generation_fast_(beamable_mm_beam_size=self.beam, need_attn=False)

    def load(self, path: str) -> None:
        """Take weights and input of another variant."""
        state, self.sample = torch.load(path)
        self.model.load_state_dict(state)
        self.model.make_generation_fast_(beamable_mm_beam_size=self.beam, need_attn=False)

    def hypotheses(self) -> List[List[List[int]]]:
        """All hypotheses of all sentences, best first."""
        self.step()
        return [[one["tokens"].tolist() for one in hypotheses] for hypotheses in self.found]


def make(name: str, **case: Any) -> Decoding:
    """For `_turns.serve`."""
    return Decoding(name, Case(**case))

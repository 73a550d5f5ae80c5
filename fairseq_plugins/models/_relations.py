"""Models whose encoder learns from the relations of another, or lends them its own (MiniLM, MiniLMv2)."""

from typing import Any, Dict, Iterable, List, Set, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from ._adapters import StackEncoder
from ._build_moe import OptionError
from ._teacher import Teacher, read_teacher


class EncoderRelations(nn.Module):
    """The mixin for models that have an `encoder`; their `forward` takes `projections_of`, the number of a layer."""

    encoder: StackEncoder

    def read_teacher(self, path: str, dictionary: Dictionary, **choices: Any) -> Teacher:
        """See `_teacher.read_teacher`; here so that a task reaches it through the model that it built."""
        return read_teacher(path, dictionary, **choices)

    def learn_relations(self, wanted: Iterable[str]) -> int:
        """Freeze all that a loss of the last layer's projections cannot reach: upper parts, heads, a decoder.

        It would get no gradient, which data-parallel training takes for an error, and decay would shrink it.

        Args:
            wanted: which of `q`, `k` and `v` the loss compares.
        Returns:
            the number of the last layer with attention, counted from 1.
        Raises:
            OptionError: nothing that learns is left.
        """
        last, was_training = self.encoder.attention_layers, self.training
        self.eval()
        text = torch.full((1, 2), self.encoder.dictionary.eos(), device=self.encoder.embed_tokens.weight.device)
        found: Dict[str, Any] = self.encoder.project(last, text)[1]
        self.train(was_training)
        reached = _leaves(getattr(found["projections"], name) for name in wanted)
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in reached)
        if not reached:
            raise OptionError("nothing of the student is left to learn from a teacher: leave out what freezes it")
        return last


def _leaves(outputs: Iterable[Tensor]) -> Set[Tensor]:
    """Parameters that get a gradient from any of `outputs`, in whose graph they are."""
    waiting: List[Any] = [output.grad_fn for output in outputs]
    seen, found = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):  # of the nodes that add up the gradient of a leaf
            found.add(node.variable)
        following: Iterable[Tuple[Any, int]] = node.next_functions
        new = {other for other, _ in following} - seen
        seen |= new
        waiting += new
    return found

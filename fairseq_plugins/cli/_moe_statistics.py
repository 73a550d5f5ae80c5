"""What `moe-inspect` counts: decisions of every router of a model, summed up batch after batch."""

import math
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_plugins.cli._moe_inputs import Batch, language_of
from fairseq_plugins.modules.moe.router_losses import load_entropy
from fairseq_plugins.modules.moe.routing_statistics import (
    ClassMoments,
    changed_tokens,
    inter_run_consistency,
    load,
    representation_collapse,
)

# N tokens without padding, K chosen experts, D model dim, E experts


class Decisions(NamedTuple):
    """What one router read and decided in one pass."""

    x_ND: Tensor
    expert_NK: Tensor
    living_NK: Tensor  # bool, False for a choice that is none
    weight_NK: Tensor


class Watch:
    """A model whose routers are listened to.

    Args:
        model: of which every module called `router` belongs to a mixture-of-experts layer, its parent.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.layers: Dict[str, Any] = {}  # name as in `encoder.layers.1` -> MoE feed-forward
        self._decisions: Dict[str, Decisions] = {}
        self._padding: Optional[Tensor] = None
        for name, router in model.named_modules():
            if name.endswith(".router"):
                moe = model.get_submodule(name.removesuffix(".router"))
                layer = name.removesuffix(".router").removesuffix(".feed_forward")
                self.layers[layer] = moe
                moe.register_forward_pre_hook(self._note_padding, with_kwargs=True)
                router.register_forward_hook(self._listener(layer, moe))

    @torch.no_grad()
    def decide(self, net_input: Dict[str, Any]) -> Dict[str, Decisions]:
        """Run a batch through the model: layer -> what its router decided for the tokens that are no padding."""
        self._decisions = {}
        self.model(**net_input, features_only=True)
        return self._decisions

    def _note_padding(self, moe: nn.Module, args: Any, kwargs: Any) -> None:
        self._padding = args[1] if len(args) > 1 else kwargs.get("padding_BT")

    def _listener(self, layer: str, moe: Any) -> Any:
        def listen(router: nn.Module, args: Any, routing: Any) -> None:
            parts = [args[0], routing.expert_NK, moe.alive[routing.expert_NK], routing.weight_NK]
            if self._padding is not None:
                token_N = ~self._padding.reshape(-1)
                parts = [part[token_N] for part in parts]
            self._decisions[layer] = Decisions(*parts)

        return listen


class LayerStatistics:
    """One layer of the inspected model, and how often other models' layer of that name chose each expert."""

    def __init__(self, name: str, moe: Any, runs: int):
        self.name = name
        self.moe = moe
        self.experts = len(moe.alive)
        self.tokens, self.changed, self.gate_sum = 0, 0, 0.0
        self.load: Dict[str, Tensor] = {}  # by group
        self.run_load = torch.zeros(runs, self.experts, dtype=torch.long)
        self.moments: Optional[ClassMoments] = None

    def add(self, group: str, seen: Decisions, previous: Optional[Decisions], runs: List[Decisions]) -> None:
        """Count one batch, as the inspected model, the previous one and other runs saw it."""
        if self.moments is None:
            self.moments = ClassMoments(seen.x_ND.size(1), self.experts, seen.x_ND.device)
        self.moments.add(seen.x_ND, seen.expert_NK[:, 0])
        self.tokens += len(seen.x_ND)
        self.gate_sum += float(seen.weight_NK[:, 0].double().sum())
        chosen_E = load(seen.expert_NK, seen.living_NK, self.experts).cpu()
        self.load[group] = self.load.get(group, 0) + chosen_E
        if previous is not None:
            self.changed += changed_tokens(seen.expert_NK, previous.expert_NK)
        for number, run in enumerate(runs):
            self.run_load[number] += load(run.expert_NK, run.living_NK, self.experts).cpu()

    def result(self, compared: bool) -> Dict[str, Any]:
        """Everything about the layer as JSON takes it; None for what is not defined or was not asked for.

        Args:
            compared: whether there was a previous model.
        """
        assert self.moments is not None
        languages: Dict[str, Tensor] = {}
        for group, load_E in self.load.items():
            language = language_of(group, self.name)
            languages[language] = languages.get(language, 0) + load_E
        load_E = torch.stack(list(self.load.values())).sum(dim=0)
        share_E = load_E.double() / load_E.sum()
        runs = torch.cat([load_E[None], self.run_load])
        return {
            "name": self.name,
            "experts": self.experts,
            "alive": self.moe.alive.tolist(),
            "clusters": self.moe.clusters,
            "tokens": self.tokens,
            "load": load_E.tolist(),
            "load_max_over_mean": float(share_E.max() * int(self.moe.alive.sum())),
            "load_entropy": float(load_entropy(load_E.double())),
            "gate_mean": self.gate_sum / self.tokens,
            "usage_by_language": {name: languages[name].tolist() for name in sorted(languages)},
            "usage_by_direction": {name: self.load[name].tolist() for name in sorted(self.load)},
            "representation_collapse": _or_none(representation_collapse(self.moments)),
            "routing_fluctuation": self.changed / self.tokens if compared else None,
            "inter_run_consistency": _or_none(inter_run_consistency(runs)) if len(runs) > 1 else None,
            "load_of_runs": self.run_load.tolist(),
        }


class Inspection:
    """The statistics of all layers.

    Args:
        models: the inspected one first, then the previous one if there is one, then other runs.
        previous: whether there is one.
        device: where the models are.
    Raises:
        ValueError: a model's mixture-of-experts layers are not those of the first; the argument is its number.
    """

    def __init__(self, models: List[nn.Module], previous: bool, device: str):
        self.watches = [Watch(model) for model in models]
        self.previous = previous
        self.device = device
        shapes = [{name: len(moe.alive) for name, moe in watch.layers.items()} for watch in self.watches]
        for number, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(number)
        runs = len(models) - 1 - previous
        self.layers = [LayerStatistics(name, moe, runs) for name, moe in self.watches[0].layers.items()]

    def add(self, batch: Batch) -> None:
        """Run one batch through every model."""
        net_input = batch.net_input(self.device)
        seen, *others = [watch.decide(net_input) for watch in self.watches]
        previous, runs = (others[0], others[1:]) if self.previous else (None, others)
        for layer in self.layers:
            name = layer.name
            layer.add(batch.group, seen[name], previous and previous[name], [run[name] for run in runs])

    def result(self) -> List[Dict[str, Any]]:
        """The statistics of every layer, in the model's order."""
        return [layer.result(self.previous) for layer in self.layers]


def _or_none(number: float) -> Optional[float]:
    return number if math.isfinite(number) else None

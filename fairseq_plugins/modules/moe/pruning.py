"""Task-specific expert pruning while fine-tuning (Chen et al. 2022, arXiv 2206.00277): from E experts to one.

The paper's text could not be read. What is here follows its abstract, summaries and a re-implementation by others; the
threshold 0.1 and the 4 windows are that re-implementation's and unverified, the paper's own are unknown.
"""

import logging
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence

import torch
from torch import Tensor, nn

# E experts
VARIANTS = ("eager", "staged", "two-pass")
SCORES = ("alpha", "hit")
UNIT = 2**20  # scores are kept as whole numbers of 1/UNIT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruningSchedule:
    """When experts leave, and which.

    The first half of fine-tuning is cut into equal windows. At the end of each an expert's proficiency is its score
    since the window began over that of all living experts.

    - eager: an expert below threshold / (number of living experts) leaves.
    - staged: as many leave as the window's number says, E^(1 - window / windows) stay: 16 experts, 8, 4, 2, 1. Ours;
      the sources only say that the paper compares with a pruning in stages.
    - two-pass: nobody leaves. The first training only records; the second starts with the chosen expert alone.

    After the last window, at half of the updates, only the most proficient expert stays.
    """

    variant: str
    updates: int = 0  # of the whole fine-tuning; not used by two-pass
    windows: int = 4
    threshold: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError, naming the flag, for values that make no schedule."""
        if self.variant not in VARIANTS:
            raise ValueError(f"--moe-prune {self.variant} must be none or one of {', '.join(VARIANTS)}")
        if self.windows < 1:
            raise ValueError(f"--moe-prune-windows {self.windows} must be at least 1")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--moe-prune-threshold {self.threshold} must be between 0 and 1")
        if self.variant != "two-pass" and self.updates < 2 * self.windows:
            raise ValueError(
                f"--moe-prune {self.variant} needs --moe-prune-updates, the updates of the whole fine-tuning, "
                f"to be at least twice --moe-prune-windows {self.windows}; it is {self.updates}"
            )

    def windows_done(self, updates: int) -> int:
        """How many windows are over after this many updates."""
        if self.variant == "two-pass":
            return 0
        return min(self.windows, updates * self.windows // (self.updates // 2))

    def survivors(self, window: int, score_E: Sequence[float], alive_E: Sequence[bool]) -> List[bool]:
        """Which experts stay.

        Args:
            window: number of the window that ends, from 1.
            score_E: what each expert collected since it began, in any unit.
            alive_E: who was there.
        Returns:
            (E,) of which at least one is True, and none that was not alive. Of equals the first is the better one.
        """
        living = [expert for expert, alive in enumerate(alive_E) if alive]
        best_first = sorted(living, key=lambda expert: -score_E[expert])
        if window >= self.windows:
            kept = best_first[:1]
        elif self.variant == "staged":
            kept = best_first[: max(1, round(len(alive_E) ** (1 - window / self.windows)))]
        else:
            least = self.threshold * sum(score_E[expert] for expert in living) / len(living)
            kept = [expert for expert in best_first if score_E[expert] >= least]
        return [expert in kept for expert in range(len(alive_E))]


class LayerPruning(nn.Module):
    """Scores of one MoE layer's experts, and the decisions of a schedule on them.

    All state is in whole-number buffers: they stay exact under `model.half()`, add up to the same in any order, and a
    resumed training decides as an uninterrupted one. State dicts written without pruning load, and begin anew.

    Args:
        experts: number of experts E.
        schedule: when to decide, and how.
        score: `alpha`, the gate values of an expert's tokens, or `hit`, their number.
        gate_one: once the schedule is through, `gate_is_one`: the last expert is used unweighted. A softmax gate is 1
            by itself then.
        choose: for the second of two passes, called when training begins: the number of the expert that stays.
        sum_over_workers: adds a tensor up over the workers that train together; None on one.
        name: of the layer, for the log.
    """

    score: Tensor  # (E,) long, since the window began, in 1 / UNIT
    progress: Tensor  # (2,) long: updates of the model when pruning began (-1: it has not), windows that are over
    gate_is_one: Tensor  # bool

    def __init__(
        self,
        experts: int,
        schedule: PruningSchedule,
        *,
        score: str = "alpha",
        gate_one: bool = False,
        choose: Optional[Callable[[], int]] = None,
        sum_over_workers: Optional[Callable[[Tensor], Tensor]] = None,
        name: str = "MoE layer",
    ):
        super().__init__()
        self.schedule = schedule
        self.counts_tokens = score == "hit"
        self.gate_one = gate_one
        self.choose = choose
        self.sum_over_workers = sum_over_workers
        self.name = name
        self.register_buffer("score", torch.zeros(experts, dtype=torch.long))
        self.register_buffer("progress", torch.tensor([-1, 0]))
        self.register_buffer("gate_is_one", torch.tensor(False))
        self._updates = 0
        self._decided: Optional[int] = None  # at which number of updates last; None before the first time
        self._start, self._windows = -1, 0  # Python's copy of `progress`, so that no update waits for the device

    @torch.no_grad()
    def observe(self, load_E: Tensor, gate_sum_E: Tensor) -> None:
        """Count one batch of training.

        Args:
            load_E: choices by this worker's tokens of each expert.
            gate_sum_E: sum of their gate values.
        """
        if self._windows >= self.schedule.windows:
            return
        counted_E = ((load_E if self.counts_tokens else gate_sum_E) * UNIT).round().long()
        if self.sum_over_workers is not None:
            # At once, not at the end of an update: only one worker saves, and it saves before the next update begins.
            counted_E = self.sum_over_workers(counted_E)
        self.score += counted_E

    def set_num_updates(self, updates: int) -> None:
        """Note how many updates are finished. No decision yet: fairseq says the number before it loads a model, too."""
        self._updates = updates

    @torch.no_grad()
    def decide(self, alive_E: Tensor) -> bool:
        """Let experts go if a window is over. To be called before each batch of training; once per update is enough.

        Args:
            alive_E: bool, changed in place.
        Returns:
            whether it was changed.
        """
        updates = self._updates
        if updates == self._decided:
            return False
        if self._decided is None:
            self._start, self._windows = self.progress.tolist()
            if not 0 <= self._start < updates:  # never begun, or the state comes from the training before this one
                self._start, self._windows = updates, 0
                self.score.zero_()
                self._remember()
        self._decided = updates
        window = self.schedule.windows if self.choose is not None else self.schedule.windows_done(updates - self._start)
        if window <= self._windows:
            return False
        if self.choose is not None:
            chosen = self.choose()
            kept = [expert == chosen for expert in range(len(alive_E))]
        else:
            kept = self.schedule.survivors(window, self.score.tolist(), alive_E.tolist())
        self._keep(kept, alive_E, window)
        return True

    def _keep(self, kept_E: List[bool], alive_E: Tensor, window: int) -> None:
        alive_E.copy_(torch.tensor(kept_E))
        self.score.zero_()
        self._windows = window
        self.gate_is_one.fill_(self.gate_one and window >= self.schedule.windows)
        self._remember()
        names = ", ".join(str(expert) for expert, kept in enumerate(kept_E) if kept)
        logger.info("%s: after %d updates these of %d experts stay: %s", self.name, self._updates, len(kept_E), names)

    def _remember(self) -> None:
        self.progress.copy_(torch.tensor([self._start, self._windows]))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, buffer in self.named_buffers():
            state_dict.setdefault(prefix + name, buffer.clone())
        self._decided = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

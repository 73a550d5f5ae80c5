"""Watches a training: ends one that diverges, with the last good checkpoint kept, and logs gradient norms by depth.

Only trainings of models that carry a `Watched`, as all of this package do. Applied by ``compat.apply()``.
"""

import collections
import functools
import math
import os
import statistics
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

import torch

WINDOW = 50  # updates whose median is the measure of a training
FEWEST = 10  # losses whose median counts
TRIED = 4  # batches on which weights are tried before they are written
RISE = 1.2  # times the lowest loss on the same batches that is no jump


class Watched(NamedTuple):
    """What a model says about how its training is watched."""

    loss_jump: float  # --stop-at-loss-jump; 0 = never
    bands: Dict[str, Tuple[str, ...]]  # name in the log -> prefixes of the parameters whose gradients it measures
    residual: str  # --residual and the layers of the deepest stack, for the likely causes
    layers: int


class LossWatch:
    """Says when a training has lost what it had learned.

    The measure is the median loss of the last `WINDOW` updates, which a few bad batches cannot move and half a window
    of bad updates does. A training has diverged when the median of a full window is above `bound`: `factor` times the
    lowest median so far, and at least half the first, or noise would end a training whose loss is near zero.

    Medians count from the `FEWEST`-th loss on, because one batch may be much easier than others.

    Args:
        factor: above 1; 2 means a squared perplexity. A translation model that collapses goes from 3 to 5 bits back
            to the 9 to 10 of guessing by frequency, if not far beyond, while the median of 50 batches, each from
            another language, wanders by less than half.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self.first: Optional[float] = None
        self.lowest: Optional[float] = None
        self.recent: Deque[float] = collections.deque(maxlen=WINDOW)

    @property
    def bound(self) -> float:
        """The loss above which weights have diverged; infinite where nothing is known or a factor means nothing."""
        if self.first is None or self.lowest is None or self.first <= 0:
            return math.inf
        return max(self.factor * self.lowest, self.first / 2)

    def observe(self, loss: float) -> bool:
        """Take the loss of one update, finite; True if the training has diverged."""
        self.recent.append(loss)
        median = statistics.median(self.recent)
        if len(self.recent) >= FEWEST:
            self.first = median if self.first is None else self.first
            self.lowest = median if self.lowest is None else min(median, self.lowest)
        return len(self.recent) == WINDOW and median > self.bound

    def state_dict(self) -> Dict[str, Optional[float]]:
        """What a resumed training needs; the window starts again."""
        return {"first": self.first, "lowest": self.lowest}

    def load_state_dict(self, state: Dict[str, Optional[float]]) -> None:
        """Go on from `state_dict()`."""
        self.first, self.lowest = state["first"], state["lowest"]


class TrainingWatch:
    """What is known about the training of one trainer. All of it is the same on all ranks."""

    def __init__(self, watched: Watched):
        self.watched = watched
        self.losses = LossWatch(watched.loss_jump)
        self.batches: List[Any] = []  # the first ones of this process
        self.paired = 0  # how many of them the first update had
        self.start: Optional[float] = None  # loss of the first update
        self.calm = math.inf  # lowest loss on its batches since
        self.updates = 0
        self.tried = False  # whether weights were tried when the first window was full
        self.good: Optional[Tuple[str, int]] = None  # newest good checkpoint and its updates
        self.band_parameters: Dict[str, List[torch.nn.Parameter]] = {}

    def step(self, trainer: Any, train: Any, samples: Any, raise_oom: bool) -> Any:
        """One update by `train`, the stock function.

        Raises:
            Refusal: the training has diverged.
        """
        try:
            output = train(trainer, samples, raise_oom)
        except Exception as error:  # the engine looks for the first NaN before it raises: that may fail as well
            found = error if isinstance(error, FloatingPointError) else error.__context__
            if not isinstance(found, FloatingPointError) or "inconsistent" in str(found):  # ranks that disagree
                raise
            scale = "inimum loss scale" in str(found)
            self.stop(trainer, "every loss scale overflows" if scale else "its gradients are not finite")
        updates = trainer.get_num_updates()
        # Nothing is new after an overflow; --amp calls itself to try a batch again. Ranks under BMUF know other losses.
        if output and updates > self.updates and not trainer.cfg.optimization.use_bmuf:
            self.updates, loss = updates, float(output["loss"])
            if not math.isfinite(loss):
                self.stop(trainer, f"its loss is {loss}")
            self.batches += samples[: TRIED - len(self.batches)]  # as many on every rank: short ones are filled up
            if self.start is None:
                self.start, self.paired = loss, len(self.batches)
            diverged = self.losses.observe(loss)
            if len(self.losses.recent) == WINDOW and not self.tried:
                self.tried = True
                self.try_weights(trainer)
            if diverged:
                median = statistics.median(self.losses.recent)
                what = f"the median loss of the last {WINDOW} updates is {median:.3f}"
                self.stop(trainer, f"{what}, {self._comparison()}")
        return output

    def try_weights(self, trainer: Any) -> None:
        """Let training go on, or weights be written, only if their loss on a few batches is no jump.

        Before weights are written, because the loss of an update is that of the weights before it. When the first
        window is full, because medians know nothing of a training that rose from the beginning: only the first update
        saw the weights that it started with, so its batches are compared with themselves.

        Raises:
            Refusal: these weights have diverged.
        """
        from fairseq.logging import metrics

        if not self.batches:
            return
        with metrics.aggregate(new_root=True):  # no trace in the training's own numbers
            losses = [float(trainer.valid_step(batch)["loss"]) for batch in self.batches]
        mean, again = statistics.fmean(losses), statistics.fmean(losses[: self.paired])
        # A few batches may be hard ones: above the bound from the beginning, they are no jump.
        risen = not 0 < again <= RISE * min(self.start or math.inf, self.calm)
        if not math.isfinite(mean) or (mean > self.losses.bound and risen):
            comparison = f", {self._comparison()}" if math.isfinite(mean) else ""
            self.stop(trainer, f"its weights have a loss of {mean:.3f} on {len(losses)} training batches{comparison}")
        if 0 < self.start < again / self.losses.factor:
            what = f"its weights have a loss of {again:.3f} on the batches of its first update, above"
            self.stop(
                trainer, f"{what} --stop-at-loss-jump {self.losses.factor:g} times that at the start, {self.start:.3f}"
            )
        self.calm = min(self.calm, again)

    def stop(self, trainer: Any, what: str) -> None:
        """End the training with one sentence.

        Raises:
            Refusal: always.
        """
        from fairseq_plugins.compat import Refusal

        kept = (
            "no checkpoint had been written"
            if self.good is None
            else "last good checkpoint: {} (update {})".format(*self.good)
        )
        causes = "; ".join(likely_causes(trainer.cfg, self.watched))
        raise Refusal(
            f"training diverged and was stopped at update {trainer.get_num_updates()}: {what}; {kept}; likely "
            f"causes: {causes}; mend one of them and give the command again"
        )

    def _comparison(self) -> str:
        lowest, first, factor = self.losses.lowest, self.losses.first, self.losses.factor
        assert lowest is not None and first is not None
        if factor * lowest >= first / 2:
            return f"above --stop-at-loss-jump {factor:g} times the lowest median before, {lowest:.3f}"
        return f"above half of the first median, {first:.3f}, where the lowest was {lowest:.3f}"

    def band_norms(self, model: torch.nn.Module, scale: Any) -> Dict[str, torch.Tensor]:
        """L2 norm of the gradients of each depth band, in float32.

        Args:
            model: whose parameters have the prefixes of `watched.bands`.
            scale: what gradients are to be multiplied by to become true ones.
        """
        if not self.band_parameters:
            for name, prefixes in self.watched.bands.items():
                self.band_parameters[name] = [p for key, p in model.named_parameters() if key.startswith(prefixes)]
        return {name: scale * _norm(parameters) for name, parameters in self.band_parameters.items()}


def likely_causes(cfg: Any, watched: Watched) -> List[str]:
    """The three likeliest causes of a divergence, each with the flag to change."""
    lr = ",".join(f"{rate:g}" for rate in cfg.optimization.lr)
    warm_up = getattr(cfg.lr_scheduler, "warmup_updates", None) or 0  # not every schedule has one
    causes = [f"--lr {lr} is too high, or --warmup-updates {warm_up} too few"]
    if cfg.common.fp16 or cfg.common.amp:
        causes.append(f"--{'fp16' if cfg.common.fp16 else 'amp'} has too small a range (--bf16 has float32's)")
    if watched.residual not in ("deepnorm", "subln"):
        causes.append(f"--residual {watched.residual} with {watched.layers} layers (deepnorm and subln are for depth)")
    if not cfg.optimization.clip_norm:
        causes.append("gradients are not clipped (--clip-norm 1)")
    causes.append("batches are too small (raise --update-freq or --max-tokens)")
    causes.append("damaged training data (python -m fairseq_plugins.opus100 audit finds it)")
    return causes[:3]


def apply() -> None:
    """Let the stock trainer ask the watch, where a model has one."""
    from fairseq import checkpoint_utils
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    start, train, clip = Trainer.__init__, Trainer.train_step, Trainer.clip_grad_norm
    save, load, state_dict = checkpoint_utils.save_checkpoint, Trainer.load_checkpoint, Trainer.state_dict

    @functools.wraps(start)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        watched = getattr(self.get_model(), "watched", None)
        self.watch = None if watched is None else TrainingWatch(watched)

    @functools.wraps(train)
    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        if self.watch is None or not self.watch.losses.factor:
            return train(self, samples, raise_oom)
        return self.watch.step(self, train, samples, raise_oom)

    @functools.wraps(save)
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        watch = trainer.watch
        if watch is None or not watch.losses.factor or cfg.no_save:
            return save(cfg, trainer, epoch_itr, val_loss)
        watch.try_weights(trainer)
        saved = save(cfg, trainer, epoch_itr, val_loss)
        last = None if cfg.no_last_checkpoints else f"checkpoint_last{trainer.checkpoint_suffix}.pt"
        if last or saved:  # only the rank that writes knows `saved`
            watch.good = os.path.join(cfg.save_dir, last) if last else saved, trainer.get_num_updates()
        return saved

    @functools.wraps(load)
    def load_checkpoint(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        extra_state = load(self, filename, *args, **kwargs)
        if self.watch is not None and extra_state is not None:
            self.watch.good = filename, self.get_num_updates()
            if self.get_num_updates() and "loss_watch" in extra_state:  # not of another training, to fine-tune from
                self.watch.losses.load_state_dict(extra_state["loss_watch"])
        return extra_state

    @functools.wraps(state_dict)
    def state_dict_(self: Any) -> Any:
        state = state_dict(self)
        if self.watch is not None and self.watch.losses.lowest is not None:
            state["extra_state"]["loss_watch"] = self.watch.losses.state_dict()
        return state

    @functools.wraps(clip)
    def clip_grad_norm(self: Any, clip_norm: float) -> Any:
        if self.watch is None or not self.watch.watched.bands:
            return clip(self, clip_norm)
        norms = self.watch.band_norms(self.get_model(), _gradient_scale(self))
        total = clip(self, clip_norm)  # raises where fp16 overflows: such gradients are not logged
        for name, norm in norms.items():
            metrics.log_scalar(name, norm, priority=410, round=8)
        return total

    let_the_nan_detector_meet_encoders()
    Trainer.__init__, Trainer.train_step, Trainer.clip_grad_norm = __init__, train_step, clip_grad_norm
    Trainer.load_checkpoint, Trainer.state_dict = load_checkpoint, state_dict_
    checkpoint_utils.save_checkpoint = save_checkpoint


def let_the_nan_detector_meet_encoders() -> None:
    """Let the engine say which module made the first NaN, as it means to.

    It puts backward hooks on all modules, and torch looks for a tensor in what each returns. An encoder returns a
    dictionary of lists, so the search would end in a `StopIteration`, and the reason for it be forgotten.
    """
    from fairseq.models import FairseqEncoder
    from fairseq.nan_detector import NanDetector

    add = NanDetector.add_hooks

    @functools.wraps(add)
    def add_hooks(self: Any, module: torch.nn.Module) -> None:
        backward, self.backward = self.backward, self.backward and not isinstance(module, FairseqEncoder)
        add(self, module)
        self.backward = backward

    NanDetector.add_hooks = add_hooks


def _gradient_scale(trainer: Any) -> Any:
    """What the parameters' gradients still have to be multiplied by: half precision puts loss scale and mean off."""
    if trainer.is_fsdp:
        from fairseq_plugins.compat import Refusal

        raise Refusal("--gradient-bands does not go with --ddp-backend fully_sharded, where no rank has a whole layer")
    optimizer = trainer.optimizer
    if trainer.cfg.common.amp:
        return 1 / optimizer.scaler.get_scale()
    return getattr(optimizer, "_multiply_factor", 1.0)


def _norm(parameters: List[torch.nn.Parameter]) -> torch.Tensor:
    """Of the gradients of `parameters`; experts are summed over the ranks that share them out."""
    from fairseq.distributed import utils as distributed_utils

    squares = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)  # of what all ranks have, of experts
    for parameter in parameters:
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            squares[int(hasattr(parameter, "expert"))] += norm.double() ** 2
    if torch.distributed.is_initialized() and any(hasattr(parameter, "expert") for parameter in parameters):
        distributed_utils.all_reduce(squares[1:], group=distributed_utils.get_data_parallel_group())
    return squares.sum().sqrt().float()

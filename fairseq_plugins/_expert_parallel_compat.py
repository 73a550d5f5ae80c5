"""What stock fairseq needs for expert parallelism: `--moe-expert-parallel-size` above 1. Applied by ``compat.apply()``.

The stock engine has hooks for experts (``param.expert``), made for its BASE layers; each item says what they lack.
"""

import functools
import itertools
import os
import re
from pathlib import Path
from typing import Any, Iterable, List

import torch

from fairseq_plugins._whole_checkpoints import together


def apply() -> None:
    """Run every item once."""
    count_experts_in_the_norm()
    keep_one_checkpoint_per_rank()


def ranks_of(cfg: Any) -> int:
    """Over how many ranks the experts of a training's model are spread."""
    return getattr(cfg.model, "moe_expert_parallel_size", 1) or 1  # models of other packages lack the option


def count_experts_in_the_norm() -> None:
    """Clip by the norm of all gradients: those that the ranks share, and every rank's experts, each counted once.

    The stock function leaves experts out of the norm but scales them by the coefficient. A burst in an expert would
    pass unclipped; and without a common norm one rank could find an overflow that the others do not see.
    """
    from fairseq import utils
    from fairseq.distributed import utils as distributed_utils

    clip = utils.clip_grad_norm_

    @functools.wraps(clip)
    @torch.no_grad()
    def clip_grad_norm_(params: Any, max_norm: float, aggregate_norm_fn: Any = None) -> torch.Tensor:
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        experts = [parameter for parameter in params if hasattr(parameter, "expert")]
        if not experts:
            return clip(params, max_norm, aggregate_norm_fn)

        def with_experts(norm: torch.Tensor) -> torch.Tensor:
            if aggregate_norm_fn is not None:
                norm = aggregate_norm_fn(norm)
            square = norm.new_zeros((), dtype=torch.float64)
            for parameter in experts:
                if parameter.grad is not None:
                    square += torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).to(square) ** 2
            if torch.distributed.is_initialized():
                distributed_utils.all_reduce(square, group=distributed_utils.get_data_parallel_group())
            return (norm.to(square) ** 2 + square).sqrt().to(norm)

        return clip(params, max_norm, with_experts)

    utils.clip_grad_norm_ = clip_grad_norm_


def keep_one_checkpoint_per_rank() -> None:
    """Let every rank save and load ``checkpoint_*-rank-R.pt``: each has experts that no other has.

    Stock fairseq does so only for BASE layers (``cfg.model.base_layers``), and decides it before a user-dir is
    imported. It also takes a missing file for a new training, so that a run on another number of ranks would start
    from nothing, or from a part of the experts. Such a run is refused with the command that helps.
    """
    from fairseq.trainer import Trainer

    start, saves, suffix = Trainer.__init__, Trainer.should_save_checkpoint_on_current_rank, Trainer.checkpoint_suffix
    save, load, state_dict = Trainer.save_checkpoint, Trainer.load_checkpoint, Trainer.state_dict

    @functools.wraps(start)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if ranks_of(self.cfg) > 1:
            refuse_impossible_options(self.cfg)
            base = self.cfg.checkpoint.finetune_from_model
            if base and not os.path.exists(base) and os.path.exists(own_file(self, base)):
                self.cfg.checkpoint.finetune_from_model = own_file(self, base)  # fairseq looks for it itself first
            self.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True

    def should_save_checkpoint_on_current_rank(self: Any) -> bool:
        return ranks_of(self.cfg) > 1 or saves.fget(self)

    def checkpoint_suffix(self: Any) -> str:
        return suffix.fget(self) + (f"-rank-{self.data_parallel_rank}" if ranks_of(self.cfg) > 1 else "")

    def own_file(self: Any, filename: str) -> str:
        """`filename` with this rank's suffix: fairseq leaves it off crash.pt and --finetune-from-model."""
        stem, end = os.path.splitext(filename)
        return filename if stem.endswith(self.checkpoint_suffix) else f"{stem}{self.checkpoint_suffix}{end}"

    @functools.wraps(save)
    def save_checkpoint(self: Any, filename: str, extra_state: Any) -> Any:
        if ranks_of(self.cfg) == 1 or os.path.basename(filename) == "crash.pt":  # written by the rank that crashed
            return save(self, own_file(self, filename) if ranks_of(self.cfg) > 1 else filename, extra_state)
        with together(lambda written: all_wrote(written, self.device)):
            return save(self, own_file(self, filename), extra_state)

    @functools.wraps(load)
    def load_checkpoint(self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.cfg.model, "moe_experts", 0):
            filename = own_file(self, filename) if ranks_of(self.cfg) > 1 else filename
            refuse_other_ranks(filename, self.data_parallel_rank, ranks_of(self.cfg))
        return load(self, filename, *args, **kwargs)

    @functools.wraps(state_dict)
    def state_dict_(self: Any) -> Any:
        state = state_dict(self)
        if getattr(self.cfg.model, "moe_experts", 0):
            ranks = ranks_of(self.cfg)
            state["extra_state"]["expert_shard"] = {  # checkpoints/expert_shards.py reads it
                "rank": self.data_parallel_rank if ranks > 1 else 0,
                "ranks": ranks,
                "workers": self.data_parallel_world_size,
                "optimizer_parameters": optimizer_parameters(self),
            }
        return state

    Trainer.__init__ = __init__
    Trainer.should_save_checkpoint_on_current_rank = property(should_save_checkpoint_on_current_rank)
    Trainer.checkpoint_suffix = property(checkpoint_suffix)
    Trainer.save_checkpoint, Trainer.load_checkpoint, Trainer.state_dict = save_checkpoint, load_checkpoint, state_dict_


def all_wrote(written: bool, device: Any) -> None:
    """Wait until every rank has tried to write its checkpoint.

    Raises:
        Refusal: this rank has, and another could not.
    """
    from fairseq_plugins.compat import Refusal

    fewest = torch.tensor([float(written)], device=device)
    torch.distributed.all_reduce(fewest, op=torch.distributed.ReduceOp.MIN)
    if written and not fewest.item():
        raise Refusal("another rank could not write its checkpoint, and its message says why; give the same command "
                      "again")


def refuse_impossible_options(cfg: Any) -> None:
    """Stop a training that would go wrong without a word, or wait for ever.

    Raises:
        Refusal: one sentence that names the flag.
    """
    from fairseq_plugins.compat import Refusal

    ranks, backend = ranks_of(cfg), str(cfg.distributed_training.ddp_backend)
    common = cfg.common
    flat = common.fp16 and not common.memory_efficient_fp16 and not common.fp16_no_flatten_grads
    for wrong, why in (
        (
            backend not in ("legacy_ddp", "no_c10d"),
            f"needs --ddp-backend legacy_ddp: {backend} would average the gradients of different experts",
        ),
        (flat, "with --fp16 needs --fp16-no-flatten-grads: a flat gradient does not know which part is an expert's"),
        (common.amp, "does not go with --amp, whose loss scale differs between ranks; use --bf16 or --fp16"),
        (
            str(cfg.distributed_training.zero_sharding) != "none",
            "does not go with --zero-sharding, which would spread one rank's experts to all",
        ),
        *(
            (
                getattr(cfg.task, option, False),
                f"does not go with --{option.replace('_', '-')}: ranks would wait for each other's last decoding step; "
                "evaluate the checkpoint that `python -m fairseq_plugins merge-experts` makes",
            )
            for option in ("eval_bleu", "valid_scores")
        ),
    ):
        if wrong:
            raise Refusal(f"--moe-expert-parallel-size {ranks} {why}")


def refuse_other_ranks(filename: str, rank: int, ranks: int) -> None:
    """Stop a run that would read the experts of other ranks, or overlook the checkpoints it should go on from.

    Args:
        filename: what this rank is about to load; it need not exist.
        rank: this rank; 0 if the experts are not spread.
        ranks: over how many ranks the experts of this run are spread.
    Raises:
        Refusal: one sentence with the command that helps.
    """
    from fairseq_plugins.compat import Refusal, safe_load

    path = Path(filename)
    stem = re.sub(r"-rank-\d+$", "", path.stem)
    others = [path.with_name(f"{stem}.pt"), path.with_name(f"{stem}-rank-0.pt")]
    found = next((file for file in (path, *others) if file.is_file()), None)
    if found is None:
        return
    if found == path:
        record = (safe_load(path).get("extra_state") or {}).get("expert_shard") or {"ranks": 1, "rank": 0}
        if record["ranks"] == ranks and (ranks == 1 or record["rank"] == rank):
            return
    needs = "all experts" if ranks == 1 else f"those of rank {rank} out of {ranks}"
    division = "" if ranks == 1 else f"--ranks {ranks} "
    raise Refusal(
        f"this run needs a checkpoint with {needs}, which {found} is not; make one with: python -m fairseq_plugins "
        f"merge-experts {path.with_name(stem + '.pt')} {division}--output NEW.pt"
    )


def optimizer_parameters(trainer: Any) -> List[str]:
    """Names of the parameters in the optimiser's order; empty if its parameters are not the model's, one by one."""
    modules = (trainer.get_model(), trainer.get_criterion())
    named = itertools.chain.from_iterable(module.named_parameters() for module in modules)
    learning = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    optimized: Iterable[Any] = (p for group in trainer.optimizer.optimizer.param_groups for p in group["params"])
    shapes = [parameter.shape for parameter in optimized]
    return [name for name, _ in learning] if shapes == [parameter.shape for _, parameter in learning] else []

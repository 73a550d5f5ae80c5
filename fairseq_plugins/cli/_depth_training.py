"""What `depth-study` trains: models of any depth and residual scheme on the same batches, as `opus100 train` would.

The command of `opus100 train` is what is parsed here, so architecture, task, criterion and optimiser are the engine's
and reached through its registries; only the loop is ours, because it looks at the model between updates.
"""

import argparse
import itertools
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
from fairseq import optim as optimisers
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import lr_scheduler as schedulers
from torch import Tensor

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100 import train
from fairseq_plugins.opus100.run_folder import quiet_engine, read_manifest

# B batch, T length, D model dim
COUNTED = 200  # batches whose target symbols are counted for the unigram loss


class Study(NamedTuple):
    """What all cells share."""

    task: Any
    batches: List[Dict[str, Any]]  # on the device, the one of each update in order
    fixed: Dict[str, Any]  # never trained on: the input of F, and of the loss before and after
    unigram_loss: float  # nats per target token of `fixed`


def update_norm(now_BTD: Tensor, start_BTD: Tensor, padding_BT: Tensor) -> float:
    """Model update ||F(x, theta_i) - F(x, theta_0)||: L2 norm for each token, mean over those that are no padding.

    DeepNet (arXiv 2203.00555), Section 4 and Figure 5, leaves open which tensor F is and how tokens are reduced. Here F
    is the decoder's output before the vocabulary projection, in evaluation mode. Every scheme ends in a layer norm, so
    that a token of F has a norm near sqrt(D) and two unrelated ones differ by about sqrt(2 D).
    """
    return (now_BTD - start_BTD).double().norm(dim=-1)[~padding_BT].mean().item()


def unigram_loss(seen: Tensor, target: Tensor, rows: int) -> float:
    """Nats per token of `target` under add-one-smoothed frequencies of `seen`, both 1-d without padding."""
    counts = torch.bincount(seen, minlength=rows).double() + 1
    return -(counts / counts.sum()).log()[target].mean().item()


def configuration(data: Path, settings: Dict[str, Any], cell: Dict[str, Any]) -> Any:
    """The engine's configuration of one cell.

    Args:
        data: folder of `opus100 prepare`.
        settings: of the study, as `depth_study.study_settings` returns them.
        cell: its residual, layers, lr and seed.
    Raises:
        UserError: DATA is not prepared, or an option is refused.
    """
    width, hidden, heads = settings["shape"]
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    stock = cell["residual"] == "stock"
    words = ["--data", data, "--run", data, "--cpu", "--precision", "fp32"]
    words += ["--arch", "transformer" if stock else "transformer_mt"]
    words += ["--lr", cell["lr"], "--seed", cell["seed"], "--max-update", settings["updates"]]
    for name in ("dropout", "max_tokens", "label_smoothing", "sampling"):
        words += [f"--{name.replace('_', '-')}", settings[name]]
    constant = settings["warmup_updates"] == 0  # the stock schedule has no such thing: it warms up from peak to peak
    words += ["--warmup-updates", settings["updates"] + 1 if constant else settings["warmup_updates"], "--"]
    words += ["--warmup-init-lr", cell["lr"]] if constant else []
    words += ["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam"]  # those of the paper's engine
    words += [] if stock else ["--residual", cell["residual"]]
    words += ["--weight-decay", settings["weight_decay"]]
    for side in ("encoder", "decoder"):
        words += [f"--{side}-layers", cell["layers"], f"--{side}-embed-dim", width]
        words += [f"--{side}-ffn-embed-dim", hidden, f"--{side}-attention-heads", heads]
    _, command = train.build_command(parser.parse_args([str(word) for word in words]), read_manifest(data))
    engine = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(engine, command[3:]))


def load_study(cfg: Any, updates: int, device: str) -> Study:
    """Load the training set once and keep its first batches.

    Raises:
        UserError: fewer batches in an epoch than updates.
    """
    with quiet_engine():
        task = tasks.setup_task(cfg.task)
        task.load_dataset("train")
        batches = task.get_batch_iterator(
            task.dataset("train"),
            max_tokens=cfg.dataset.max_tokens,
            max_positions=task.max_positions(),
            ignore_invalid_inputs=True,
            required_batch_size_multiple=cfg.dataset.required_batch_size_multiple,
            seed=cfg.common.seed,
        ).next_epoch_itr(shuffle=True)
    if len(batches) <= updates:
        raise UserError(f"--updates {updates} needs {updates + 1} batches and an epoch has {len(batches)}; give fewer "
                        "updates or --max-tokens")  # fmt: skip
    read = list(itertools.islice(batches, max(updates, COUNTED) + 1))
    pad = task.target_dictionary.pad()
    fixed, *seen = (batch["target"][batch["target"].ne(pad)] for batch in read)
    loss = unigram_loss(torch.cat(seen), fixed, len(task.target_dictionary))
    first, *others = (utils.move_to_cuda(batch) if device != "cpu" else batch for batch in read[: updates + 1])
    return Study(task, others, first, loss)


def train_cell(study: Study, cfg: Any, device: str, report: Callable[[int], None]) -> Dict[str, Any]:
    """Train one model and look at it after 0, 1, 2, 4, 8, ... updates and after the last.

    Returns:
        "losses": of the training batches, nats per token with label smoothing, up to the first that is not finite;
        "evaluations": {"updates", "update_norm", "loss" (nats per token of the fixed batch, no smoothing)} per look;
        "parameters". What is not finite is None: JSON has no word for it.
    """
    torch.manual_seed(cfg.common.seed)
    with quiet_engine():
        model = study.task.build_model(cfg.model).to(device)
        criterion = study.task.build_criterion(cfg.criterion)
        optimiser = optimisers.build_optimizer(cfg.optimizer, list(model.parameters()))
        scheduler = schedulers.build_lr_scheduler(cfg.lr_scheduler, optimiser)
    scheduler.step_update(0)
    start_BTD = features(model, study.fixed)
    losses: List[Optional[float]] = []
    looks = [look(model, criterion, study, start_BTD, 0)]
    for number, batch in enumerate(study.batches, start=1):
        torch.manual_seed(cfg.common.seed + number)  # dropout: the same masks whatever came before
        model.train()
        optimiser.zero_grad()
        loss, tokens, _ = study.task.train_step(batch, model, criterion, optimiser, number - 1)
        losses.append(finite(loss.item() / tokens))
        optimiser.multiply_grads(1 / tokens)
        optimiser.step()
        scheduler.step_update(number)
        if not number & (number - 1) or number == len(study.batches) or losses[-1] is None:
            looks.append(look(model, criterion, study, start_BTD, number))
        report(number)
        if losses[-1] is None:
            break
    return {"losses": losses, "evaluations": looks, "parameters": sum(p.numel() for p in model.parameters())}


def features(model: Any, batch: Dict[str, Any]) -> Tensor:
    """F: the decoder's output (B, T, D) before the vocabulary projection, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model.extract_features(**batch["net_input"])[0]


def look(model: Any, criterion: Any, study: Study, start_BTD: Tensor, updates: int) -> Dict[str, Optional[float]]:
    """One evaluation on the fixed batch."""
    fixed = study.fixed
    padding_BT = fixed["target"].eq(study.task.target_dictionary.pad())
    norm = update_norm(features(model, fixed), start_BTD, padding_BT)
    with torch.no_grad():
        _, tokens, log = criterion(model, fixed)
    return {"updates": updates, "update_norm": finite(norm), "loss": finite(float(log["nll_loss"]) / tokens)}


def finite(value: float) -> Optional[float]:
    return value if math.isfinite(value) else None

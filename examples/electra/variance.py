"""How much the draw of replacements makes ELECTRA's discriminator vary: p_G against p_S (arXiv 2106.13715).

    python variance.py run/checkpoint_1_1000.pt run/checkpoint_1_2000.pt DATA --output sampled.csv
    python variance.py run/checkpoint_1_1000.pt DATA --exact 24 --output exact.csv

Of checkpoints of `--arch electra` with `--hardness loss` or `dist`, without dropout. Batches and masked places are
fixed; only what is put there is drawn again and again: from the generator's own p_G, and from the p_S of its hardness
head with the criterion's importance weights p_G / p_S on the loss of the places, without a limit.

First command, from samples, twice: with all masked places of a text drawn, as in training, and with one of each text,
while the others keep one draw from p_G. Only with one the weighted loss of the places must have the same mean under p_S
as under p_G: with all, the loss of a place depends on its neighbours too, and its weight does not speak of them.

--exact PLACES, over the whole vocabulary, which should be small: the discriminator reads every symbol at a place, one
place of each text, others as above. No sampling: variance of the place's weighted loss and its gradient under p_G, p_S,
p_S* (p_G times loss, normalised), the best p_S for the gradient, and the uniform distribution.
"""

import argparse
import csv
import io
import math
import random
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor
from variance_maths import Exact, Moments, best, divergence, effective_share, exact, exact_gradient, ratio, weights
from variance_places import EverySymbol, Sampled, every_symbol, prepare, sample

import fairseq_plugins
from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of, updates_of
from fairseq_plugins.opus100.files import Progress, plain_os_errors, write_whole
from fairseq_plugins.opus100.run_folder import quiet_engine

SAMPLED = "updates hardness drawn quantity p_G p_S comparison value low high between_batches".split()
EXACT = (
    "updates hardness drawn_from mean_loss loss_variance loss_ratio low high places_below_% gradient_variance "
    "gradient_ratio gradient_low gradient_high text_variance text_ratio text_low text_high original_% kl_from_best"
).split()
NAMES = {
    "batch": "variance of loss, batch",
    "places": "variance of loss, places",
    "own": "variance of gradient",
    "tables": "variance of gradient, shared tables",
}


def sampled_rows(
    model: Any, batches: Sequence[Dict[str, Any]], pad: int, one: bool, samples: int, seed: int
) -> List[List[Any]]:
    """Rows of the table without its first two columns."""
    noise = torch.Generator().manual_seed(seed)
    progress = Progress("one place of each text" if one else "all places", len(batches), "batches")
    sides: Dict[str, List[Sampled]] = {"p_G": [], "p_S": []}
    for number, batch in enumerate(batches):
        places = prepare(model, batch, pad, one, noise)
        for sampler, found in sides.items():
            found.append(sample(model, places, pad, one, sampler, samples, noise))
        progress.show(number + 1)
    progress.finish()
    return [["one" if one else "all", *row] for row in compare(sides["p_G"], sides["p_S"])]


def compare(generator: Sequence[Sampled], sampler: Sequence[Sampled]) -> Iterator[List[Any]]:
    """From the draws for each batch, from p_G and from p_S, to rows: quantity, both, how they compare.

    Variances: mean over batches, their ratio with an interval by drawing batches again, and under p_G the variance
    between batches, which no sampler changes. Means: their difference, two standard errors of the draws around it.
    """
    both = (generator, sampler)
    for name in generator[0].moments:
        of_batches = [[each.moments[name].variance for each in side] for side in both]
        between = Moments()
        for each in generator:
            between.add(each.moments[name].mean_P)
        draws = generator[0].moments[name].count
        beside = between.variance - mean(of_batches[0]) / draws if len(generator) > 1 else ""
        yield [NAMES[name], *map(mean, of_batches), "ratio", *ratio(of_batches[1], of_batches[0]), beside]
    for name in ("batch", "places"):
        moments = [[each.moments[name] for each in side] for side in both]
        means = [mean([float(each.mean_P) for each in side]) for side in moments]
        error = math.sqrt(sum(each.variance / each.count for side in moments for each in side)) / len(generator)
        difference = means[1] - means[0]
        around = (difference - 2 * error, difference + 2 * error)
        yield [f"mean loss, {name}", *means, "difference", difference, *around, ""]
    shares = [100 * float(torch.cat([each.is_original for each in side]).double().mean()) for side in both]
    yield ["drawn symbols that are the original, %", *shares, "difference", shares[1] - shares[0], "", "", ""]
    weights = [torch.cat([each.weight for each in side]) for side in both]
    yield ["effective sample size, %", *(100 * effective_share(each) for each in weights), "", "", "", "", ""]
    yield ["largest weight", *(float(each.max()) for each in weights), "", "", "", "", ""]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# ---- exactly -----------------------------------------------------------------------------------------------------


def distributions(seen: EverySymbol) -> Dict[str, Tensor]:
    """What could be drawn from."""
    return {
        "p_G": seen.generator_V,
        "p_S": seen.sampler_V,
        "p_S* of the loss": best(seen.generator_V, seen.loss_V),
        "p_S* of the gradient": best(seen.generator_V, seen.square_V.sqrt()),
        "uniform": torch.full_like(seen.generator_V, 1 / len(seen.generator_V)),
    }


class AtOnePlace(NamedTuple):
    """What drawing from one distribution does at one place."""

    loss: Exact  # of the place, weighted
    gradient: float  # variance
    text: float  # variance of the loss summed over the text, the place's weighted and nothing else, as it is trained
    original: float
    kl: float  # of p_S* of the loss from it


def at_one_place(seen: EverySymbol, p_V: Tensor) -> AtOnePlace:
    """Exact moments of drawing from `p_V`."""
    weighted_V = weights(seen.generator_V, p_V).nan_to_num(posinf=0) * seen.loss_V
    return AtOnePlace(
        exact(p_V, weighted_V),
        exact_gradient(seen.generator_V, p_V, seen.square_V, seen.square_of_mean),
        exact(p_V, weighted_V + seen.rest_V).variance,
        float(p_V[seen.original]),
        divergence(best(seen.generator_V, seen.loss_V), p_V),
    )


def exact_rows(model: Any, texts: Sequence[Dict[str, Any]], pad: int, seed: int) -> List[List[Any]]:
    """Rows of the table without its first two columns, one for each distribution."""
    noise = torch.Generator().manual_seed(seed)
    progress = Progress("every symbol", len(texts), "places")
    found: Dict[str, List[AtOnePlace]] = {}
    for number, text in enumerate(texts):
        seen = every_symbol(model, prepare(model, text, pad, True, noise), pad)
        for name, p_V in distributions(seen).items():
            found.setdefault(name, []).append(at_one_place(seen, p_V))
        progress.show(number + 1)
    progress.finish()
    return list(summarise(found))


def summarise(found: Dict[str, List[AtOnePlace]]) -> Iterator[List[Any]]:
    """Means over places; ratios to p_G, sum over sum, with intervals by drawing places again."""
    base = found["p_G"]
    for name, ours in found.items():
        variances = [[each.loss.variance, each.gradient, each.text] for each in ours]
        bases = [[each.loss.variance, each.gradient, each.text] for each in base]
        loss, gradient, text = (
            [mean(above), *ratio(above, below)]
            for above, below in zip(zip(*variances, strict=True), zip(*bases, strict=True), strict=True)
        )
        below = mean([one.loss.variance < other.loss.variance for one, other in zip(ours, base, strict=True)])
        yield [
            name, mean([each.loss.mean for each in ours]), *loss, 100 * below, *gradient, *text,
            100 * mean([each.original for each in ours]), mean([each.kl for each in ours]),
        ]  # fmt: skip


# ---- the command -------------------------------------------------------------------------------------------------


def load(path: Path, args: argparse.Namespace) -> Any:
    """(model, task, kind of hardness prediction, updates) of a checkpoint.

    Raises:
        UserError: a file that is no such checkpoint, or data that do not fit to it.
    """
    state = load_state(path)
    options = options_of(state, "model")
    if options.get("hardness") not in ("loss", "dist"):
        raise UserError(f"{path} has no hardness prediction to measure: give a checkpoint of --arch electra that was "
                        "trained with --hardness loss or dist")  # fmt: skip
    fairseq_plugins.register()
    from fairseq import checkpoint_utils

    names = ("data", "mono_data", "lang_pairs")
    here = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    try:
        with quiet_engine():
            (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], here)
            task.load_dataset(args.split)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or error} is missing; give as DATA what {path} was trained on") from None
    except RuntimeError as error:  # torch: tensors of other sizes
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit to the dictionary in {args.data}: {reason}") from None
    if args.hardness_floor is not None:
        if options["hardness"] != "loss" or not args.hardness_floor > 0:
            raise UserError(f"--hardness-floor {args.hardness_floor:g} must be above 0, and {path} must have been "
                            "trained with --hardness loss")  # fmt: skip
        model.hardness = model.hardness._replace(floor=args.hardness_floor)
    model.eval()
    return model, task, options["hardness"], updates_of(state)


def choose(task: Any, split: str, count: int, max_tokens: int, single: bool, seed: int) -> List[Dict[str, Any]]:
    """`count` batches of a split, always the same ones: of `max_tokens` tokens, or `single` texts of so many at most.

    Raises:
        UserError: there are not so many.
    """
    dataset = task.dataset(split)
    dataset.set_epoch(1)
    longest = min(task.max_positions(), max_tokens)
    indices, _ = dataset.filter_indices_by_size(dataset.ordered_indices(), longest)
    batches = dataset.batch_by_size(indices, max_tokens, 1 if single else None)
    if len(batches) < count:
        what, change = ("texts of this length", "more") if single else ("batches", "less")
        raise UserError(f"the split {split} has {len(batches)} {what}, not {count}: give {change} --max-tokens")
    chosen = random.Random(seed).sample(range(len(batches)), count)
    return [dataset.collater([dataset[int(index)] for index in batches[place]]) for place in chosen]


def main(words: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="of --arch electra with --hardness")
    add("data", metavar="DATA", help="folder of binarised data, as fairseq-train got it")
    add("--mono-data", metavar="FOLDER", help="of the monolingual texts (default: where they were in training)")
    add("--lang-pairs", metavar="A-B,...", help="or a file (default: as in training)")
    add("--hardness-floor", type=float, metavar="NATS", help="of --hardness loss (default: as in training)")
    add("--split", choices=["valid", "test"], default="valid", help="default: %(default)s")
    add("--batches", type=int, default=8, metavar="N", help="fixed batches (default: %(default)s)")
    add("--max-tokens", type=int, default=512, metavar="N",
        help="most of a batch, or with --exact of a text; longer ones are left out (default: %(default)s)")  # fmt: skip
    add("--samples", type=int, default=64, metavar="N", help="draws for each batch and sampler (default: %(default)s)")
    add("--exact", type=int, metavar="PLACES", help="every symbol at so many places instead of samples")
    add("--seed", type=int, default=1, metavar="N", help="of batches and draws (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="FILE", help="receives the table, as CSV")
    args = parser.parse_args(words)
    check_at_least(args, batches=1, samples=2, max_tokens=1, **({} if args.exact is None else {"exact": 1}))
    rows = []
    for path in args.checkpoints:
        model, task, hardness, updates = load(path, args)
        pad = task.source_dictionary.pad()
        if args.exact is None:
            batches = choose(task, args.split, args.batches, args.max_tokens, False, args.seed)
            found = [row for one in (False, True)
                     for row in sampled_rows(model, batches, pad, one, args.samples, args.seed)]  # fmt: skip
        else:
            texts = choose(task, args.split, args.exact, args.max_tokens, True, args.seed)
            found = exact_rows(model, texts, pad, args.seed)
        rows += [[updates, model.hardness.kind, *map(short, row)] for row in found]
        write_table(args.output, SAMPLED if args.exact is None else EXACT, rows)


def short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with plain_os_errors(path):
        write_whole(path, text.getvalue().encode())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

"""What multilingual translation tasks log of each direction when they validate, and of groups of directions."""

import argparse
import functools
import json
import math
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence

import torch
from fairseq.data import data_utils
from fairseq.data.indexed_dataset import dataset_exists
from fairseq.logging import metrics
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask
from fairseq.utils import split_paths

from ..compat import Refusal
from ..data.bleu_counts import bleu_metric, corpus_bleu, sentence_counts
from ..data.direction_groups import direction_groups
from ..data.direction_samples import DirectionSamples
from ..data.sampled_directions import lighter, opened_once

LOSS = "nll_loss"
SCORES = ("bleu", "sentence_chrf")
DEFAULTS = {"valid_lines": 0, "valid_scores": "", "valid_post_process": "sentencepiece"}  # of checkpoints without them
SEARCH = '{"beam": 1, "max_len_a": 1.2, "max_len_b": 10}'  # of fairseq-generate; else a poor model writes 200 tokens


class ValidatedByDirection(TranslationMultiSimpleEpochTask):
    """The stock multilingual task; with ``--valid-lines`` it validates on a fixed sample of each direction.

    It logs ``de-en_nll_loss`` (base 2, per token, without smoothing) of every direction, with ``--valid-scores`` also
    ``de-en_bleu`` and ``de-en_sentence_chrf``, and the mean of each over the groups of ``direction_groups``, such as
    ``macro_bleu``. fairseq puts ``valid_`` before them and takes any of them for ``--best-checkpoint-metric``.

    BLEU is sacreBLEU's (13a) over the sample; sentence_chrf the mean of its chrF2 of each sentence. Both compare
    what ``--valid-post-process`` makes of the pieces, so they are no test scores: ``opus100 evaluate`` reads raw text.

    Raises:
        Refusal: an option out of range, or validation data without a line.
    """

    @classmethod
    def add_validation_args(cls, parser: argparse.ArgumentParser, lines: int) -> None:
        """The options, with a default for ``--valid-lines``."""
        parser.add_argument("--valid-lines", type=int, default=lines, metavar="N",
                            help="validate on N lines of each direction, evenly spread over its file, the same every "
                                 "time, and log each direction; 0: on all lines, one loss, as the stock task "
                                 "(default: %(default)s)")
        parser.add_argument("--valid-scores", default="", metavar="NAMES",
                            help=f"what to log beside the loss, comma separated: {', '.join(SCORES)}; the lines are "
                                 "translated for it")
        parser.add_argument("--valid-generation-args", default=SEARCH, metavar="JSON",
                            help="options of fairseq-generate for --valid-scores (default: %(default)s)")
        parser.add_argument("--valid-post-process", default="sentencepiece", metavar="NAME",
                            help="how pieces become text, a value of fairseq-generate's --post-process "
                                 "(default: %(default)s)")  # fmt: skip

    def __init__(self, args: Any, langs: Any, dicts: Any, training: bool):
        for name, value in {**DEFAULTS, "valid_generation_args": SEARCH}.items():
            vars(args).setdefault(name, value)
        self.valid_scores = scores_of(args)
        search_of(args)
        super().__init__(args, langs, dicts, training)
        self.valid_generator: Any = None
        self.data_manager.load_data = opened_once(self.data_manager.load_data)

    def check_dicts(self, dicts: Any, source_langs: Any, target_langs: Any) -> None:
        """As the stock task, which compares one dictionary of 64,000 symbols with itself for every direction."""
        if len({id(dictionary) for dictionary in dicts.values()}) > 1:
            super().check_dicts(dicts, source_langs, target_langs)

    def build_model(self, args: Any, from_checkpoint: bool = False) -> Any:
        """As the stock task, and what translates with the model."""
        model = super().build_model(args, from_checkpoint)
        if self.training and self.args.valid_lines and self.valid_scores:
            with self._direction(self.lang_pairs[0]):
                self.valid_generator = self.build_generator([model], search_of(self.args))
        return model

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """As the stock task for training data; a sample of each direction for other splits."""
        sampled = self.training and self.args.valid_lines and split != self.args.train_subset
        if not sampled:
            super().load_dataset(split, epoch, combine, **kwargs)
            self.datasets[split] = lighter(self.datasets[split])
            return
        shard_epoch = self.data_manager.estimate_global_pass_epoch(epoch)
        loaded, _ = self.data_manager.load_split_datasets(
            split, self.training, epoch, combine, shard_epoch=shard_epoch, **kwargs
        )
        datasets = {key.removeprefix("main:"): dataset for key, dataset in loaded if key.startswith("main:")}
        empty = [direction for direction, dataset in datasets.items() if not len(dataset)]
        if empty or not datasets:
            raise Refusal(f"{split} data has no line for {', '.join(empty) or 'any direction'}: give lines or other "
                          "--lang-pairs")
        self.datasets[split] = DirectionSamples(datasets, self.args.valid_lines)

    def filter_indices_by_size(
        self, indices: Any, dataset: Any, max_positions: Any = None, ignore_invalid_inputs: bool = False
    ) -> Any:
        """As the stock task; no direction may lose all its lines, or the means over directions would have none.

        Raises:
            Refusal: one does.
        """
        kept = super().filter_indices_by_size(indices, dataset, max_positions, ignore_invalid_inputs)
        if isinstance(dataset, DirectionSamples):
            there = set(dataset.direction_N[kept].tolist())
            empty = [name for number, name in enumerate(dataset.names) if number not in there]
            if empty:
                raise Refusal(f"all --valid-lines {self.args.valid_lines} of {', '.join(empty[:12])} are longer than "
                              "--max-source-positions or --max-target-positions; raise one of them, or the lines")
        return kept

    @functools.cached_property
    def valid_groups(self) -> Dict[str, List[str]]:
        """Group -> directions, by the train lines that lie in the data folders."""
        sizes = {direction: self._train_lines(direction) for direction in self.lang_pairs}
        return direction_groups(self.lang_pairs, sizes if all(sizes.values()) else None)

    def _train_lines(self, direction: str) -> int:
        source, target = direction.split("-")
        lines, split = 0, self.args.train_subset
        for folder in split_paths(self.args.data):
            for pair in (f"{source}-{target}", f"{target}-{source}"):
                path = os.path.join(folder, f"{split}.{pair}.{source}")
                if dataset_exists(path, self.args.dataset_impl):
                    lines += len(data_utils.load_indexed_dataset(path, None, self.args.dataset_impl))
                    break  # the one that the engine takes
        return lines

    @contextmanager
    def _direction(self, direction: str) -> Iterator[None]:
        """Where the stock task generates, it reads the languages from its options."""
        before = self.args.source_lang, self.args.target_lang
        self.args.source_lang, self.args.target_lang = direction.split("-")
        try:
            yield
        finally:
            self.args.source_lang, self.args.target_lang = before

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> Any:
        """As the stock task; what it learns of the direction is under ``"by_direction"`` of the log."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        direction = sample.get("direction")  # not in a batch of training data
        if direction is not None:
            found = {LOSS: float(log.get(LOSS, log["loss"])), "tokens": int(log["ntokens"])}
            if self.valid_generator is not None:
                found.update(self._scores(direction, sample, model))
            log["by_direction"] = {direction: found}
        return loss, sample_size, log

    def _scores(self, direction: str, sample: Any, model: Any) -> Dict[str, Any]:
        with self._direction(direction), torch.no_grad():
            found = self.inference_step(self.valid_generator, [model], sample)
        nothing = torch.empty(0, dtype=torch.long)  # where half precision left no finite score
        hypotheses = [self._text(beams[0]["tokens"] if beams else nothing) for beams in found]
        references = [self._text(row[row != self.target_dictionary.pad()], True) for row in sample["target"]]
        scores: Dict[str, Any] = {"lines": len(references)}
        if "bleu" in self.valid_scores:
            scores["bleu"] = sentence_counts(hypotheses, references, bleu_metric()).sum(axis=0)
        if "sentence_chrf" in self.valid_scores:
            from sacrebleu.metrics import CHRF

            chrf = CHRF()
            pairs = zip(hypotheses, references, strict=True)
            scores["sentence_chrf"] = sum(chrf.sentence_score(text, [right]).score for text, right in pairs)
        return scores

    def _text(self, rows: torch.Tensor, reference: bool = False) -> str:
        return self.target_dictionary.string(
            rows.int().cpu(),
            self.args.valid_post_process,
            escape_unk=reference,  # an unknown piece of a reference is no match for one of a hypothesis
            extra_symbols_to_ignore={*self._tags, self.target_dictionary.pad()},
        )

    @functools.cached_property
    def _tags(self) -> List[int]:
        """Rows of the language tags, if targets can hold any."""
        spec = self.args.langtoks["main"][1]
        return [self.data_manager.get_decoder_langtok(language, spec) for language in self.langs] if spec else []

    @staticmethod
    def logging_outputs_can_be_summed(criterion: Any) -> bool:
        """Not in validation, where each worker has other directions."""
        return criterion.training and criterion.logging_outputs_can_be_summed()

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """As the stock task, and every direction and group of directions that was validated on."""
        super().reduce_metrics(logging_outputs, criterion)
        parts = [part for log in logging_outputs for part in log.get("by_direction", {}).items()]
        for direction, found in parts:
            bits = found[LOSS] / found["tokens"] / math.log(2)
            metrics.log_scalar(f"{direction}_{LOSS}", bits, found["tokens"], priority=60, round=3)
            if "sentence_chrf" in found:
                mean = found["sentence_chrf"] / found["lines"]
                metrics.log_scalar(f"{direction}_sentence_chrf", mean, found["lines"], priority=62, round=2)
            if "bleu" in found:
                metrics.log_scalar(f"_{direction}_bleu", found["bleu"])  # not printed; arrays add up
                metrics.log_derived(f"{direction}_bleu", functools.partial(_bleu, direction), priority=61)
        for kind in (LOSS, *self.valid_scores) if parts else ():
            for group, directions in self.valid_groups.items():
                metrics.log_derived(f"{group}_{kind}", functools.partial(_mean, kind, directions), priority=50)


def _bleu(direction: str, meters: Any) -> float:
    return round(corpus_bleu(meters[f"_{direction}_bleu"].sum.astype(int).tolist(), bleu_metric()), 2)


def _mean(kind: str, directions: Sequence[str], meters: Any) -> float:
    """Of all directions, NaN before each has been validated on: a mean of some would look like an improvement."""
    if any(f"{name}_{kind}" not in meters for name in directions):
        return math.nan
    values = [_bleu(name, meters) if kind == "bleu" else meters[f"{name}_{kind}"].avg for name in directions]
    return round(float(sum(values)) / len(values), 3)


def scores_of(args: Any) -> List[str]:
    """Names of ``--valid-scores``.

    Raises:
        Refusal: an unknown one, or a number of lines below 0.
    """
    names = [name for name in args.valid_scores.split(",") if name]
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise Refusal(f"--valid-scores {args.valid_scores}: '{unknown[0]}' is unknown; known are {', '.join(SCORES)}")
    if args.valid_lines < 0:
        raise Refusal(f"--valid-lines {args.valid_lines} must be at least 0 (0: all lines, as the stock task)")
    if args.valid_lines and vars(args).get("max_valid_steps") is not None:
        raise Refusal(f"--max-valid-steps {args.max_valid_steps} would leave out whole directions: give fewer "
                      "--valid-lines, or 0")
    if names and vars(args).get("ddp_backend") == "fully_sharded":
        raise Refusal("--valid-scores does not go with --ddp-backend fully_sharded, where no rank has the whole model")
    if names and not args.valid_lines:
        raise Refusal("--valid-scores needs --valid-lines above 0: the stock validation knows no directions")
    return names


def search_of(args: Any) -> argparse.Namespace:
    """``--valid-generation-args`` as options of fairseq-generate.

    Raises:
        Refusal: they are no JSON object.
    """
    try:
        options = json.loads(args.valid_generation_args)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise Refusal(f"--valid-generation-args {args.valid_generation_args} must be a JSON object, as {SEARCH}")
    return argparse.Namespace(**options)

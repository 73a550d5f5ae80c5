"""`--task translation_multi_temperature_ramp`: multilingual translation with XLM-T's dynamic sampling temperature."""

import argparse
import logging
from typing import Any, List

from fairseq.data.multilingual.sampled_multi_dataset import SampledMultiDataset
from fairseq.data.multilingual.sampling_method import SamplingMethod, temperature_sampling
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from ..compat import Refusal
from ._validation_by_direction import ValidatedByDirection

logger = logging.getLogger(__name__)


def ramp(epoch: int, start: float, end: float, epochs: int) -> float:
    """Temperature of an epoch: from `start` in epoch 1 in equal steps to `end` in epoch `epochs` + 1 (XLM-T's code).

    Args:
        epoch: counted from 1.
        start, end: T0 and T; a direction with n lines is drawn in proportion to n^(1/temperature).
        epochs: N.
    """
    return min(start + (end - start) * (epoch - 1) / epochs, end)


class RampedSampling(SamplingMethod):
    """The stock sampling method `temperature`, with a temperature that the task sets."""

    def __init__(self, args: Any, task: Any):
        super().__init__(args, task)
        self.temperature = args.sampling_temperature_start
        self.sizes: List[int] = []  # lines of each direction, all shards together

    def sampling_method_selector(self) -> Any:
        """Called by the engine whenever it loads the training set."""

        def shares(sizes: List[int]) -> List[float]:
            self.sizes = sizes
            return temperature_sampling(sizes, self.temperature)

        return shares


@register_task("translation_multi_temperature_ramp")
class TranslationMultiTemperatureRampTask(ValidatedByDirection):
    """Multilingual translation whose sampling of directions flattens over the first epochs (XLM-T, arXiv 2012.15547).

    Everything else is the stock task's. An epoch draws its examples from its own number alone, so a resumed training
    goes on with the temperature and the examples of the one that was never stopped.

    Raises:
        Refusal: an option out of range, or one of the stock task that takes the choice of examples elsewhere.
    """

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """The stock task's options, the ramp's and those of `ValidatedByDirection`, which is off by default."""
        TranslationMultiSimpleEpochTask.add_args(parser)
        ValidatedByDirection.add_validation_args(parser, lines=0)
        parser.add_argument("--sampling-temperature-start", type=float, default=1.0, metavar="T0",
                            help="temperature of the first epoch; it rises to --sampling-temperature")  # fmt: skip
        parser.add_argument("--sampling-temperature-epochs", type=int, default=5, metavar="N",
                            help="epochs after which --sampling-temperature is reached")  # fmt: skip
        parser.set_defaults(sampling_method="temperature", sampling_temperature=5.0)

    def __init__(self, args: Any, langs: Any, dicts: Any, training: bool):
        check_options(args)
        super().__init__(args, langs, dicts, training)
        self.sampling_method = self.data_manager.sampling_method = RampedSampling(args, self)

    def temperature(self, epoch: int) -> float:
        """Of an epoch, counted from 1."""
        start, end = self.args.sampling_temperature_start, self.args.sampling_temperature
        return ramp(epoch, start, end, self.args.sampling_temperature_epochs)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """As the stock task; the training set is drawn with the temperature of `epoch`."""
        self.sampling_method.temperature = self.temperature(epoch)
        super().load_dataset(split, epoch, combine, **kwargs)

    def get_batch_iterator(self, dataset: Any, *args: Any, epoch: int = 1, **kwargs: Any) -> Any:
        """As the stock task, which loads data that is not sharded once and would keep the shares of that epoch.

        The trainer asks for the iterator of every epoch before the data set draws the epoch's examples.
        """
        if isinstance(dataset, SampledMultiDataset) and dataset.sample_ratios is not None:
            shares = temperature_sampling(self.sampling_method.sizes, self.temperature(epoch))
            dataset.setup_sampling(shares, self.args.virtual_data_size)
        return super().get_batch_iterator(dataset, *args, epoch=epoch, **kwargs)

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Say with which temperature; the log of the epoch has it too."""
        super().begin_epoch(epoch, model)
        logger.info(f"epoch {epoch}: sampling temperature {self.temperature(epoch):g}")
        metrics.log_scalar("sampling_temperature", self.temperature(epoch), priority=550, round=3)


def check_options(args: Any) -> None:
    """See that the ramp goes up and that nothing else decides which examples are drawn.

    Raises:
        Refusal: one sentence that names the option.
    """
    start, end, epochs = args.sampling_temperature_start, args.sampling_temperature, args.sampling_temperature_epochs
    if not start > 0:
        raise Refusal(f"--sampling-temperature-start {start:g} must be above 0 (1 keeps the natural proportions)")
    if not start <= end:
        raise Refusal(f"--sampling-temperature {end:g} must be at least --sampling-temperature-start {start:g}: the "
                      "temperature rises")
    if epochs < 1:
        raise Refusal(f"--sampling-temperature-epochs {epochs} must be at least 1")
    if args.sampling_method != "temperature":
        raise Refusal(f"--sampling-method {args.sampling_method} has no temperature: leave it out, or give --task "
                      "translation_multi_simple_epoch")
    if args.sampling_weights or args.sampling_weights_from_file:
        raise Refusal("--sampling-weights takes the place of the temperature: leave it out, or give --task "
                      "translation_multi_simple_epoch")
    if args.virtual_epoch_size is not None:
        # its epochs share one drawing; with --virtual-data-size alone each epoch has its own, and is as long
        raise Refusal(f"--virtual-epoch-size {args.virtual_epoch_size} cuts one drawing of examples into epochs, which "
                      "would have one temperature: give --virtual-data-size for epochs of that many examples")

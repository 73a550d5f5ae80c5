"""`--task translation_multi_validated`: stock multilingual translation that validates every direction by itself."""

import argparse

from fairseq.tasks import register_task
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from ._validation_by_direction import ValidatedByDirection


@register_task("translation_multi_validated")
class TranslationMultiValidatedTask(ValidatedByDirection):
    """Training is `translation_multi_simple_epoch`'s, example by example; see `ValidatedByDirection`."""

    @staticmethod
    def add_args(parser: argparse.ArgumentParser) -> None:
        """The stock task's options and the validation's."""
        TranslationMultiSimpleEpochTask.add_args(parser)
        ValidatedByDirection.add_validation_args(parser, lines=100)

"""What `show-batch` shows: a batch of the engine, as a training with the same words would get it."""

import itertools
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.readable_batch import ReadableExample, sequence_pairs, single_texts
from fairseq_plugins.opus100.run_folder import quiet_engine

# stock task of one text -> whether it looks back only
TEXTS = {"masked_lm": False, "multilingual_masked_lm": False, "language_modeling": True}


class Batch(NamedTuple):
    """One batch."""

    title: str
    examples: List[ReadableExample]
    count: int  # examples of the whole batch


def read_batch(words: Sequence[str], split: Optional[str], epoch: int, number: int) -> Batch:
    """Make batch `number` (from 1) of an epoch.

    Args:
        words: of fairseq-train.
        split: None for the training set.
    Raises:
        UserError: as `show_batch.run` says.
    """
    with quiet_engine():
        fairseq_plugins.register()
        from fairseq import tasks

        cfg = configuration(words)
        name = cfg.task._name
        split = cfg.dataset.train_subset if split is None else split
        training = split == cfg.dataset.train_subset
        with _stock_words(name, split):
            task = tasks.setup_task(cfg.task)
            longest = task.max_positions()
            if _names_arch(words):
                longest = _longest(task, cfg)
            task.load_dataset(split, epoch=epoch, combine=training)
            batches = _batches(task, cfg, split, epoch, longest, training)
            count = len(batches)
            if number > count:
                raise UserError(f"--batch {number}: epoch {epoch} of {split} has {count} batches")
            sample = next(itertools.islice(batches, number - 1, None))
        examples = describe(task, name, sample)
    title = f"{name}, {split}, epoch {epoch}, batch {number} of {count}: {len(examples)} examples, "
    return Batch(f"{title}{sample['ntokens']:,} tokens", examples, len(examples))


@contextmanager
def _stock_words(name: str, split: str) -> Iterator[None]:
    """What the stock tasks raise for data that are missing, damaged or not theirs, as one sentence."""
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"the task {name} found no {split} data: {str(error) or type(error).__name__}") from None
    except Exception as error:
        raise UserError(f"the task {name} could not read the {split} data: {error}; give it the words that "
                        "fairseq-train would get") from None  # fmt: skip


def configuration(words: Sequence[str]) -> Any:
    """The engine's configuration for the words of a command.

    Raises:
        UserError: it does not understand them.
    """
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    def refuse(message: str) -> None:
        raise UserError(f"fairseq-train does not understand these words: {message}")

    parser = options.get_training_parser()
    parser.error = refuse
    unnamed = [] if _names_arch(words) else ["--arch", "transformer_mt"]  # the engine cannot do without
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*words, *unnamed]))


def _names_arch(words: Sequence[str]) -> bool:
    return any(word in ("-a", "--arch") or word.startswith("--arch=") for word in words)


def describe(task: Any, name: str, sample: Any) -> List[ReadableExample]:
    """How a batch of a task reads: by its own `describe_batch`, or as one of the stock tasks.

    Raises:
        UserError: nobody knows.
    """
    if hasattr(task, "describe_batch"):
        return task.describe_batch(sample)
    net_input = sample.get("net_input", {})
    if "src_tokens" in net_input and sample.get("target") is not None:
        if "prev_output_tokens" in net_input:
            return sequence_pairs(sample, task.source_dictionary, task.target_dictionary)
        if name in TEXTS:
            return single_texts(sample, task.source_dictionary, TEXTS[name])
    raise UserError(f"batches of the task {name} cannot be read: give it a method describe_batch(sample) that returns "
                    "fairseq_plugins.data.readable_batch.ReadableExample for each example")  # fmt: skip


def _longest(task: Any, cfg: Any) -> Any:
    """Limits of length of task, model and batch, as the trainer resolves them."""
    import torch
    from fairseq import utils

    with torch.device("meta"):  # no weights
        model = task.build_model(cfg.model)
    return utils.resolve_max_positions(task.max_positions(), model.max_positions(), cfg.dataset.max_tokens)


def _batches(task: Any, cfg: Any, split: str, epoch: int, longest: Any, training: bool) -> Any:
    """The batches of an epoch, in the order of a training on one device, or of its validation."""
    data = cfg.dataset
    if data.max_tokens is None and data.batch_size is None:
        raise UserError("give --max-tokens or --batch-size after --, as to fairseq-train")
    itr = task.get_batch_iterator(
        dataset=task.dataset(split),
        max_tokens=data.max_tokens if training else data.max_tokens_valid,
        max_sentences=data.batch_size if training else data.batch_size_valid,
        max_positions=longest,
        ignore_invalid_inputs=training or data.skip_invalid_size_inputs_valid_test,
        required_batch_size_multiple=data.required_batch_size_multiple,
        seed=cfg.common.seed,
        epoch=epoch,
    )
    return itr.next_epoch_itr(shuffle=training and epoch > data.curriculum, fix_batches_to_gpus=False)

"""What `moe-inspect` feeds to its models: checkpoints of one task, loaded through fairseq, and batches of one language.

fairseq and torch are imported late: they take seconds.
"""

import random
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import load_state, options_of, sound
from fairseq_plugins.opus100.facts import MULTILINGUAL_TASKS, check_rows, checkpoint_facts, task_here
from fairseq_plugins.opus100.run_folder import bound_data, check_same_data, quiet_engine, read_manifest
from fairseq_plugins.opus100.tables import evaluated_directions, select_directions

SUBSET = {"valid": "dev", "test": "test"}  # prefix of the binarised files -> the manifest's name
WHOLE = "all"  # the one group of tasks that do not tell languages apart


class Batch(NamedTuple):
    """Sentences of one group, not read yet."""

    group: str  # direction "de-en", language, or WHOLE
    dataset: Any
    indices: List[int]

    def net_input(self, device: str) -> Dict[str, Any]:
        """Keyword arguments of the model."""
        sample = self.dataset.collater([self.dataset[index] for index in self.indices])
        return {name: tensor.to(device) for name, tensor in sample["net_input"].items()}


class Inputs(NamedTuple):
    """Models and the batches that all of them read."""

    models: List[Any]
    batches: List[Batch]
    left_out: int  # sentences that are too long for a model


def language_of(group: str, layer: str) -> str:
    """The language that a layer reads: the source in an encoder, the target in a decoder."""
    if "-" not in group:
        return group
    source, target = group.split("-")
    return source if layer.startswith("encoder.") else target


def load_inputs(
    paths: Sequence[Path],
    data: Path,
    *,
    split: str,
    directions: Optional[str],
    max_tokens: int,
    batches: int,
    device: str,
) -> Inputs:
    """Load every checkpoint and choose the batches.

    Args:
        paths: checkpoints of one task; the first one's configuration says how DATA is read.
        data: folder of the binarised data.
        split: "valid" or "test".
        directions: what the user named, None for all.
        max_tokens: tokens per batch, padding included.
        batches: how many in all, 0 for everything; every group gets at least one.
        device: of the models.
    Raises:
        UserError: checkpoints that are damaged, dense or do not fit, or data that are missing.
    """
    states = [_mixture(path) for path in paths]
    names = {_task_name(state) for state in states}
    if len(names) > 1:
        raise UserError(f"the checkpoints were trained with different tasks ({', '.join(sorted(names))})")
    if not data.is_dir():
        raise UserError(f"DATA {data} is not a folder; give the one the checkpoint was trained on")
    name = names.pop()
    groups = None
    if name in MULTILINGUAL_TASKS:
        _check_data(paths, data)
        groups = select_directions(evaluated_directions(read_manifest(data), SUBSET[split]), directions)
    del states
    models, task = _load_models(paths, data, name)
    with quiet_engine():
        datasets = _datasets(task, name, data, split, groups)
    if groups is None:
        datasets = _chosen(datasets, directions)
    found, left_out = _batches(datasets, task, models, max_tokens)
    for model in models:
        model.to(device).eval()
    return Inputs(models, _choose(found, batches), left_out)


def _mixture(path: Path) -> Dict[str, Any]:
    """A checkpoint with all experts of all its layers."""
    from fairseq_plugins.checkpoints.expert_shards import read_record

    state = load_state(path)
    if not any(".router." in name for name in state["model"]):
        raise UserError(f"checkpoint {path} has no mixture-of-experts layers")
    try:
        shard = read_record(state)
    except ValueError:  # trained where nothing was recorded: on one device
        return state
    if shard.ranks > 1:
        raise UserError(f"checkpoint {path} holds the experts of rank {shard.rank} of {shard.ranks} alone; join them "
                        "first with: python -m fairseq_plugins merge-experts")
    return state


def _task_name(state: Dict[str, Any]) -> str:
    options = options_of(state, "task")
    return str(options.get("_name") or options.get("task"))


def _check_data(paths: Sequence[Path], data: Path) -> None:
    """See that DATA is what multilingual checkpoints were trained on, as far as they say."""
    manifest = read_manifest(data)
    for path in paths:
        facts = checkpoint_facts(path)
        trained = facts.data or bound_data(path.parent)
        bound = {"sha256": (trained or manifest)["sha256"], "tag_scheme": facts.tag_scheme}
        check_same_data(bound, f"checkpoint {path}", manifest, data)
        check_rows(facts, data, path)


def _load_models(paths: Sequence[Path], data: Path, name: str) -> Tuple[List[Any], Any]:
    with quiet_engine():
        fairseq_plugins.register()
    from fairseq import checkpoint_utils

    here = task_here(data) if name in MULTILINGUAL_TASKS else {"data": str(data)}
    models, task = [], None
    for path in paths:
        try:
            with quiet_engine(), sound(path, FileNotFoundError, RuntimeError):
                (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], here, task=task)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or data} is missing; give the data that {path} was trained on") from None
        except RuntimeError as error:  # torch: sizes that differ, parameters too many or too few
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"checkpoint {path} does not fit to the dictionary in {data}: {reason}") from None
        models.append(model)
    return models, task


def _datasets(task: Any, name: str, data: Path, split: str, groups: Optional[List[str]]) -> Dict[str, Any]:
    """Group -> dataset, as training read it: tags, padding side and masking are the task's."""
    try:
        if groups is not None:
            return {direction: _direction(task, data, split, direction) for direction in groups}
        task.load_dataset(split)
    except FileNotFoundError:
        raise UserError(f"{data} has no binarised {split} files of this task; give --split or other data") from None
    if name == "translation":
        return {f"{task.cfg.source_lang}-{task.cfg.target_lang}": task.datasets[split]}
    languages = {key.removeprefix(f"{split}_"): dataset for key, dataset in task.datasets.items() if key != split}
    return languages or {WHOLE: task.datasets[split]}


def _direction(task: Any, data: Path, split: str, direction: str) -> Any:
    source, target = direction.split("-")
    manager = task.data_manager
    return manager.load_a_dataset(
        split,
        str(data),
        source,
        manager.get_source_dictionary(source),
        target,
        manager.get_target_dictionary(target),
        combine=False,
        langtok_spec=task.args.langtoks["main"],
    )


def _chosen(datasets: Dict[str, Any], directions: Optional[str]) -> Dict[str, Any]:
    if directions is None:
        return datasets
    words = directions.replace(",", " ").split()
    for word in words:
        if word not in datasets:
            raise UserError(f"--directions: the data has no '{word}'; known are {', '.join(datasets)}")
    return {word: datasets[word] for word in words}


def _batches(
    datasets: Dict[str, Any], task: Any, models: List[Any], max_tokens: int
) -> Tuple[Dict[str, List[Batch]], int]:
    """All batches of every group, and how many sentences no model can take."""
    from fairseq.data import data_utils
    from fairseq.utils import resolve_max_positions

    longest = resolve_max_positions(task.max_positions(), *(model.max_positions() for model in models))
    found, left_out = {}, 0
    for group, dataset in datasets.items():
        with data_utils.numpy_seed(1):  # sentences of one length come in any order
            ordered = dataset.ordered_indices()
        indices, ignored = dataset.filter_indices_by_size(ordered, longest)
        left_out += len(ignored)
        try:
            batches = dataset.batch_by_size(indices, max_tokens=max_tokens, required_batch_size_multiple=1)
        except AssertionError:
            raise UserError(
                f"--max-tokens {max_tokens} is less than the longest sentence of {group}; give more"
            ) from None
        found[group] = [Batch(group, dataset, [int(index) for index in batch]) for batch in batches]
    if not any(found.values()):
        raise UserError(f"none of the {left_out} sentences is short enough for the model")
    return found, left_out


def _choose(found: Dict[str, List[Batch]], count: int) -> List[Batch]:
    """`count` batches, as evenly from the groups as they go, the same ones every time; 0 for all."""
    for group, batches in found.items():
        random.Random(group).shuffle(batches)  # in the order of length the first ones would be the short ones
    rounds = max(map(len, found.values()))
    in_turn = [batches[turn] for turn in range(rounds) for batches in found.values() if turn < len(batches)]
    return in_turn[: max(count, sum(map(bool, found.values())))] if count else in_turn

"""The mean of several checkpoints' parameters (Vaswani et al. 2017, section 6.1: the last 5 or 20 of one training)."""

from typing import Dict, Mapping, Sequence, Tuple

from torch import Tensor, float64

StateDict = Mapping[str, Tensor]


def average_state_dicts(state_dicts: Sequence[StateDict], names: Sequence[str]) -> Dict[str, Tensor]:
    """Average parameter by parameter, in float64. A tensor with several names is averaged once and stays shared.

    Only one parameter's worth of copies exists at a time, so state dicts mapped from files need no memory.

    Args:
        state_dicts: at least one; all with the same keys, shapes and types.
        names: what to call each of them in an error, for example its file name.
    Returns:
        key -> mean, in the order, type and shape of the first state dict. Whole numbers are kept as they are.
    Raises:
        ValueError: keys, shapes, types or whole numbers differ; the message says between which two of ``names``.
    """
    for state_dict, name in zip(state_dicts[1:], names[1:], strict=True):
        _check_alike(state_dicts[0], state_dict, names[0], name)
    mean_of: Dict[Tuple, Tensor] = {}
    averaged = {}
    for key in state_dicts[0]:
        tensors = [state_dict[key] for state_dict in state_dicts]
        identity = tuple(map(_identity, tensors))  # in all of them: parameters tied in one file only are not tied
        if identity not in mean_of:
            mean_of[identity] = _mean(tensors)
        averaged[key] = mean_of[identity]
    return averaged


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0].clone()
    total = tensors[0].to(float64, copy=True)
    for tensor in tensors[1:]:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)


def _identity(tensor: Tensor) -> Tuple:
    """Equal for two tensors exactly if they are the same memory read in the same way."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _check_alike(one: StateDict, other: StateDict, one_name: str, other_name: str) -> None:
    only_one, only_other = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
    if only_one or only_other:
        key, owner, lacking = (only_one[0], one_name, other_name) if only_one else (only_other[0], other_name, one_name)
        count = len(only_one) + len(only_other)
        raise ValueError(f"{owner} has {key} and {lacking} has not ({count} such parameters): two different models")
    for key, tensor in one.items():
        if tensor.shape != other[key].shape:
            shapes = f"{tuple(tensor.shape)} in {one_name} and {tuple(other[key].shape)} in {other_name}"
            why = "two different dictionaries" if _differ_in_rows_only(tensor, other[key]) else "two different models"
            raise ValueError(f"{key} is {shapes}: {why}")
        if tensor.dtype != other[key].dtype:
            raise ValueError(f"{key} is {tensor.dtype} in {one_name} and {other[key].dtype} in {other_name}")
        counts = ".pruning." in key  # scores of a pruning go on counting; the first file's are kept
        if not tensor.is_floating_point() and not counts and not tensor.equal(other[key]):
            raise ValueError(f"{key} holds whole numbers that differ between {one_name} and {other_name}")


def _differ_in_rows_only(one: Tensor, other: Tensor) -> bool:
    return one.dim() == other.dim() == 2 and one.shape[1] == other.shape[1]

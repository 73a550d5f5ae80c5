"""Options of this package's models, tasks and criterions out of range: refused by their flag as the engine builds.

A stock command ends with the sentence of a `Refusal`, without a traceback; of anything else it prints one.
"""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any, Dict

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fairseq_plugins.compat import Refusal
from tests.hostile_support import FIXED
from tests.models_support import dictionary

KINDS = {
    "model": (MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY),
    "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
    "criterion": (CRITERION_REGISTRY, CRITERION_DATACLASS_REGISTRY),
}
SIZES = {"layers": 2, "embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2}
MODEL = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIZES.items()}
# options -> values that mean something although they look wrong
MEANS = {"stop_at_loss_jump": (math.inf,), "sampling_temperature": (math.inf,)}


def fields() -> Any:
    """(kind, name, field) of every option that is a number."""
    for kind, (classes, configurations) in KINDS.items():
        for name, of in classes.items():
            if of.__module__.startswith("fairseq_plugins.") and configurations.get(name):
                for field in dataclasses.fields(configurations[name]):
                    number = isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
                    if number and field.name != "teacher_layer":  # which is looked at when the teacher is there
                        yield kind, name, field


EVERY = list(fields())


def plain(configuration: Any, changes: Dict[str, Any]) -> Any:
    """A configuration as it reaches what builds from it; what it takes from others is missing or given."""
    values = OmegaConf.to_container(OmegaConf.structured(configuration()), resolve=False, enum_to_str=True)
    values = {key: None if str(value).startswith("${") else value for key, value in values.items()}
    known = {key: value for key, value in changes.items() if key in values}
    return OmegaConf.create({**values, "seed": 1, "max_tokens": 2000, "max_tokens_valid": 2000, **known})


def build(kind: str, name: str, changes: Dict[str, Any], data: Any) -> None:
    classes, configurations = KINDS[kind]
    rows = dictionary()
    for symbol in ("<mask>", "<pseudo_mask>"):
        rows.add_symbol(symbol)
    task = SimpleNamespace(source_dictionary=rows, target_dictionary=rows, dictionary=rows, label_dictionary=rows,
                           mask_idx=rows.index("<mask>"), objective_names=["sc"],
                           cfg=OmegaConf.create({"tokens_per_sample": 32, "left_pad_target": False}))  # fmt: skip
    if kind == "model":
        with torch.device("meta"):
            classes[name].build_model(plain(configurations[name], {**MODEL, "max_positions": 32, **changes}), task)
    elif kind == "criterion":
        classes[name].build_criterion(plain(configurations[name], {"sentence_avg": False, **changes}), task)
    else:
        classes[name].setup_task(plain(configurations[name], {"data": str(data), **changes}))


@pytest.mark.parametrize("kind, name, field", EVERY, ids=[f"{kind} {name} {of.name}" for kind, name, of in EVERY])
@settings(max_examples=2, **FIXED)
@given(data=st.data())
def test_numbers_out_of_range_are_refused_by_their_flag(world, kind, name, field, data):
    if isinstance(field.default, int):
        bad = st.integers(-(2**40), -1)
    else:
        bad = st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats(max_value=-0.001, allow_nan=False)
    value = data.draw(bad)
    changes = {field.name: value}
    if field.name.startswith("moe_prune"):
        variant = "staged" if field.name == "moe_prune_windows" else "eager"
        changes.update(moe_prune=variant, moe_capacity_factor=0.0, moe_eval_capacity_factor=0.0)
    if field.name.startswith("moe_") and kind == "model":
        changes = {"moe_experts": 4, "moe_freq": 1, **changes}
    if field.name == "relative_bias_max_distance":
        changes["relative_bias_buckets"] = 8
    if field.name.startswith(("tpsc_", "tsc_")):
        changes["objectives"] = field.name.partition("_")[0]
    flag = f"--{field.name.replace('_', '-')}"
    if value in MEANS.get(field.name, ()):
        return
    with pytest.raises(Refusal) as refusal:
        build(kind, name, changes, world.root / "data")
    assert flag in str(refusal.value) or f"needs --task {name}" in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_what_is_refused_is_taken_with_its_default(world):
    """Otherwise the tests above would see another refusal than that of the option."""
    for kind, name in dict.fromkeys((kind, name) for kind, name, _ in EVERY):
        try:
            build(kind, name, {"moe_experts": 4, "moe_freq": 1} if kind == "model" else {}, world.root / "data")
        except Refusal as refusal:
            assert "needs --task" in str(refusal), (kind, name, refusal)

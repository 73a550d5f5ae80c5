"""What stock fairseq does with options, mended: bf16, presets under hydra, overrides. Called by ``compat.apply``."""

import argparse
import functools
import types
from typing import Any, Dict

from fairseq_plugins.compat import Refusal


def apply() -> None:
    """Every item of this file."""
    let_bf16_mean_bf16()
    refuse_presets_under_hydra()
    let_overrides_name_new_options()


def let_bf16_mean_bf16() -> None:
    """Let ``--bf16`` train in bfloat16 on the device at hand, a GPU or the CPU.

    The stock command line turns ``--bf16`` into ``--tpu`` while it parses, and then fails without torch_xla; the
    trainer itself needs no TPU for it. ``--tpu``, given in words, still means a TPU.
    """
    from fairseq import options
    from fairseq.dataclass.configs import CommonConfig

    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_args_and_arch(parser: argparse.ArgumentParser, input_args: Any = None, *args: Any, **kwargs: Any) -> Any:
        result = parse(parser, input_args, *args, **kwargs)
        namespace = result[0] if isinstance(result, tuple) else result  # a tuple with parse_known=True
        if getattr(namespace, "bf16", False):
            asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            asked.add_argument("--tpu", action="store_true")
            namespace.tpu = asked.parse_known_args(input_args)[0].tpu
        return result

    options.parse_args_and_arch = parse_args_and_arch
    bf16 = CommonConfig.__dataclass_fields__["bf16"]
    bf16.metadata = types.MappingProxyType({**bf16.metadata, "help": "train in bfloat16 on the device at hand"})


def refuse_presets_under_hydra() -> None:
    """Stop ``fairseq-hydra-train`` when ``model._name`` is a command-line preset, and say which fields to write.

    A preset fills in what the command line left open. Under hydra nothing is open: fairseq has put the model's defaults
    in every field (stock models) or merges no defaults at all under a preset's name (models of a user-dir), so training
    would silently go on with another network, or fail on a missing field.
    """
    from fairseq import models
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    build = models.build_model

    @functools.wraps(build)
    def build_model(cfg: Any, task: Any, from_checkpoint: bool = False) -> Any:
        preset = cfg if isinstance(cfg, str) else getattr(cfg, "_name", None)
        name = models.ARCH_MODEL_NAME_REGISTRY.get(preset, preset)
        options = models.MODEL_DATACLASS_REGISTRY.get(name)
        if preset != name and options is not None and not from_checkpoint:
            # The command line hands over every option of the model; what hydra gives to a user-dir model has gaps. That
            # is also how a spawned worker of fairseq-hydra-train, in which hydra itself never started, is recognised.
            gaps = not OmegaConf.is_config(cfg) or options.__dataclass_fields__.keys() - cfg.keys()
            if HydraConfig.initialized() or (gaps and not isinstance(cfg, argparse.Namespace)):
                fields = "".join(f"\n  {key}: {value}" for key, value in _preset_fields(preset, options()).items())
                raise Refusal(
                    f"model._name={preset} is a preset of the fairseq-train command line, which hydra does not apply; "
                    f"write its fields under 'model' instead:\n  _name: {name}{fields}"
                )
        return build(cfg, task, from_checkpoint)

    models.build_model = build_model


def let_overrides_name_new_options() -> None:
    """Let ``--model-overrides`` set an option that a model got after the checkpoint was written.

    The stock engine changes the options that it finds in the file, and passes over all others without a word: a teacher
    of last year would write its labels with ordinary attention.
    """
    from fairseq import checkpoint_utils, models
    from omegaconf import OmegaConf, open_dict

    overwrite = checkpoint_utils.overwrite_args_by_name

    @functools.wraps(overwrite)
    def overwrite_args_by_name(cfg: Any, overrides: Dict[str, Any]) -> None:
        stored = cfg.get("model")
        if OmegaConf.is_dict(stored):  # a Namespace takes every override
            name = models.ARCH_MODEL_NAME_REGISTRY.get(stored.get("_name"), stored.get("_name"))
            options = models.MODEL_DATACLASS_REGISTRY.get(name)
            known = options.__dataclass_fields__ if options else ()
            with open_dict(stored):
                stored.update({key: value for key, value in overrides.items() if key in known and key not in stored})
        overwrite(cfg, overrides)

    checkpoint_utils.overwrite_args_by_name = overwrite_args_by_name


def _preset_fields(preset: str, defaults: Any) -> Dict[str, Any]:
    """Option -> value, for every option that the preset sets to something other than the model's default."""
    from fairseq.models import ARCH_CONFIG_REGISTRY

    filled = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[preset](filled)
    return {
        key: value for key, value in vars(filled).items() if hasattr(defaults, key) and value != getattr(defaults, key)
    }

"""A checkpoint of this package as the plain Transformer that other engines know: stock names, stock options, no alpha.

fairseq and torch are imported late: they take seconds.
"""

import argparse
from typing import Any, Dict, Mapping, NamedTuple, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import options_of
from fairseq_plugins.opus100.run_folder import quiet_engine

# What a plain Transformer is made of; the names are both this package's and stock fairseq's.
_SHAPE = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads", "learned_pos")
_KEPT = (
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in _SHAPE),
    *("max_source_positions", "max_target_positions", "share_all_embeddings", "share_decoder_input_output_embed"),
    *("activation_fn", "dropout", "attention_dropout", "activation_dropout", "checkpoint_activations"),
    *("layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings"),
)
# Options of stock `transformer` that make it another network than that.
_FOREIGN = ("adaptive_softmax_cutoff", "adaptive_input", "no_cross_attention", "cross_self_attention", "base_layers",
            "encoder_layers_to_keep", "decoder_layers_to_keep", "char_inputs", "no_decoder_final_norm")  # fmt: skip
_OUR_MODELS = ("transformer_mt", "xlm_t")  # the second is the first, started in another way
# Options of `transformer_mt` that a plain Transformer lacks, and their values where it computes the same.
_OURS = {"interleaved_ffn": False, "ffn_gate": False, "norm": "layer", "relative_bias_buckets": 0}


class PlainTransformer(NamedTuple):
    """An encoder-decoder as stock `--arch transformer` knows it."""

    options: Dict[str, Any]  # of stock fairseq, flat; those that decide what is computed
    state: Dict[str, Any]  # stock name -> tensor


def plain_transformer(checkpoint: Dict[str, Any], path: Any) -> PlainTransformer:
    """The plain Transformer that computes what a checkpoint does, but for the eps of DeepNorm's norms.

    Attention of another temperature is folded into the queries, residual weights into what they weigh.

    Args:
        checkpoint: of `transformer_mt` or `xlm_t` (post, pre, deepnorm; experts pruned to one) or stock
            `transformer`, as `checkpoint_files.load_state` reads it.
        path: of it, for errors.
    Raises:
        UserError: no such Transformer exists.
    """
    with quiet_engine():
        fairseq_plugins.register()
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    from fairseq_plugins.checkpoints.fairseq_names import from_fairseq, to_fairseq

    stored = options_of(checkpoint, "model")
    arch = stored.get("_name") or stored.get("arch")
    model = ARCH_MODEL_NAME_REGISTRY.get(arch, arch)
    if model not in (*_OUR_MODELS, "transformer"):
        raise UserError(f"checkpoint {path} is of a {model}: only encoder-decoders ({', '.join(_OUR_MODELS)} and stock "
                        "transformer) can be exported")
    weights = single_precision(checkpoint["model"])
    if model == "transformer":
        options = _stock_options(stored, path)
        return PlainTransformer(options, to_fairseq(from_fairseq(weights)))
    options, state = _our_options(stored, weights, path)
    return PlainTransformer(options, to_fairseq(state))


def single_precision(state: Mapping[str, Any]) -> Dict[str, Any]:
    """The state in float32, in which folding rounds nothing that matters; what shared memory shares it again."""
    import torch

    widened: Dict[Any, Any] = {}
    result = {}
    for name, tensor in state.items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            same = (tensor.data_ptr(), tensor.shape, tensor.stride())
            tensor = widened.setdefault(same, tensor.float())
        result[name] = tensor
    return result


def _our_options(stored: Dict[str, Any], state: Mapping[str, Any], path: Any) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Stock options and the state under our names, without experts and alpha."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    from fairseq_plugins.checkpoints.attention_temperature import fold_attention_temperature, query_factors
    from fairseq_plugins.checkpoints.expert_pruning import dense_model
    from fairseq_plugins.checkpoints.post_norm import fold_deepnorm
    from fairseq_plugins.modules.residual import residual_schemes

    options = {**vars(MODEL_DATACLASS_REGISTRY["transformer_mt"]()), **stored}
    schemes = residual_schemes(str(options["residual"]), options["encoder_layers"], options["decoder_layers"])
    if any(scheme.inner_norm for scheme in schemes if scheme):
        raise UserError(f"checkpoint {path} was trained with --residual {options['residual']}, whose norms inside the "
                        "sublayers no plain Transformer has; train with deepnorm, post or pre to export")
    heads = {options[f"{side}_embed_dim"] // options[f"{side}_attention_heads"] for side in ("encoder", "decoder")}
    head_dim = options["attention_head_dim"]
    for name, plain in {**_OURS, "attention_head_dim": head_dim if heads == {head_dim} else 0}.items():
        if str(options[name]) != str(plain):
            flag = f"--{name.replace('_', '-')}" + ("" if options[name] is True else f" {options[name]}")
            raise UserError(f"checkpoint {path} was trained with {flag}, which no plain Transformer has: it cannot be "
                            "exported")
    kept = {name: options[name] for name in _KEPT}
    kept["activation_fn"] = str(kept["activation_fn"])
    for side, scheme in zip(schemes._fields, schemes, strict=True):
        kept[f"{side}_normalize_before"] = scheme.norm_first
    try:
        dense = dense_model(options, state) if options["moe_experts"] else state
        alpha = {side: scheme.alpha for side, scheme in zip(schemes._fields, schemes, strict=True)}
        return kept, fold_deepnorm(fold_attention_temperature(dense, query_factors(options)), alpha)
    except ValueError as error:
        raise UserError(f"checkpoint {path} cannot be exported: {error}") from None


def _stock_options(stored: Dict[str, Any], path: Any) -> Dict[str, Any]:
    from fairseq.models import ARCH_CONFIG_REGISTRY

    complete = argparse.Namespace(**stored)
    ARCH_CONFIG_REGISTRY["transformer"](complete)
    options = vars(complete)
    for name in _FOREIGN:
        if options.get(name):
            raise UserError(f"checkpoint {path} was trained with --{name.replace('_', '-')}: that network cannot be "
                            "exported")
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if options[name] != options["decoder_embed_dim"]:
            raise UserError(f"checkpoint {path} has --{name.replace('_', '-')} {options[name]} and --decoder-embed-dim "
                            f"{options['decoder_embed_dim']}: only equal ones can be exported")
    defaults = {"max_source_positions": 1024, "max_target_positions": 1024}  # of stock fairseq
    kept = {name: options.get(name) or defaults[name] if name in defaults else options[name] for name in _KEPT}
    return {**kept, **{f"{side}_normalize_before": options[f"{side}_normalize_before"] for side in
                       ("encoder", "decoder")}}  # fmt: skip

"""The encoder of a checkpoint as XLM-R, or as the pre-norm RoBERTa, of Hugging Face's transformers.

fairseq and torch are imported late: they take seconds.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.cli._checkpoint_checks import check_numbers, check_types, check_weights
from fairseq_plugins.data.symbols import BOS_ROW, EOS_ROW, PAD_ROW
from fairseq_plugins.opus100.checkpoint_files import options_of
from fairseq_plugins.opus100.run_folder import quiet_engine

_MASKED_LM, _TRANSLATION = "transformer_mlm", "transformer_mt"
_MODELS = (_MASKED_LM, _TRANSLATION, "xlm_t")
_ENCODER, _HEAD = "encoder.", "encoder.lm_head."
_TOKENS, _POSITIONS, _SEGMENTS = (f"encoder.embed_{table}.weight" for table in ("tokens", "positions", "segments"))
_EPS = 1e-5  # of every norm here
_MOST_POSITIONS = 1 << 20  # of a table that is made, not read
# Parts that these layouts lack, as options with their values where there is no such part.
_PLAIN = {"ffn_gate": False, "norm": "layer", "relative_bias_buckets": 0, "no_token_positional_embeddings": False}


class HuggingFaceModel(NamedTuple):
    """What a folder of transformers holds but for the tokenizer."""

    config: Dict[str, Any]  # of config.json
    tensors: Dict[str, Any]  # of model.safetensors
    left_out: List[str]  # what else the checkpoint has, in words
    translates: bool  # the encoder of a translation model, which reads no <s>


def huggingface_model(state: Dict[str, Any], path: Path) -> HuggingFaceModel:
    """A model of transformers with a checkpoint's hidden states, and with its logits where it has their head.

    DeepNorm is folded into post-norm, exactly: the norm of the embeddings can be scaled. A factor on the embeddings
    goes into the token table, and its inverse into the norm before the logits, which come from the same table.

    Args:
        state: checkpoint, as `checkpoint_files.load_state` reads it.
        path: of it, for errors.
    Raises:
        UserError: it is damaged, or no such model exists; then the flag that stands in the way.
    """
    with quiet_engine():
        fairseq_plugins.register()
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY

    check_types(state, path, _MASKED_LM)
    stored = options_of(state, "model")
    arch = stored.get("_name") or stored.get("arch")
    kind = ARCH_MODEL_NAME_REGISTRY.get(arch, arch)
    if kind not in _MODELS:
        hint = "; export --to discriminator makes one of it" if kind == "electra" else ""
        raise UserError(f"checkpoint {path} is of a {kind}: --to huggingface takes {', '.join(_MODELS)}{hint}")
    translates = kind != _MASKED_LM
    model = _TRANSLATION if translates else _MASKED_LM  # xlm_t is one that was started in another way
    options = {**vars(MODEL_DATACLASS_REGISTRY[model]()), **stored}
    check_numbers(options, model, path, kind)
    task = options_of(state, "task")
    built = check_weights(state["model"], options, task, path, model=model, part=_ENCODER, kind=kind)
    _check_layout(options, path)
    left_out = ["the decoder"] if translates else _headless(state, options)
    weights = {name: value for name, value in state["model"].items() if name.startswith(_ENCODER)}
    if left_out:
        weights = {name: value for name, value in weights.items() if not name.startswith(_HEAD)}
    if any(name.startswith("classification_heads.") for name in state["model"]):
        left_out.append("heads for sentences")
    try:
        weights = _plain_encoder(weights, options, built.encoder, options["decoder_layers"] if translates else 0)
        return HuggingFaceModel(*_in_their_words(weights, options), left_out, translates)
    except ValueError as error:
        raise UserError(f"checkpoint {path} cannot be exported: {error}") from None


def _check_layout(options: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for what no model of theirs computes, by the flag."""
    from fairseq_plugins.checkpoints.huggingface_names import ACTIVATIONS

    def refuse(name: str) -> None:
        flag = f"--{name.replace('_', '-')}" + ("" if options[name] is True else f" {options[name]}")
        raise UserError(f"checkpoint {path} was trained with {flag}, which neither XLM-R nor roberta-prelayernorm has: "
                        "it cannot be exported")  # fmt: skip

    dim, heads = options["encoder_embed_dim"], options["encoder_attention_heads"]
    for name, plain in _PLAIN.items():
        if str(options[name]) != str(plain):
            refuse(name)
    if str(options["residual"]) == "subln":
        refuse("residual")
    if str(options["activation_fn"]) not in ACTIVATIONS:
        refuse("activation_fn")
    if options["attention_head_dim"] and options["attention_head_dim"] * heads != dim:
        refuse("attention_head_dim")
    if options.get("embedding_dim", 0) not in (0, dim):
        refuse("embedding_dim")
    if not options["layernorm_embedding"]:
        raise UserError(f"checkpoint {path} was trained without --layernorm-embedding, and XLM-R and "
                        "roberta-prelayernorm always have that norm: it cannot be exported")  # fmt: skip


def _headless(state: Mapping[str, Any], options: Mapping[str, Any]) -> List[str]:
    """Why a masked language model goes without its head, empty where it does not."""
    from fairseq_plugins.opus100.engines.stock_checkpoint import EXPORTED_KEY

    made = (state.get("extra_state") or {}).get(EXPORTED_KEY) or {}
    if made.get("part") == "discriminator":
        return ["the head for masked tokens, which is fresh"]
    if str(options["activation_fn"]) != "gelu":
        return [f"the head for masked tokens, as theirs has gelu and this one {options['activation_fn']}"]
    return []


def _plain_encoder(
    weights: Mapping[str, Any], options: Mapping[str, Any], encoder: Any, decoder_layers: int
) -> Dict[str, Any]:
    """Our names without experts, alpha, scale and temperature, and with a table of positions.

    Args:
        weights: `encoder.*`.
        options: of the model.
        encoder: built from them, without numbers.
        decoder_layers: of the whole model, on which alpha depends.
    Raises:
        ValueError: experts that are not pruned to one, or a table out of all proportion.
    """
    from fairseq_plugins.checkpoints.attention_temperature import fold_attention_temperature, query_factors
    from fairseq_plugins.checkpoints.expert_pruning import dense_model
    from fairseq_plugins.checkpoints.post_norm import fold_deepnorm
    from fairseq_plugins.modules.positions import SinusoidalPositions
    from fairseq_plugins.modules.residual import residual_schemes
    from fairseq_plugins.opus100.engines.plain_transformer import single_precision

    plain = single_precision(weights)
    if any(name.endswith(".feed_forward.alive") for name in plain):
        plain = dense_model(options, plain)
    scheme = residual_schemes(str(options["residual"]), options["encoder_layers"], decoder_layers).encoder
    plain = fold_attention_temperature(plain, query_factors(options))
    plain = fold_deepnorm(plain, {"encoder": scheme.alpha if scheme else 1.0})
    scale = encoder.embed_scale
    if scale != 1:
        plain[_TOKENS] = plain[_TOKENS] * scale
        plain.update({name: plain[name] / scale for name in plain if name.startswith(f"{_HEAD}layer_norm.")})
    if _POSITIONS not in plain:
        longest = encoder.max_source_positions
        if longest > _MOST_POSITIONS:
            raise ValueError(f"its --max-source-positions {longest} would be rows of a table: no more than "
                             f"{_MOST_POSITIONS} are made")  # fmt: skip
        positions = SinusoidalPositions(longest, plain[_TOKENS].size(1), PAD_ROW)
        plain[_POSITIONS] = positions.table.to(plain[_TOKENS])
    return plain


def _in_their_words(plain: Mapping[str, Any], options: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """config.json and tensors."""
    from fairseq_plugins.checkpoints.huggingface_names import ACTIVATIONS, to_huggingface

    pre_norm, head = str(options["residual"]) == "pre", any(name.startswith(_HEAD) for name in plain)
    tensors = to_huggingface(plain, norm_first=pre_norm)
    family = "RobertaPreLayerNorm" if pre_norm else "XLMRoberta"
    config = {
        "architectures": [f"{family}{'ForMaskedLM' if head else 'Model'}"],
        "model_type": "roberta-prelayernorm" if pre_norm else "xlm-roberta",
        "torch_dtype": str(plain[_TOKENS].dtype).removeprefix("torch."),
        "vocab_size": plain[_TOKENS].size(0),
        "hidden_size": options["encoder_embed_dim"],
        "num_hidden_layers": options["encoder_layers"],
        "num_attention_heads": options["encoder_attention_heads"],
        "intermediate_size": options["encoder_ffn_embed_dim"],
        "hidden_act": ACTIVATIONS[str(options["activation_fn"])],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["attention_dropout"],
        "max_position_embeddings": plain[_POSITIONS].size(0),
        "type_vocab_size": plain[_SEGMENTS].size(0) if _SEGMENTS in plain else 1,
        "position_embedding_type": "absolute",
        "layer_norm_eps": _EPS,
        "bos_token_id": BOS_ROW,
        "pad_token_id": PAD_ROW,
        "eos_token_id": EOS_ROW,
        "tie_word_embeddings": True,
    }
    return config, {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}

"""A plain Transformer as CTranslate2's description of a model. torch and ctranslate2 are imported late."""

from typing import Any, Callable, Dict, Sequence

from fairseq_plugins.data.symbols import EOS_ROW, PAD_ROW
from fairseq_plugins.opus100.engines.plain_transformer import PlainTransformer

_EPS = 1e-5  # of stock fairseq's norms

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_accurate": "GELUTanh", "gelu_fast": "GELUTanh", "swish": "SWISH",
               "tanh": "Tanh"}  # fmt: skip


def ctranslate2_spec(model: PlainTransformer, symbols: Sequence[str], progress: Callable[[], None]) -> Any:
    """A `ctranslate2.specs.TransformerSpec`, its weights taken out of `model.state`, which is empty afterwards.

    Positions are tables from the first real token on (fairseq's rows start at padding + 1), and the decoder starts from
    </s>. fairseq's search never writes padding; CTranslate2 could, but a trained model does not.

    Args:
        model: to describe.
        symbols: of the dictionary that both sides share, row 0 first.
        progress: called after every layer.
    Raises:
        ValueError: something that CTranslate2 does not know, or parameters that do not fit.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    options, state = model
    if options["activation_fn"] not in ACTIVATIONS:
        raise ValueError(f"CTranslate2 has no --activation-fn {options['activation_fn']}")
    activation = getattr(common_spec.Activation, ACTIVATIONS[options["activation_fn"]])
    stacks = {}
    for side, kind in (("encoder", "TransformerEncoderSpec"), ("decoder", "TransformerDecoderSpec")):
        stacks[side] = getattr(transformer_spec, kind)(
            options[f"{side}_layers"],
            options[f"{side}_attention_heads"],
            pre_norm=options[f"{side}_normalize_before"],
            activation=activation,
            layernorm_embedding=options["layernorm_embedding"],
        )
        _fill_stack(stacks[side], side, options, _Weights(state), progress)
    spec = transformer_spec.TransformerSpec(stacks["encoder"], stacks["decoder"])
    left = [name for name in state if not name.endswith(".version")]
    if left:
        raise ValueError(f"it has parameters that a plain Transformer has not, such as {left[0]}")
    spec.register_source_vocabulary(list(symbols))
    spec.register_target_vocabulary(list(symbols))
    spec.config.decoder_start_token = symbols[EOS_ROW]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = _EPS
    return spec


class _Weights:
    """Takes parameters out of a state dict and puts them into CTranslate2's specifications."""

    def __init__(self, state: Dict[str, Any]):
        self._state = state

    def take(self, name: str) -> Any:
        """A parameter as a numpy array in float32."""
        if name not in self._state:
            raise ValueError(f"it lacks the parameter {name}")
        return self._state.pop(name).float().contiguous().numpy()

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma, spec.beta = self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def linear(self, spec: Any, *names: str) -> None:
        """Projections of the same input, one below the other."""
        import numpy

        spec.weight = numpy.concatenate([self.take(f"{name}.weight") for name in names])
        spec.bias = numpy.concatenate([self.take(f"{name}.bias") for name in names])

    def self_attention(self, spec: Any, layer: str) -> None:
        name = f"{layer}.self_attn"
        self.linear(spec.linear[0], *(f"{name}.{part}_proj" for part in "qkv"))
        self.linear(spec.linear[1], f"{name}.out_proj")
        self.norm(spec.layer_norm, f"{name}_layer_norm")

    def cross_attention(self, spec: Any, layer: str) -> None:
        name = f"{layer}.encoder_attn"
        self.linear(spec.linear[0], f"{name}.q_proj")
        self.linear(spec.linear[1], f"{name}.k_proj", f"{name}.v_proj")
        self.linear(spec.linear[2], f"{name}.out_proj")
        self.norm(spec.layer_norm, f"{name}_layer_norm")

    def feed_forward(self, spec: Any, layer: str) -> None:
        self.linear(spec.linear_0, f"{layer}.fc1")
        self.linear(spec.linear_1, f"{layer}.fc2")
        self.norm(spec.layer_norm, f"{layer}.final_layer_norm")


def _fill_stack(
    spec: Any, side: str, options: Dict[str, Any], weights: _Weights, progress: Callable[[], None]
) -> None:
    table = weights.take(f"{side}.embed_tokens.weight")
    embeddings = spec.embeddings[0] if side == "encoder" else spec.embeddings
    embeddings.weight = table
    spec.scale_embeddings = 1.0 if options["no_scale_embedding"] else float(table.shape[1]) ** 0.5
    spec.position_encodings.encodings = _positions(side, options, weights, table.shape[1])
    if options["layernorm_embedding"]:
        weights.norm(spec.layernorm_embedding, f"{side}.layernorm_embedding")
    if options[f"{side}_normalize_before"]:
        weights.norm(spec.layer_norm, f"{side}.layer_norm")
    for number, layer in enumerate(spec.layer):
        name = f"{side}.layers.{number}"
        weights.self_attention(layer.self_attention, name)
        if side == "decoder":
            weights.cross_attention(layer.attention, name)
        weights.feed_forward(layer.ffn, name)
        progress()
    if side == "decoder":
        spec.projection.weight = weights.take("decoder.output_projection.weight")


def _positions(side: str, options: Dict[str, Any], weights: _Weights, dim: int) -> Any:
    """The rows of all positions, first token first."""
    import numpy

    from fairseq_plugins.modules.positions import SinusoidalPositions

    longest = options["max_source_positions" if side == "encoder" else "max_target_positions"]
    if options["no_token_positional_embeddings"]:
        return numpy.zeros((longest, dim), numpy.float32)
    if options[f"{side}_learned_pos"]:
        return weights.take(f"{side}.embed_positions.weight")[PAD_ROW + 1 :]
    return SinusoidalPositions(longest, dim, PAD_ROW).table[PAD_ROW + 1 :].numpy()

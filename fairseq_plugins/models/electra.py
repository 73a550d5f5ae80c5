"""`--arch electra`: a generator that replaces tokens and a discriminator that finds them (arXiv 2003.10555)."""

import copy
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import open_dict
from torch import Tensor

from ..checkpoints.own_dictionary import is_text
from ..compat import Refusal
from ..modules.prediction_heads import MaskedTokenHead, ReplacedTokenHead
from ..modules.replacement_sampling import LEAST_LOSS, Hardness, Sample, Sampler, Scores, sample_replacements
from ._adapters import StackEncoder
from ._auxiliary import AuxiliaryLosses
from ._build import OptionError, limit_to_task, watched
from ._config import MaskedLMOptions, complete, register_presets
from ._electra_state import fit_electra
from .transformer_mlm import ROBERTA, MaskedLMEncoder, Tables, encoder_parts, masked_token_head

# B batch, T length, N masked tokens, D width of the discriminator, G width of the generator, V vocabulary
HARDNESS = ["none", "loss", "dist"]
HEAD_DIM = 64  # of the generator's attention, as in the authors' code


@dataclass
class ElectraConfig(MaskedLMOptions):
    """Options of `electra`: those of `transformer_mlm` for the discriminator, and what the generator has of its own."""

    generator_width: float = field(
        default=0.25, metadata={"help": "width of the generator, as a share of --encoder-embed-dim (base: 1/3)"}
    )
    generator_layers: int = field(default=0, metadata={"help": "layers of the generator (0: --encoder-layers)"})
    sampling_temperature: float = field(
        default=1.0, metadata={"help": "divides the generator's scores before replacements are drawn"}
    )
    hardness: ChoiceEnum(HARDNESS) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "hardness prediction, a head of the generator that says which replacements are hard: none, loss "
            "(estimates the discriminator's loss, HP_Loss) or dist (is what replacements are drawn from, HP_Dist)"
        },
    )
    hardness_link: ChoiceEnum(["softplus", "sigmoid"]) = field(  # type: ignore[valid-type]
        default="softplus",
        metadata={
            "help": "from a score of --hardness loss to a loss: softplus, or sigmoid (the score is the discriminator's)"
        },
    )
    hardness_floor: float = field(
        default=LEAST_LOSS,
        metadata={
            "help": "least loss, in nats, that --hardness loss takes a replacement to have when it draws: the higher, "
            "the nearer to the generator's own distribution, and the smaller the largest importance weight"
        },
    )


class ElectraOutput(NamedTuple):
    """What one pass computes beside the discriminator's scores."""

    generated_NG: Tensor  # hidden states of the generator at masked tokens
    sample: Sample  # what was put there
    tokens_BT: Tensor  # what the discriminator read


class Discriminator(StackEncoder):
    """The stack with a score for every token: above 0, it was replaced."""

    def __init__(self, dictionary: Dictionary, stack: Dict[str, Any], head: ReplacedTokenHead):
        super().__init__(dictionary, stack)
        self.replaced_token_head = head

    def forward(self, src_tokens: Tensor, segments: Optional[Tensor] = None) -> Tuple[Tensor, List[Tensor]]:
        """Scores (B, T), and auxiliary losses."""
        output, _ = self.encode(src_tokens, segments=segments)
        return self.replaced_token_head(output.x_BTD), output.auxiliary


@register_model("electra", dataclass=ElectraConfig)
class Electra(BaseFairseqModel):
    """Generator and discriminator of one depth; tables of tokens, positions and segments are shared, nothing else is.

    For `--criterion electra_hardness`, with batches of `--task electra` or the stock masked_lm tasks.
    """

    unlike_checkpoint = ""  # why the training that wrote the checkpoint cannot go on, and what to give

    def __init__(self, cfg: Any, generator: MaskedLMEncoder, discriminator: Discriminator, dictionary: Dictionary):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.hardness = Hardness(str(cfg.hardness), str(cfg.hardness_link), cfg.hardness_floor)
        self.temperature = cfg.sampling_temperature
        self.hardness_head: Optional[MaskedTokenHead] = None
        self.num_updates = 0
        allowed_V = torch.tensor([is_text(symbol) for symbol in dictionary.symbols])
        allowed_V[: dictionary.nspecial] = False
        self.register_buffer("allowed_V", allowed_V, persistent=False)  # what may be drawn

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "Electra":
        """Build from options and the task's dictionary.

        Raises:
            OptionError: an option out of range.
        """
        cfg = complete(cfg, ElectraConfig)
        limit_to_task(cfg, "max_source_positions", task)
        if not cfg.sampling_temperature > 0:
            raise OptionError(f"--sampling-temperature {cfg.sampling_temperature:g} must be above 0")
        _check_hardness(cfg)
        dictionary, own = task.source_dictionary, generator_options(cfg)
        stack = encoder_parts(cfg, dictionary)
        tables = Tables(stack["embed_tokens"], stack["embed_positions"], stack.get("embed_segments"))
        head = ReplacedTokenHead(cfg.encoder_embed_dim, utils.get_activation_fn(str(cfg.activation_fn)))
        try:
            parts = encoder_parts(own, dictionary, tables)
        except OptionError as error:  # the discriminator's are in range: it is built already
            raise OptionError(str(error).replace("--encoder-layers", "--generator-layers")) from None
        generator = MaskedLMEncoder(dictionary, parts, masked_token_head(own, tables.tokens))
        model = cls(cfg, generator, Discriminator(dictionary, stack, head), dictionary)
        if model.hardness.kind != "none":
            model.hardness_head = masked_token_head(own, tables.tokens)
        return watched(model, cfg)

    @staticmethod
    def part_options(cfg: Any, part: str) -> Any:
        """Options with which `transformer_mlm` is the `generator` or `discriminator` of `cfg`; `export` asks for them.

        Raises:
            OptionError: as in `generator_options`.
        """
        cfg = complete(cfg, ElectraConfig)
        return generator_options(cfg) if part == "generator" else cfg

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        originals: Optional[Tensor] = None,
        masked: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        noise: Optional[torch.Generator] = None,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Replace the masked tokens of texts and judge every token.

        Args:
            src_tokens: (B, T), <mask> at masked places, or what else the generator shall read there.
            originals: (B, T), the texts.
            masked: (B, T) bool, places where the generator's tokens stand for the discriminator.
            segments: (B, T) long, where there are segments.
            noise: dice of the replacements; None: torch's own.
        Returns:
            Scores (B, T), above 0 where a token seems replaced, and `electra`, an `ElectraOutput`.
        Raises:
            Refusal: a criterion that knows nothing of a discriminator.
        """
        if originals is None or masked is None:
            raise Refusal("--arch electra is trained with --criterion electra_hardness: no other knows both networks")
        x_BTG, extra = self.generator(src_tokens, features_only=True, segments=segments)
        x_NG, original_N = x_BTG[masked], originals[masked]
        sample = self.sample(x_NG, original_N, noise)
        tokens_BT = originals.masked_scatter(masked, sample.tokens_N)
        logits_BT, auxiliary = self.discriminator(tokens_BT, segments)
        losses = AuxiliaryLosses([*extra["auxiliary"], *auxiliary])
        return losses.guard(logits_BT), {"auxiliary": losses, "electra": ElectraOutput(x_NG, sample, tokens_BT)}

    @torch.no_grad()
    def sample(self, x_NG: Tensor, original_N: Tensor, noise: Optional[torch.Generator] = None) -> Sample:
        """Replacements of masked tokens from the generator's hidden states there."""
        return sample_replacements(
            self.generator_scores(x_NG),
            self.allowed_V,
            sampler=self.sampler(x_NG, original_N),
            temperature=self.temperature,
            noise=noise,
        )

    def sampler(self, x_NG: Tensor, original_N: Tensor) -> Optional[Sampler]:
        """p_S of masked tokens; None where it is the generator's own distribution."""
        scores = self.hardness_scores(x_NG)
        return None if scores is None else self.hardness.sampler(scores, original_N, self.allowed_V)

    def generator_scores(self, x_NG: Tensor) -> Scores:
        """Of the masked language model."""
        return Scores(*self.generator.before_logits(x_NG))

    def hardness_scores(self, x_NG: Tensor) -> Optional[Scores]:
        """Of the hardness head; None without one."""
        head = self.hardness_head
        return None if head is None else Scores(head.transform(x_NG), head.weight, head.bias)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by the engine before each update; the criterion's dice depend on it."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Accept longer position tables, and a hardness head where there was none or none where there was, in place."""
        self.unlike_checkpoint = fit_electra(state_dict, self.generator, self.discriminator, self.hardness_head)

    def start_training(self, resumed: bool = False) -> None:
        """Called by the trainer before it makes the optimiser.

        Raises:
            OptionError: the training goes on with weights of another shape than it had.
        """
        if resumed and self.unlike_checkpoint:
            raise OptionError(f"{self.unlike_checkpoint} as before, or --reset-optimizer")

    def max_positions(self) -> int:
        """Longest text."""
        return self.discriminator.max_positions()


def generator_options(cfg: Any) -> Any:
    """Options of the generator, as `transformer_mlm` has them: `cfg` with another width.

    Raises:
        OptionError: a width or depth out of range.
    """
    width = cfg.generator_width
    if not 0 < width <= 1:
        raise OptionError(f"--generator-width {width:g} must be above 0 and at most 1, a share of --encoder-embed-dim")
    if cfg.generator_layers < 0:
        raise OptionError(f"--generator-layers {cfg.generator_layers} must be 0 (--encoder-layers) or at least 1")
    dim = max(1, round(width * cfg.encoder_embed_dim))
    heads = max(1, dim // HEAD_DIM)
    if dim % heads:
        raise OptionError(
            f"--generator-width {width:g} makes {dim} of --encoder-embed-dim {cfg.encoder_embed_dim}, which {heads} "
            f"heads cannot share; choose a multiple of {HEAD_DIM}"
        )
    own = copy.deepcopy(cfg)
    with open_dict(own):
        own.update(
            embedding_dim=cfg.embedding_dim or cfg.encoder_embed_dim,
            encoder_embed_dim=dim,
            encoder_ffn_embed_dim=4 * dim,
            encoder_attention_heads=heads,
            encoder_layers=cfg.generator_layers or cfg.encoder_layers,
            attention_head_dim=0,
        )
    return own


def _check_hardness(cfg: Any) -> None:
    if not cfg.hardness_floor >= LEAST_LOSS:
        raise OptionError(f"--hardness-floor {cfg.hardness_floor:g} must be at least {LEAST_LOSS:g}")
    for option in ("hardness_link", "hardness_floor"):
        default = ElectraConfig.__dataclass_fields__[option].default
        if str(cfg.hardness) != "loss" and str(cfg[option]) != str(default):
            flag = f"--{option.replace('_', '-')}"
            raise OptionError(f"{flag} {cfg[option]} needs --hardness loss: nothing else estimates losses")


def _shape(layers: int, dim: int, heads: int) -> Dict[str, int]:
    return dict(
        encoder_layers=layers, encoder_embed_dim=dim, encoder_ffn_embed_dim=4 * dim, encoder_attention_heads=heads
    )


PRESETS = {
    # the authors' code; its released small model has a generator as wide as the discriminator
    "electra_small": dict(**_shape(12, 256, 4), embedding_dim=128, generator_width=0.25, segments=2, **ROBERTA),
    "electra_base": dict(**_shape(12, 768, 12), generator_width=1 / 3, segments=2, **ROBERTA),
    # ours, for laptops and tests
    "electra_tiny": dict(**_shape(4, 128, 4), generator_width=0.5, segments=2, **ROBERTA),
}

register_presets("electra", PRESETS)

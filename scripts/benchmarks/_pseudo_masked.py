"""UniLMv2's losses from one pass or several, and its attention in pieces or under one mask: what pmlm.py compares."""

import ctypes
import gc
import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from _turns import Variant

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package beside this script, whatever is installed

# B texts, T their length, Q tokens beside a text, L = T + Q, D model dim
ONE, TWO, EACH, AE_ALONE = "one pass", "two passes", "a pass per step", "AE alone"
PIECES, MASK = "pieces", "one mask"
SENTENCE = 24  # tokens of a fabricated sentence


class Case(NamedTuple):
    """What all variants of a comparison share."""

    arch: str = "unilmv2_tiny"
    length: int = 128  # tokens of a text
    texts: int = 16  # of a batch
    dropout: float = 0.0  # of everything, attention too
    relative_bias: bool = True
    vocabulary: int = 8000
    device: str = "cpu"
    half: bool = False  # bf16
    data: Optional[str] = None  # prepared folders, instead of fabricated texts
    mono_data: Optional[str] = None


class Pass(NamedTuple):
    """One forward and backward pass: a batch, and which losses are read off it."""

    losses: Tuple[str, ...]
    sample: Dict[str, Any]


def text_alone(sample: Dict[str, Any]) -> Pass:
    """Autoencoding by an ordinary masked LM."""
    text = sample["net_input"]["src_tokens"].size(1)
    net_input = {name: x for name, x in sample["net_input"].items() if not name.startswith("pseudo_")}
    return Pass(("ae",), {**sample, "net_input": net_input, "target": sample["target"][:, :text]})


def step_alone(sample: Dict[str, Any], step: int, pad: int) -> Pass:
    """Pseudo-masks of one step beside the text and what the steps before have told; texts that have no such step go."""
    net_input, text = sample["net_input"], sample["net_input"]["src_tokens"].size(1)
    has_B = net_input["pseudo_steps"].eq(-step).any(dim=1)
    steps_BQ = net_input["pseudo_steps"][has_B]
    keep_BQ = steps_BQ.eq(-step) | (steps_BQ.gt(0) & steps_BQ.lt(step))
    first_BQ = (~keep_BQ).long().argsort(dim=1, stable=True)[:, : int(keep_BQ.sum(dim=1).max())]
    keep_BQ = keep_BQ.gather(1, first_BQ)

    def kept(x_BQ: torch.Tensor, filler: int) -> torch.Tensor:
        return x_BQ[has_B].gather(1, first_BQ).masked_fill(~keep_BQ, filler)

    from fairseq_plugins.modules.attention_masks import NOWHERE

    fillers = {"pseudo_tokens": pad, "pseudo_positions": -1, "pseudo_steps": NOWHERE, "pseudo_segments": 0}
    beside = {name: kept(net_input[name], filler) for name, filler in fillers.items()}
    rows = {name: net_input[name][has_B] for name in ("src_tokens", "src_lengths", "segments")}
    nothing_BT = torch.full_like(rows["src_tokens"], pad)
    target = torch.cat((nothing_BT, kept(sample["target"][:, text:], pad)), dim=1)
    return Pass(("par",), {**sample, "net_input": {**rows, **beside}, "target": target})


def passes_of(variant: str, sample: Dict[str, Any], pad: int) -> List[Pass]:
    """What a variant makes of a batch of the task: passes whose losses together are those of the batch."""
    if variant == ONE:
        return [Pass(("ae", "par"), sample)]
    if variant == AE_ALONE:
        return [text_alone(sample)]
    if variant == TWO:
        return [text_alone(sample), Pass(("par",), sample)]
    last = -int(sample["net_input"]["pseudo_steps"].min())
    return [text_alone(sample), *(step_alone(sample, step, pad) for step in range(1, last + 1))]


class Model:
    """A model, and a batch as the task makes it; what all variants of a case work on."""

    def __init__(self, case: Case):
        torch.set_num_threads(1)
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        import fairseq_plugins

        fairseq_plugins.register()
        from fairseq import models, options
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        words = [case.data or "no-data", "--task", "pseudo_masked_lm", "--arch", case.arch]
        words += ["--criterion", "pseudo_masked_lm", "--tokens-per-sample", f"{case.length}"]
        words += ["--mono-data", case.mono_data] if case.mono_data else []
        for name in ("dropout", "attention-dropout", "activation-dropout"):
            words += [f"--{name}", f"{case.dropout}"]
        words += [] if case.relative_bias else ["--relative-bias-buckets", "0"]
        arguments = options.parse_args_and_arch(options.get_training_parser(), words)
        self.cfg, self.case = convert_namespace_to_omegaconf(arguments), case
        self.task, sample = _prepared(self.cfg, case) if case.data else _fabricated(self.cfg, case)
        self.pad = self.task.source_dictionary.pad()
        torch.manual_seed(1)
        self.network = models.build_model(self.cfg.model, self.task).train().to(case.device)
        self.set_precision()
        for parameter in self.network.parameters():  # there before any step, so none is counted as what a step adds
            parameter.grad = torch.zeros_like(parameter)
        self.sample = _moved(sample, case.device)

    def set_precision(self) -> None:
        """The case's."""
        self.network.to(torch.bfloat16 if self.case.half else torch.float32)

    def facts(self) -> Dict[str, int]:
        """Tokens of the texts, those masked in them, and tokens beside them."""
        net_input, pad = self.sample["net_input"], self.pad
        masked = self.sample["target"][:, : net_input["src_tokens"].size(1)].ne(pad).sum()
        beside = net_input["pseudo_tokens"].ne(pad).sum()
        return {"text": self.sample["ntokens"], "masked": int(masked), "beside": int(beside)}


class Step(Variant):
    """Forward and backward of a model, in one way of several."""

    def __init__(self, model: Model):
        self.model = model

    def step(self) -> Dict[str, torch.Tensor]:
        """What came out; gradients are in the model."""
        raise NotImplementedError

    def forget_gradients(self) -> None:
        """Make them 0."""
        for parameter in self.model.network.parameters():
            parameter.grad.zero_()

    def exact(self) -> Dict[str, Dict[str, torch.Tensor]]:
        """What comes out in float64, and the gradient of every parameter."""
        self.model.network.double()
        results = self.step()
        gradients = {name: parameter.grad.clone() for name, parameter in self.model.network.named_parameters()}
        self.model.set_precision()
        return {"results": results, "gradients": gradients}

    def peak_memory(self) -> float:
        """MiB that a step adds at its peak to weights and gradients."""
        self.warm_up()  # loads the libraries' code
        gc.collect()
        if self.model.case.device == "cpu":
            ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept would be missing from the peak
        return self.peak_of_step()


class Losses(Step):
    """Both losses of a batch, from the passes of a variant; each pass's activations go before the next begins."""

    def __init__(self, variant: str, model: Model):
        super().__init__(model)
        from fairseq import criterions

        self.masked = model.facts()["masked"]
        self.passes = []
        for losses, sample in passes_of(variant, model.sample, model.pad):
            task = SimpleNamespace(objective_names=losses, target_dictionary=model.task.source_dictionary)
            self.passes.append((criterions.build_criterion(model.cfg.criterion, task), sample))

    def tokens(self) -> int:
        """How many tokens all passes read."""
        inputs = [sample["net_input"] for _, sample in self.passes]
        read = [part[name] for part in inputs for name in ("src_tokens", "pseudo_tokens") if name in part]
        return sum(int(tokens.ne(self.model.pad).sum()) for tokens in read)

    def warm_up(self) -> None:
        self.step(passes=2)

    def step(self, passes: Optional[int] = None) -> Dict[str, torch.Tensor]:
        """Losses in nats per masked token; of the first passes alone, where their number is given."""
        self.forget_gradients()
        found: Dict[str, torch.Tensor] = {}
        for criterion, sample in self.passes[:passes]:
            loss, _, log = criterion(self.model.network, sample)
            (loss / self.masked).backward()
            for name in criterion.weights:
                found[name] = found.get(name, 0) + log[f"{name}_loss"] / self.masked
        return found


class Attention(Step):
    """All layers without the prediction of tokens, with attention in pieces or under one mask."""

    def __init__(self, variant: str, model: Model):
        super().__init__(model)
        from fairseq_plugins.modules.attention_masks import NOWHERE, seen_by_step

        self.one_mask = variant == MASK
        text, steps = model.sample["net_input"]["src_tokens"], model.sample["net_input"]["pseudo_steps"]
        self.steps_BL = torch.cat((text.eq(model.pad).long() * NOWHERE, steps), dim=1)
        self.seen_by_step = seen_by_step
        shape = (*self.steps_BL.shape, model.network.encoder.embed_tokens.embedding_dim)
        weight_BLD = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(model.case.device)
        self.weight_BLD = weight_BLD * self.steps_BL.ne(NOWHERE)[:, :, None]  # padding's outputs are nobody's

    def step(self) -> Dict[str, torch.Tensor]:
        """Outputs, weighted by chance; their sum is what gradients are of."""
        self.forget_gradients()
        encoder = self.model.network.encoder
        if self.one_mask:
            encoder.transform = self._with_one_mask
        try:
            x_BLD = self.model.network(**self.model.sample["net_input"], features_only=True)[0]
        finally:
            encoder.__dict__.pop("transform", None)
        x_BLD = x_BLD * self.weight_BLD.to(x_BLD.dtype)
        x_BLD.sum().backward()
        return {"outputs": x_BLD.detach()}

    def _with_one_mask(self, x_BLD: torch.Tensor, context: Any, keep_states: bool) -> Any:
        context = context._replace(self_mask=self.seen_by_step(self.steps_BL, self.steps_BL))
        encoder = self.model.network.encoder
        return type(encoder).transform(encoder, x_BLD, context, keep_states)


def _fabricated(cfg: Any, case: Case) -> Tuple[Any, Dict[str, Any]]:
    """A task without data, and a batch of sentences of random pieces."""
    from fairseq.data import Dictionary

    from fairseq_plugins.data.block_masking import BlockNoise
    from fairseq_plugins.data.language_mixture import Text
    from fairseq_plugins.data.objective_dataset import OneObjectiveDataset
    from fairseq_plugins.data.pseudo_masking import PseudoMaskedText, Replacement
    from fairseq_plugins.data.symbols import MASK, PSEUDO_MASK
    from fairseq_plugins.tasks.pseudo_masked_lm import PseudoMaskedLM

    words = Dictionary()
    for symbol in (MASK, PSEUDO_MASK):
        words.add_symbol(symbol)
    for number in range(case.vocabulary - len(words)):
        words.add_symbol(f"w{number}")
    objective = PseudoMaskedText(words, BlockNoise(), Replacement(), ("ae", "par"))
    size = case.length - 1  # the first symbol is the objective's
    rows_NT = torch.from_numpy(np.random.default_rng(3).integers(words.nspecial + 2, len(words), (case.texts, size)))
    rows_NT[:, SENTENCE - 1 :: SENTENCE] = words.eos()
    rows_NT[:, -1] = words.eos()
    text = Text(("xx",), (rows_NT,), np.arange(case.texts), (np.full(case.texts, size),))
    dataset = OneObjectiveDataset(objective, [text])
    dataset.set_epoch(1)
    return PseudoMaskedLM(cfg.task, words, objective), dataset.collater([dataset[index] for index in range(case.texts)])


def _prepared(cfg: Any, case: Case) -> Tuple[Any, Dict[str, Any]]:
    """The task of a prepared folder, and a batch of it."""
    from fairseq import tasks

    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    dataset = task.dataset("train")
    dataset.set_epoch(1)
    longest = dataset.ordered_indices()[-case.texts :]
    return task, dataset.collater([dataset[int(index)] for index in longest])


def _moved(sample: Any, device: str) -> Any:
    if isinstance(sample, dict):
        return {name: _moved(value, device) for name, value in sample.items()}
    return sample.to(device) if isinstance(sample, torch.Tensor) else sample

"""Teachers of the tests: texts in rows of a data set, random models on disk, and what their attention projects."""

from argparse import Namespace

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch.testing import assert_close

import fairseq_plugins
from fairseq_plugins.models._teacher import read_teacher
from tests.models_support import built, model_config, sentences

fairseq_plugins.register()

LONGEST = 12
MLM = ["--encoder-layers", "3", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24",
       "--encoder-attention-heads", "2", "--max-source-positions", "32", "--dropout", "0.1"]  # fmt: skip


def data_words(*more):
    """The words of a data set in another order than any teacher's; rows of its own for tags."""
    words = Dictionary()
    for number in (5, 3, 11, 0, 2):
        words.add_symbol(f"w{number}")
    for symbol in ("<mask>", "__de__", *more):
        words.add_symbol(symbol)
    return words


WORDS = data_words()
TOKENS = sentences(WORDS, [7, 4, 10])
TOKENS[TOKENS >= WORDS.index("<mask>")] = WORDS.index("w3")


def teacher(path, **choices):
    """In float64."""
    choices = {"longest": LONGEST, "minilm": False, "dtype": torch.float64, **choices}
    return read_teacher(str(path), WORDS, **choices)


def random_numbers(model):
    """Numbers that float32 can hold, in which a teacher is read.

    A weight of a norm is around 1, as in what was trained: otherwise tokens are hardly told apart after some layers.
    """
    torch.manual_seed(3)
    for name, parameter in model.float().named_parameters():
        is_norm = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
    return model.double().eval()


def seen_by(layers, run):
    """Outputs of `layers` (q, k, v) while `run()` runs."""
    found = {}
    hooks = [layer.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
             for name, layer in layers.items()]  # fmt: skip
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return [found[name] for name in "qkv"]


def same(found, wanted, atol=1e-9):
    real = TOKENS.ne(WORDS.pad())
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape[:2] == TOKENS.shape and theirs[real].std(dim=0).mean() > 0.03, "tokens must differ"
        assert_close(mine[real], theirs[real], atol=atol, rtol=0)


def seen_by_stock(layer, run):
    """The same of the engine's layers, which use the weights of their projections and never call them."""
    found = {}
    with torch.no_grad():
        hook = layer.self_attn.register_forward_pre_hook(lambda _, __, given: found.update(given), with_kwargs=True)
        run()
        hook.remove()
        return [project(found["query"]).transpose(0, 1) for project in attention(layer).values()]


def in_rows_of(words):
    return TOKENS.clone().apply_(lambda row: words.index(WORDS[row]))


def attention(layer):
    """Its projections by letter, in the names of fairseq."""
    return {letter: getattr(layer.self_attn, f"{letter}_proj") for letter in "qkv"}


def saved_model(folder, arch, words, *flags):
    """(a random model, its checkpoint) as a training with these options writes it, and its dictionary beside it."""
    task = "masked_lm" if any(kind in arch for kind in ("mlm", "electra")) else "translation"
    cfg = model_config(arch, *flags, *(["--tokens-per-sample", "32"] if task == "masked_lm" else []), task=task)
    model = random_numbers(built(cfg, words))
    model_options = cfg.model
    if arch == "transformer_mlm" and "--max-source-positions" not in flags:  # as the engine saves it
        model_options["max_source_positions"] = None
    options = {"model": vars(model_options) if isinstance(model_options, Namespace) else
               OmegaConf.to_container(model_options),
               "task": {**OmegaConf.to_container(cfg.task), "data": str(folder)}}  # fmt: skip
    torch.save({"cfg": options, "model": model.state_dict()}, folder / "checkpoint.pt")
    words.save(str(folder / "dict.txt"))
    return model, folder / "checkpoint.pt"

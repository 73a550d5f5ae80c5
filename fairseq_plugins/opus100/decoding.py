"""Translate sentences of many directions with one model: mixed batches, stock beam search, nothing dropped.

The tags that name the languages come from the checkpoint's own configuration, the search is fairseq's
SequenceGenerator, and the input is the binarised text that `fairseq-generate` reads, so both give the same hypotheses.
"""

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import fairseq_plugins
from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import EOS_ROW, PAD_ROW, SPECIALS, TAG_SCHEMES, UNK_ROW, read_dictionary
from fairseq_plugins.opus100.run_folder import data_of_checkpoint, load_state, quiet_engine, updates_of

FILE_SPLIT = {"test": "test", "dev": "valid"}  # our name -> prefix of the binarised files
Sentence = Tuple[str, int]  # direction and line, counted from 0


class Search(NamedTuple):
    """What decides a hypothesis, beside model and input."""

    beam: int
    lenpen: float
    max_len: int  # longest hypothesis in pieces
    precision: str  # fp32, fp16 or bf16


class Translated(NamedTuple):
    """One batch, translated."""

    sentences: List[Sentence]
    texts: List[str]
    truncated: List[bool]  # whether the source was longer than the model takes
    seconds: float


class Facts(NamedTuple):
    """What a table says about its checkpoint."""

    arch: str
    updates: int
    parameters: int  # shared ones once
    sampling: str  # "temperature:5", "concat", ...
    tag_scheme: str
    rows: int  # of the embedding
    decoder_size: int  # layers x width
    data: Optional[Dict[str, Any]]  # what it was trained from, as ``run_folder.bound_data`` says it


def checkpoint_facts(path: Path) -> Facts:
    """Read a checkpoint's configuration and sizes without building the model.

    Raises:
        UserError: unreadable, or not of a multilingual translation task with one of our tag schemes.
    """
    state = load_state(path)
    task, model = (_configuration(state, part) for part in ("task", "model"))
    if task.get("_name", task.get("task")) != "translation_multi_simple_epoch":
        raise UserError(f"checkpoint {path} was not trained with the task translation_multi_simple_epoch")
    flags = ["--encoder-langtok", task["encoder_langtok"]] if task.get("encoder_langtok") else []
    flags += ["--decoder-langtok"] if task.get("decoder_langtok") else []
    scheme = next((name for name, its in TAG_SCHEMES.items() if list(its) == flags), None)
    if scheme is None or task.get("lang_tok_style") != "multilingual" or task.get("lang_tok_replacing_bos_eos"):
        raise UserError(f"checkpoint {path} was trained with language tags ({' '.join(flags) or 'none'}) that are "
                        f"no known scheme; known are {', '.join(TAG_SCHEMES)}")
    method = task.get("sampling_method", "concat")
    sampling = f"{method}:{task['sampling_temperature']:g}" if method == "temperature" else method
    weights = state["model"]
    tables = (value.shape for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    rows, width = next(tables, (0, 0))
    layers = len({name.split(".")[2] for name in weights if name.startswith("decoder.layers.")})
    return Facts(str(model.get("arch") or model.get("_name")), updates_of(state), _count_parameters(weights), sampling,
                 scheme, rows, layers * width, data_of_checkpoint(path, state))


def _configuration(state: Dict[str, Any], part: str) -> Dict[str, Any]:
    """One part of the configuration as a plain dict: fairseq stores a Namespace, hydra a nested dict."""
    stored = (state["cfg"] or {}).get(part) if state.get("cfg") else state["args"]
    return dict(stored) if isinstance(stored, dict) else dict(vars(stored))


def _count_parameters(model: Dict[str, Any]) -> int:
    sizes = {}
    for name, tensor in model.items():
        if not name.endswith(("version", "_float_tensor")):
            sizes[tensor.data_ptr(), tensor.shape] = tensor.numel()
    return sum(sizes.values())


def read_lengths(data: Path, subset: str, direction: str) -> List[int]:
    """Source lengths of a direction in pieces, end included.

    Raises:
        UserError: the binarised file is missing or unreadable.
    """
    indexed = _indexed(data, subset, direction)  # a name keeps it alive: it unmaps its sizes when it goes
    return indexed.sizes.tolist()


def _indexed(data: Path, subset: str, direction: str) -> Any:
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    source, target = direction.split("-")
    path = data / f"{FILE_SPLIT[subset]}.{'-'.join(sorted((source, target)))}.{source}"
    try:
        return MMapIndexedDataset(str(path))
    except (OSError, AssertionError, ValueError):
        raise UserError(f"{path}.idx or its .bin is missing or unreadable; run prepare again") from None


class Translator:
    """A model on one device, ready to translate sentences of DATA in any mixture of directions.

    Args:
        checkpoint: file of fairseq-train.
        data: folder of prepare.
        subset: "test" or "dev".
        search: how to decode.
        device: "cpu", "cuda:0", ...
    """

    def __init__(self, checkpoint: Path, data: Path, subset: str, search: Search, device: str):
        import sentencepiece
        import torch

        with quiet_engine():
            fairseq_plugins.register()
        from fairseq import checkpoint_utils
        from fairseq.sequence_generator import SequenceGenerator
        from fairseq.utils import resolve_max_positions

        # DATA may have moved since training, and one dictionary serves all languages
        here = {"data": str(data), "lang_dict": str(data / "languages.txt"), "langs": None, "source_dict": None,
                "target_dict": None, "fixed_dictionary": str(data / "dict.txt"), "extra_data": None,
                "extra_lang_pairs": None}
        with quiet_engine():
            models, _, self._task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], here)
        for model in models:
            model.make_generation_fast_(beamable_mm_beam_size=search.beam, need_attn=False)
            model.to({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[search.precision])
            model.to(device).eval()
        self._dictionary = self._task.target_dictionary
        self._generator = SequenceGenerator(
            models, self._dictionary, beam_size=search.beam, len_penalty=search.lenpen, max_len_a=0,
            max_len_b=search.max_len,
        )
        self._models, self._device, self._data, self._subset = models, device, data, subset
        self._longest = resolve_max_positions(self._task.max_positions(), *(model.max_positions() for model in models))
        self._specs = tuple(self._task.args.langtoks["main"])
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(data / "sentencepiece.model"))
        self._sources: Dict[str, Any] = {}

    def translate(self, sentences: Sequence[Sentence]) -> Translated:
        """Translate one batch; ``sentences`` name the lines of DATA."""
        import torch
        from fairseq.data.data_utils import collate_tokens

        start = time.perf_counter()
        sources, truncated = zip(*(self._source(*sentence) for sentence in sentences), strict=True)
        prefixes = [self._tag(direction, self._specs[1]) for direction, _ in sentences]
        # as in the stock task: no target tag, no prefix; one tag per sentence, so directions can share a batch
        prefix = torch.tensor(prefixes, device=self._device)[:, None] if self._specs[1] else None
        batch = {
            "src_tokens": collate_tokens(list(sources), PAD_ROW, left_pad=self._task.args.left_pad_source),
            "src_lengths": torch.tensor([len(source) for source in sources]),
        }
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
        found = self._generator.generate(self._models, {"net_input": batch}, prefix_tokens=prefix)
        skip = 1 if self._specs[1] else 0
        texts = [self._detokenise(hypotheses[0]["tokens"][skip:].tolist()) for hypotheses in found]
        return Translated(list(sentences), texts, list(truncated), time.perf_counter() - start)

    def _source(self, direction: str, line: int) -> Tuple[Any, bool]:
        """The tagged source as a row tensor, and whether it had to be cut to the model's longest input."""
        import torch

        if direction not in self._sources:
            self._sources[direction] = _indexed(self._data, self._subset, direction)
        tokens = self._sources[direction][line].long()
        tag = self._tag(direction, self._specs[0])
        limit = self._longest[0] - (tag is not None)
        cut = len(tokens) > limit
        if cut:
            tokens = torch.cat([tokens[: limit - 1], tokens[-1:]])  # the end symbol stays
        return (tokens if tag is None else torch.cat([torch.tensor([tag]), tokens])), cut

    def _tag(self, direction: str, spec: Optional[str]) -> Optional[int]:
        """The row of the tag for one side; ``spec`` is fairseq's "src", "tgt" or None."""
        from fairseq.data.multilingual.multilingual_utils import get_lang_tok

        if not spec:
            return None
        source, target = direction.split("-")
        return self._dictionary.index(get_lang_tok(source if spec == "src" else target, "multilingual", spec))

    def _detokenise(self, tokens: List[int]) -> str:
        pieces = [self._dictionary[token] for token in tokens if token not in (EOS_ROW, PAD_ROW)]
        if SPECIALS[UNK_ROW] in pieces:  # SentencePiece has its own mark for it; the stock commands print <unk>
            return "".join(pieces).replace("\u2581", " ").strip()
        return self._pieces.decode(pieces).strip()


def fit_batches(decoder_size: int, on_cpu: bool) -> Tuple[int, int]:
    """Source pieces and sentences per batch, by default.

    The keys and values that beam search keeps grow with the decoder's layers x width, so larger decoders get smaller
    batches: the memory stays that of 6 layers of width 512 (docs/evaluation.md has the sum). Smaller decoders get no
    larger ones.
    """
    max_tokens, sentences = (2000, 64) if on_cpu else (16000, 512)
    share = 6 * 512 / max(decoder_size, 6 * 512)
    return max(1, int(max_tokens * share)), max(1, int(sentences * share))


def make_batches(lengths: Dict[Sentence, int], max_tokens: int, batch_size: int) -> List[List[Sentence]]:
    """Sentences of all directions, longest first, in batches of at most ``max_tokens`` padded pieces.

    A single sentence over ``max_tokens`` is a batch of its own: nothing is left out.
    """
    batches: List[List[Sentence]] = []
    longest = 0
    for sentence in sorted(lengths, key=lambda sentence: (-lengths[sentence], sentence)):
        full = batches and (len(batches[-1]) + 1) * longest > max_tokens or batches and len(batches[-1]) >= batch_size
        if full or not batches:
            batches.append([])
            longest = lengths[sentence]
        batches[-1].append(sentence)
    return batches


_translator: Optional[Translator] = None  # of this process


def load_translator(devices: Any, arguments: Dict[str, Any]) -> None:
    """First thing in every process that translates: load the model once.

    On CPU a process computes with one thread: beam search multiplies small matrices, and threads that wait for each
    other are slower than one (measured: docs/fairseq_traps.md, "Threads").

    Args:
        devices: a queue from which every process takes its device.
        arguments: of ``Translator``, but for the device.
    """
    global _translator
    import torch

    device = devices.get()
    if device == "cpu":
        torch.set_num_threads(1)
    _translator = Translator(device=device, **arguments)


def translate(batch: List[Sentence], report: Callable[[int], None]) -> Translated:
    """Translate one batch with this process's model."""
    assert _translator is not None
    from torch.cuda import OutOfMemoryError

    try:
        translated = _translator.translate(batch)
    except OutOfMemoryError:
        raise UserError(f"the GPU has no memory for a batch of {len(batch)} sentences; give --batch-size "
                        f"{max(1, len(batch) // 2)} (finished directions are kept)") from None
    report(len(batch))
    return translated


def find_devices(cpu: bool) -> List[str]:
    """GPUs of this machine, or the CPU."""
    import torch

    return ["cpu"] if cpu or not torch.cuda.is_available() else [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def check_rows(facts: Facts, data: Path, checkpoint: Path) -> None:
    """See that the checkpoint's embedding has one row per symbol of DATA's dictionary.

    Raises:
        UserError: it has not.
    """
    rows = len(read_dictionary(data / "dict.txt"))
    if facts.rows != rows:
        raise UserError(f"{data / 'dict.txt'} has {rows} symbols but checkpoint {checkpoint} has {facts.rows} rows in "
                        "its embedding: give the data that the checkpoint was trained on")

"""The vocabulary of a data folder: trained on its corpus, or taken from another folder, ours or XLM-R's."""

import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import (
    dictionary_rows,
    dictionary_text,
    filled_up,
    language_tag,
    read_dictionary,
    task_symbols,
)
from fairseq_plugins.opus100.data_folder import DataFolder, link_or_copy
from fairseq_plugins.opus100.files import plain_os_errors, read_symbols, write_whole
from fairseq_plugins.opus100.plan import Plan
from fairseq_plugins.opus100.run_folder import read_manifest
from fairseq_plugins.opus100.subwords import SubwordOptions, load_model, plan_sample, read_pieces, train_subwords
from fairseq_plugins.opus100.workers import run_alone


class Vocabulary(NamedTuple):
    """How text becomes rows."""

    model: bytes  # of SentencePiece
    rows: List[str]  # every symbol of the dictionary, row 0 first
    facts: Dict[str, Any]  # for the manifest

    def files(self) -> List[Tuple[str, bytes]]:
        """Names and contents in a data folder."""
        table = "".join(f"{piece.text}\t{piece.score:g}\n" for piece in read_pieces(self.model))
        return [
            ("sentencepiece.model", self.model),
            ("sentencepiece.vocab", table.encode()),
            ("dict.txt", dictionary_text(self.rows).encode()),
        ]


def train_vocabulary(scratch: Path, plan: Plan, options: SubwordOptions) -> Vocabulary:
    """SentencePiece on a sample of the plan's train text, in a process of its own."""
    what = f"SentencePiece ({options.model_type}, {options.vocab_size:,} pieces)"
    print(f"training {what}", file=sys.stderr, flush=True)
    sample = plan_sample(plan.train_files(), options)
    model, sample_lines = run_alone(train_subwords, scratch, sample, options, what=what)
    pieces = read_pieces(model)
    if len(pieces) < options.vocab_size:
        print(f"notice: the corpus is too small for {what}; it gave {len(pieces):,}", file=sys.stderr)
    rows = dictionary_rows([piece.text for piece in pieces if piece.normal], plan.languages)
    facts = {
        "model_type": options.model_type,
        "requested_size": options.vocab_size,
        "size": len(pieces),
        "rows": len(rows),
        "character_coverage": options.character_coverage,
        "normalization": options.normalization,
        "temperature": options.temperature,
        "sample_lines": sample_lines,
        "seed": options.seed,
    }
    return Vocabulary(model, rows, facts)


def read_vocabulary(source: Path, languages: Sequence[str]) -> Vocabulary:
    """The vocabulary of another folder.

    That of a prepared folder is taken as it is. Another one (XLM-R's: dict.txt and one *.model) keeps its rows and gets
    the symbols of this package after them.

    Args:
        source: the folder.
        languages: codes that must have a tag.
    Raises:
        UserError: files are missing, damaged or do not belong together, or a prepared folder lacks a language.
    """
    if (source / "manifest.json").exists():
        manifest = read_manifest(source, "--vocabulary")
        with plain_os_errors(source):
            model, rows = (source / "sentencepiece.model").read_bytes(), read_symbols(source / "dict.txt")
        load_model(source / "sentencepiece.model")  # says so if it is none
        known = set(rows)
        for language in languages:
            if language_tag(language) not in known:
                raise UserError(f"--vocabulary {source} has no tag of {language!r}; add it with add-symbols, or leave "
                                f"{language} out with --languages")
        if "vocabulary" not in manifest:
            raise UserError(f"{source / 'manifest.json'} says nothing of its vocabulary; prepare that folder again")
        return Vocabulary(model, rows, manifest["vocabulary"])
    return _of_others(source, languages)


def write_vocabulary(folder: DataFolder, vocabulary: Vocabulary, languages: Sequence[str]) -> Dict[str, Any]:
    """Write the files; the manifest's "vocabulary" and the hashes of the files."""
    hashes = {name: write_whole(folder.path / name, data) for name, data in vocabulary.files()}
    for language in languages:
        link_or_copy(folder.path / "dict.txt", folder.path / f"dict.{language}.txt")
        hashes[f"dict.{language}.txt"] = hashes["dict.txt"]
    return folder.record("vocabulary", {**vocabulary.facts, "sha256": hashes})


def _of_others(source: Path, languages: Sequence[str]) -> Vocabulary:
    models = sorted(source.glob("*.model"))
    if not (source / "dict.txt").is_file() or len(models) != 1:
        raise UserError(f"--vocabulary {source} must be a folder that prepare wrote, or hold dict.txt and one *.model")
    with plain_os_errors(source):
        model = models[0].read_bytes()
        try:
            rows = read_dictionary(source / "dict.txt")
            pieces = read_pieces(model)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"--vocabulary {source} cannot be read: {error}") from None
    known = set(rows)
    shared = sum(piece.text in known for piece in pieces if piece.normal)
    if 2 * shared < sum(piece.normal for piece in pieces):
        raise UserError(f"--vocabulary {source}: dict.txt has {shared:,} of the {len(pieces):,} pieces of "
                        f"{models[0].name}; they do not belong together")
    rows += [symbol for symbol in task_symbols(languages) if symbol not in known]
    rows = filled_up(rows)
    return Vocabulary(model, rows, {"taken_from": source.name, "size": len(pieces), "rows": len(rows)})

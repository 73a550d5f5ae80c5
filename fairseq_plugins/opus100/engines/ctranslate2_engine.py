"""CTranslate2's beam search over an exported folder, one thread per process on CPU."""

from pathlib import Path
from typing import Any, List, Optional, Sequence

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import EOS_ROW
from fairseq_plugins.opus100.engines import Search


def import_ctranslate2() -> Any:
    """The package, which is optional.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ctranslate2
    except ImportError as error:
        raise UserError(f"CTranslate2 is not installed ({error}); run: pip install ctranslate2") from None
    return ctranslate2


class CTranslate2Engine:
    """An exported folder on one device.

    Args:
        folder: with model.bin, config.json and a vocabulary.
        symbols: of the dictionary, row 0 first.
        longest: rows of the longest source, tag and end included.
        longest_target: rows of the longest hypothesis, its end included.
        search: how to decode; the precision is that of the folder.
        device: "cpu", "cuda:0", ...
        threads: on CPU.
    Raises:
        UserError: CTranslate2 is not installed or cannot read the folder.
    """

    def __init__(
        self, folder: Path, symbols: Sequence[str], longest: int, longest_target: int, search: Search, device: str,
        threads: int = 1,
    ):  # fmt: skip
        kind, _, number = device.partition(":")
        try:
            self._translator = import_ctranslate2().Translator(
                str(folder), device=kind, device_index=int(number or 0), inter_threads=1, intra_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"CTranslate2 cannot load {folder}: {reason}; export it again") from None
        self._symbols = symbols
        self._row_of = {symbol: row for row, symbol in enumerate(symbols)}
        self._options = {"beam_size": search.beam, "length_penalty": search.lenpen, "max_input_length": 0,
                         "max_decoding_length": min(search.max_len, longest_target - 1)}  # fmt: skip
        self.longest = longest

    def search(self, sources: Sequence[List[int]], prefixes: Sequence[Optional[int]]) -> List[List[int]]:
        """As ``Engine`` says."""
        symbols = self._symbols
        # CTranslate2 adds the end symbol of the source itself
        words = [[symbols[row] for row in rows[:-1] if row != EOS_ROW] for rows in sources]
        prefixed = prefixes[0] is not None
        forced = [[symbols[prefix]] for prefix in prefixes if prefix is not None] if prefixed else None
        found = self._translator.translate_batch(words, target_prefix=forced, **self._options)
        return [[self._row_of[word] for word in one.hypotheses[0][int(prefixed) :]] for one in found]

"""``python -m fairseq_plugins.opus100 VERB``: from an OPUS-100 corpus to a BLEU table."""

import sys
from typing import List, Optional

from fairseq_plugins._verbs import run_verbs

VERBS = {
    "sample": "write a small artificial corpus in OPUS-100's layout",
    "download": "fetch OPUS-100: the official tarball, single pairs, or the Hugging Face files",
    "audit": "count what is wrong with a corpus: empty lines, copies, duplicates, train/test overlap",
    "prepare": "corpus -> SentencePiece model, dictionary and binarised data",
    "mono": "text in single languages, binarised like a folder of prepare, for pre-training",
    "encode": "plain text -> pieces for fairseq-preprocess, for stock tasks such as sentence_prediction",
    "add-symbols": "give an older dictionary and its checkpoints the symbols they lack",
    "train": "write and run the fairseq-train command",
    "evaluate": "translate and score every direction with one model load",
    "compare": "differences between systems with their confidence intervals",
    "report": "one HTML page with tables, curves, bars and examples",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point of ``fairseq-opus100``."""
    description = "From an OPUS-100 corpus to a BLEU table. Verbs, in the order of use:"
    return run_verbs("python -m fairseq_plugins.opus100", description, "fairseq_plugins.opus100", VERBS, argv)


if __name__ == "__main__":
    sys.exit(main())

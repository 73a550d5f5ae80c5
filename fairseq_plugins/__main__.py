"""``python -m fairseq_plugins VERB``: look after an installation and its checkpoints."""

import sys
from typing import List, Optional

from fairseq_plugins._verbs import run_verbs

VERBS = {
    "doctor": "print every version that matters, what is wrong and the command that mends it",
    "path": "print the directory to give to --user-dir",
    "average": "average the parameters of several checkpoints into one",
    "prune-experts": "turn a checkpoint with one expert left per layer into a dense one",
    "export": "write a checkpoint for stock fairseq or CTranslate2",
    "translate": "translate lines of standard input",
    "show-batch": "print one batch as a reader wants it: symbols, groups, and who sees whom",
    "moe-inspect": "see which expert computes what, and how routers change",
    "depth-study": "how far updates move deep models, and which residual schemes diverge (DeepNet's Figure 5)",
    "merge-experts": "join the checkpoints of expert-parallel ranks into one, or divide one for other ranks",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point of ``fairseq-plugins``."""
    description = "Look after an installation. The road from OPUS-100 to BLEU: python -m fairseq_plugins.opus100 --help"
    return run_verbs("python -m fairseq_plugins", description, "fairseq_plugins.cli", VERBS, argv)


if __name__ == "__main__":
    sys.exit(main())

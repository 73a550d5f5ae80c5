"""mT6's figure as tokens, and a way back from source and target to the text."""

from typing import Dict, List, Sequence

import numpy as np
import torch
from fairseq.data import FairseqDataset

from fairseq_plugins.data.language_mixture import Text
from fairseq_plugins.data.pretraining_objectives import Symbols

ENGLISH = "Thank you for your invitation last week .".split()
FRENCH = "Merci pour votre invitation la semaine dernière .".split()
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(ENGLISH + FRENCH), "__en__", "__fr__"]
SENTINELS = np.arange(100, 200)
EOS = 2


def symbols(tags: bool = False) -> Symbols:
    return Symbols(1, EOS, SENTINELS, {"en": WORDS.index("__en__"), "fr": WORDS.index("__fr__")} if tags else {})


def rows(words: Sequence[str]) -> np.ndarray:
    return np.array([EOS if word == "</s>" else WORDS.index(word) for word in words])


def read(tokens: Sequence[int]) -> str:
    """Rows as words, sentinels as [M1], [M2], ..."""
    return " ".join(f"[M{token - 99}]" if token >= 100 else WORDS[token] for token in tokens)


def rebuilt(source: Sequence[int], target: Sequence[int]) -> List[int]:
    """The text that was there before: every sentinel of the source replaced by what follows it in the target."""
    spans: Dict[int, List[int]] = {}
    for token in target:
        if token >= 100:
            spans[token] = []
        elif token != EOS:
            spans[max(spans)].append(int(token))
    return [int(t) for token in source for t in (spans[token] if token >= 100 else [token])]


class Sentences(FairseqDataset):
    """A set of sentences held in memory, each ended by the end symbol."""

    def __init__(self, sentences: Sequence[Sequence[int]]):
        self.sentences = [torch.tensor([*sentence, EOS]) for sentence in sentences]
        self.sizes = np.array([len(sentence) for sentence in self.sentences])

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sentences[index]

    def __len__(self) -> int:
        return len(self.sentences)


def text(**sentences: Sequence[Sequence[int]]) -> Text:
    """A text of one or two languages, every row of it used."""
    sets = tuple(Sentences(of) for of in sentences.values())
    return Text(tuple(sentences), sets, np.arange(len(sets[0])), tuple(one.sizes for one in sets))


def figure() -> Text:
    """The pair of mT6's figure."""
    return text(en=[rows(ENGLISH)], fr=[rows(FRENCH)])

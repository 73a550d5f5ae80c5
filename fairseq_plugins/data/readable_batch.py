"""A batch as a reader wants it: the words of each example in named rows and, for a decoder, who may look at whom.

`python -m fairseq_plugins show-batch` prints it. A task says how its batches read by a method `describe_batch(sample)`
that returns a list of `ReadableExample`; batches of stock tasks are read by `sequence_pairs` and `single_texts`.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch

# B examples, T places

NOTHING = "\u00b7"  # a place where nothing is predicted


class ReadableExample(NamedTuple):
    """One example of a batch, without its padding."""

    title: str  # "", or what is special about it: its objective, its languages
    rows: Dict[str, List[str]]  # name -> a word for each place; rows of one length, one after the other, are aligned
    sees_TT: Optional[np.ndarray] = None  # bool: the token at the first place may look at that at the second
    of: str = ""  # the row that sees_TT is about
    predicts: str = ""  # the row that says what each of its places predicts
    groups: str = ""  # the row that names the group of each of its places


def symbols(rows: Sequence[int], dictionary: Any) -> List[str]:
    """Rows of a dictionary as its symbols."""
    return [dictionary[int(row)] for row in rows]


def sequence_pairs(sample: Dict[str, Any], source: Any, target: Any, titles: Optional[Sequence[str]] = None
                   ) -> List[ReadableExample]:  # fmt: skip
    """Examples of an encoder and a decoder; the decoder looks back only, and in its own group where there are groups.

    Args:
        sample: `net_input` with `src_tokens`, `prev_output_tokens` and maybe `groups`, and `target`, (B, T) each.
        source, target: dictionaries.
        titles: of the examples.
    """
    net_input, examples = sample["net_input"], []
    groups_BT = net_input.get("groups")
    for number, tokens in enumerate(net_input["src_tokens"]):
        wanted = sample["target"][number]
        real = wanted.ne(target.pad())  # the decoder's input may begin with padding that is none
        rows = {
            "source": symbols(tokens[tokens.ne(source.pad())], source),
            "decoder input": symbols(net_input["prev_output_tokens"][number][real], target),
            "target": symbols(wanted[real], target),
        }
        sees_TT = np.tril(np.ones((int(real.sum()),) * 2, dtype=bool))
        if groups_BT is not None:
            group_T = groups_BT[number][real].numpy()
            rows["group"] = [str(group + 1) for group in group_T]
            sees_TT &= group_T[:, None] == group_T[None, :]
        title = "" if titles is None else titles[number]
        examples.append(ReadableExample(title, rows, sees_TT, "decoder input", "target", "group" * ("group" in rows)))
    return examples


def text_and_beside(sample: Dict[str, Any], dictionary: Any, titles: Sequence[str]) -> List[ReadableExample]:
    """Examples of a pseudo-masked language model: a text, and what is read beside it, step by step.

    Args:
        sample: `net_input` with `src_tokens` (B, T) and maybe `pseudo_tokens`, `pseudo_positions` and `pseudo_steps`
            (B, Q), and `target` (B, T + Q); padding in `target` is not predicted.
        dictionary: of all.
        titles: of the examples.
    """
    net_input, examples, pad = sample["net_input"], [], dictionary.pad()
    text_BT = net_input["src_tokens"]
    nothing = text_BT.new_zeros(len(text_BT), 0)
    beside = [net_input.get(f"pseudo_{name}", nothing) for name in ("tokens", "positions", "steps")]
    for number, title in enumerate(titles):
        length = int(text_BT[number].ne(pad).sum())
        pseudo_Q, position_Q, step_Q = (each[number] for each in beside)
        real = position_Q.ge(0)
        tokens = torch.cat((text_BT[number, :length], pseudo_Q[real]))
        step_L = torch.cat((torch.zeros(length, dtype=torch.long), step_Q[real])).numpy()
        wanted_T, wanted_Q = sample["target"][number].split([text_BT.size(1), len(real)])
        wanted = torch.cat((wanted_T[:length], wanted_Q[real])).tolist()
        rows = {
            "input": symbols(tokens.tolist(), dictionary),
            "position": [str(place) for place in [*range(length), *position_Q[real].tolist()]],
            "step": [str(step) for step in step_L],
            "target": [NOTHING if row == pad else dictionary[row] for row in wanted],
        }
        query, key = step_L[:, None], step_L[None, :]
        before = np.where(query < 0, -1 - query, query)
        sees_LL = ((key >= 0) & (key <= before)) | ((query < 0) & (key == query))
        examples.append(ReadableExample(title, rows, sees_LL, "input", "target"))
    return examples


def masked_texts(sample: Dict[str, Any], dictionary: Any, titles: Sequence[str]) -> List[ReadableExample]:
    """Examples of a masked text beside the text itself, where every masked place has a target.

    Args:
        sample: `net_input` with `src_tokens`, and `target`, (B, T) each; padding in `target` is not predicted.
        dictionary: of both.
        titles: of the examples.
    """
    examples = []
    masked_BT, target_BT = sample["net_input"]["src_tokens"], sample["target"]
    for title, tokens, wanted in zip(titles, masked_BT, target_BT, strict=True):
        real = tokens.ne(dictionary.pad())
        tokens, wanted = tokens[real], wanted[real]
        is_masked = wanted.ne(dictionary.pad())
        targets = symbols(wanted.tolist(), dictionary)
        rows = {
            "text": symbols(torch.where(is_masked, wanted, tokens).tolist(), dictionary),
            "input": symbols(tokens.tolist(), dictionary),
            "target": [word if masked else NOTHING for word, masked in zip(targets, is_masked, strict=True)],
        }
        examples.append(ReadableExample(title, rows))
    return examples


def whole_texts(sample: Dict[str, Any], dictionary: Any, titles: Sequence[str]) -> List[ReadableExample]:
    """Examples of which nothing is predicted: `net_input` with `src_tokens` and `segments`, (B, T) each."""
    examples, net_input = [], sample["net_input"]
    for title, tokens, segments in zip(titles, net_input["src_tokens"], net_input["segments"], strict=True):
        real = tokens.ne(dictionary.pad())
        rows = {"input": symbols(tokens[real], dictionary)}
        if segments.any():
            rows["segment"] = [str(segment) for segment in segments[real].tolist()]
        examples.append(ReadableExample(title, rows))
    return examples


def single_texts(sample: Dict[str, Any], dictionary: Any, causal: bool) -> List[ReadableExample]:
    """Examples of one text: of a masked language model, or of one that looks back only.

    Args:
        sample: `net_input` with `src_tokens`, and `target`, (B, T) each; padding in `target` is not predicted.
        dictionary: of both.
        causal: whether a token sees those before it alone; then its mask is told, otherwise it sees all.
    """
    examples = []
    for tokens, wanted in zip(sample["net_input"]["src_tokens"], sample["target"], strict=True):
        real = tokens.ne(dictionary.pad())
        targets = [NOTHING if row == dictionary.pad() else dictionary[row] for row in wanted[real].tolist()]
        rows = {"input": symbols(tokens[real], dictionary), "target": targets}
        sees_TT = np.tril(np.ones((len(targets),) * 2, dtype=bool)) if causal else None
        examples.append(ReadableExample("", rows, sees_TT, "input" * causal, "target" * causal))
    return examples

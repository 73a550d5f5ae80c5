"""What a sentence of the embedded sample means, before any language says it.

One meaning is written by every language module of this package, so a pair of lines is a translation by construction.
Only what all five languages can express without loss is here: no third person singular pronoun (Turkish has one for he
and she), no possessive that Russian would have to make reflexive, definite articles where Russian has none.
"""

from dataclasses import dataclass
from typing import Optional, Tuple, Union

NUMBERS = ("two", "three", "four", "five")
PERSONS = ("I", "we", "they")


@dataclass(frozen=True)
class NounPhrase:
    """`determiner`: the, a (no article in the plural), this, my, our or one of `NUMBERS`; `owner`: a person's noun."""

    noun: str
    plural: bool = False
    determiner: str = "the"
    adjective: Optional[str] = None
    owner: Optional[str] = None
    relative: Optional["Relative"] = None


@dataclass(frozen=True)
class Pronoun:
    """A subject pronoun, one of `PERSONS`."""

    person: str


@dataclass(frozen=True)
class Both:
    """Two coordinated singular noun phrases: my mother and the teacher."""

    first: NounPhrase
    second: NounPhrase


Subject = Union[NounPhrase, Pronoun, Both]


@dataclass(frozen=True)
class Clause:
    """A predicate with its parts; exactly one of `verb` and `adjective` (the copula's complement) is set.

    `subject` is None in a subject relative ("who reads the book"); `object` is None in an object relative and with a
    verb that takes none. `time_first`: the time stands at the head of the sentence ("Today ...").
    """

    subject: Optional[Subject]
    verb: Optional[str] = None
    adjective: Optional[str] = None
    tense: str = "present"  # past, present or future
    negated: bool = False
    question: bool = False
    object: Optional[NounPhrase] = None
    recipient: Optional[NounPhrase] = None
    companion: Optional[NounPhrase] = None
    place: Optional[NounPhrase] = None
    goal: Optional[NounPhrase] = None
    time: Optional[str] = None
    time_first: bool = False


@dataclass(frozen=True)
class Relative:
    """A clause about the noun that carries it; `role` is the part which that noun plays in it: subject or object."""

    role: str
    clause: Clause


@dataclass(frozen=True)
class Sentence:
    """One clause, or two joined by `link`: because, but, or that ("the teacher knows that ...")."""

    main: Clause
    link: Optional[str] = None
    second: Optional[Clause] = None


Combination = Tuple[str, str, str]


def combinations(sentence: Sentence) -> "frozenset[Combination]":
    """The pairs of meanings that `sentence` puts together: (kind, first, second).

    Kinds: `quality` (adjective, noun), `agent` (subject noun, verb), `patient` (verb, object or recipient noun).
    """
    found = set()

    def phrase(np: Optional[NounPhrase]) -> None:
        if np is None:
            return
        if np.adjective:
            found.add(("quality", np.adjective, np.noun))
        if np.relative:
            clause(np.relative.clause, np.relative.role, np.noun)

    def clause(part: Clause, gap: Optional[str] = None, head: Optional[str] = None) -> None:
        subjects = (part.subject.first, part.subject.second) if isinstance(part.subject, Both) else (part.subject,)
        agents = [head] if gap == "subject" else [np.noun for np in subjects if isinstance(np, NounPhrase)]
        patients = [head] if gap == "object" else [np.noun for np in (part.object, part.recipient) if np is not None]
        if part.adjective:
            found.update(("quality", part.adjective, noun) for noun in agents)
        else:
            found.update(("agent", noun, part.verb) for noun in agents)
            found.update(("patient", part.verb, noun) for noun in patients)
        for np in (*subjects, part.object, part.recipient, part.companion, part.place, part.goal):
            phrase(np if isinstance(np, NounPhrase) else None)

    clause(sentence.main)
    if sentence.second is not None:
        clause(sentence.second)
    return frozenset(found)

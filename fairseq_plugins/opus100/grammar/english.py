"""English: do-support, progressive present, `a` and `an`, the pivot of the sample."""

from typing import Dict, List, Optional, Tuple

from .concepts import CLASSES, HABITS, VERBS
from .meaning import Both, Clause, NounPhrase, Pronoun, Sentence, Subject
from .text import flatten, line

# fmt: off

PLURALS: Dict[str, str] = {"woman": "women", "man": "men", "child": "children", "city": "cities",
                           "beach": "beaches"}
PLACES: Dict[str, str] = {"market": "at", "station": "at", "street": "on", "beach": "on"}  # the others: in
# base -> third person, past, -ing form; `look for` conjugates its first word
FORMS: Dict[str, Tuple[str, str, str]] = {
    "read": ("reads", "read", "reading"), "see": ("sees", "saw", "seeing"), "look": ("looks", "looked", "looking"),
    "find": ("finds", "found", "finding"), "buy": ("buys", "bought", "buying"),
    "bring": ("brings", "brought", "bringing"), "give": ("gives", "gave", "giving"),
    "show": ("shows", "showed", "showing"), "eat": ("eats", "ate", "eating"),
    "drink": ("drinks", "drank", "drinking"),
    "love": ("loves", "loved", "loving"), "help": ("helps", "helped", "helping"),
    "wait": ("waits", "waited", "waiting"), "listen": ("listens", "listened", "listening"),
    "thank": ("thanks", "thanked", "thanking"), "open": ("opens", "opened", "opening"),
    "close": ("closes", "closed", "closing"),
    "lose": ("loses", "lost", "losing"),
    "draw": ("draws", "drew", "drawing"), "write": ("writes", "wrote", "writing"),
    "build": ("builds", "built", "building"), "sleep": ("sleeps", "slept", "sleeping"),
    "work": ("works", "worked", "working"), "play": ("plays", "played", "playing"),
    "sing": ("sings", "sang", "singing"),
    "laugh": ("laughs", "laughed", "laughing"), "dance": ("dances", "danced", "dancing"),
    "go": ("goes", "went", "going"), "come": ("comes", "came", "coming"),
    "return": ("returns", "returned", "returning"), "know": ("knows", "knew", "knowing"),
    "say": ("says", "said", "saying"), "think": ("thinks", "thought", "thinking"),
}
# fmt: on


def _noun(np: NounPhrase) -> str:
    return PLURALS.get(np.noun, np.noun + "s") if np.plural else np.noun


def _phrase(np: NounPhrase) -> List[str]:
    determiner = np.determiner
    if np.owner:
        determiner = f"the {np.owner}'s"
    elif determiner == "this":
        determiner = "these" if np.plural else "this"
    elif determiner == "a":
        following = np.adjective or np.noun
        determiner = "" if np.plural else "an" if following[0] in "aeiou" else "a"
    return flatten(determiner, np.adjective, _noun(np), _relative(np))


def _relative(np: NounPhrase) -> Optional[List[str]]:
    if np.relative is None:
        return None
    human = np.noun in CLASSES["person"] | CLASSES["kin"]
    pronoun = "who" if human and np.relative.role == "subject" else "that"
    return flatten(pronoun, _clause(np.relative.clause, head=np if np.relative.role == "subject" else None))


def _subject(subject: Subject) -> List[str]:
    if isinstance(subject, Pronoun):
        return [subject.person]
    if isinstance(subject, Both):
        return flatten(_phrase(subject.first), "and", _phrase(subject.second))
    return _phrase(subject)


def _person(subject: Subject) -> str:
    """`I`, `it` (third singular) or `they`: all that English agreement asks."""
    if isinstance(subject, Pronoun):
        return "I" if subject.person == "I" else "they"
    return "they" if isinstance(subject, Both) or subject.plural else "it"


def _verb(clause: Clause, person: str) -> Tuple[str, List[str]]:
    """The auxiliary ('' where none is needed) and the rest of the verb."""
    be = {"I": "am", "it": "is", "they": "are"}[person]
    if clause.verb is None:
        past = "were" if person == "they" else "was"
        return {"past": past, "present": be, "future": "will be"}[clause.tense], flatten(clause.adjective)
    base, *particle = clause.verb.split()
    third, past, ing = FORMS[base]
    event = clause.verb in VERBS and VERBS[clause.verb].event and clause.time not in HABITS
    if clause.tense == "future":
        return "will", [base, *particle]
    if clause.tense == "present" and event:
        return be, [ing, *particle]
    if clause.negated or clause.question:
        do = "did" if clause.tense == "past" else "does" if person == "it" else "do"
        return do, [base, *particle]
    return "", [past if clause.tense == "past" else third if person == "it" else base, *particle]


def _clause(clause: Clause, head: Optional[NounPhrase] = None) -> List[str]:
    """`head`: the noun phrase that is the subject where the clause itself has none."""
    subject = clause.subject or head
    auxiliary, rest = _verb(clause, _person(subject))
    spoken = _subject(clause.subject) if clause.subject else []
    start = flatten(auxiliary, spoken) if clause.question else flatten(spoken, auxiliary)
    to = clause.recipient or clause.goal
    return flatten(
        clause.time if clause.time_first else None,
        start,
        "not" if clause.negated else None,
        rest,
        _phrase(clause.object) if clause.object else None,
        ["to", _phrase(to)] if to else None,
        ["with", _phrase(clause.companion)] if clause.companion else None,
        [PLACES.get(clause.place.noun, "in"), _phrase(clause.place)] if clause.place else None,
        None if clause.time_first else clause.time,
    )


def write(sentence: Sentence) -> str:
    """The sentence in English."""
    words = _clause(sentence.main)
    if sentence.second is not None:
        words += flatten("," if sentence.link == "but" else None, sentence.link, _clause(sentence.second))
    return line(words, "?" if sentence.main.question else ".")

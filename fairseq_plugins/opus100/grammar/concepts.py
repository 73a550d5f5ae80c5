"""The concepts of the embedded sample and which of them go together in a sensible sentence."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, FrozenSet, Tuple

# fmt: off


def _sets(table: Dict[str, str]) -> Dict[str, FrozenSet[str]]:
    return {name: frozenset(words.split()) for name, words in table.items()}


# class -> nouns; a noun may stand in several classes
CLASSES = _sets({
    "person": "woman man girl boy child teacher doctor pupil farmer king queen neighbour friend soldier",
    "kin": "mother father grandmother grandfather",  # singular, always with my or our
    "animal": "dog cat horse bird",
    "text": "book letter newspaper poem",
    "food": "apple bread cheese",
    "drink": "tea milk coffee",
    "goods": "book newspaper picture car table key flower hat bag bicycle house ship",
    "small": "book letter newspaper picture key flower hat bag apple bread cheese",
    "closable": "window door bag book",
    "drawable": "house car flower ship bridge window hat bicycle dog cat horse bird woman man child king queen",
    "buildable": "house ship bridge table school",
    "place": "garden kitchen school city village market park forest street station beach",
    "goal": "garden kitchen school village market park forest station beach",
})
MASS = frozenset("bread cheese tea milk coffee".split())  # no plural, no number
OWNABLE = CLASSES["goods"] | CLASSES["text"] | CLASSES["animal"]  # go with my, our and a named owner
POSSESSED_PERSONS = frozenset("friend neighbour teacher doctor".split())  # go with my and our

# adjective -> classes it describes
ADJECTIVES: Dict[str, Tuple[str, ...]] = {
    "small": ("animal", "goods", "place", "child"), "big": ("animal", "goods", "place"),
    "old": ("person", "animal", "goods", "place", "buildable"), "new": ("goods", "place", "buildable"),
    "young": ("person",), "beautiful": ("goods", "animal", "place", "text", "buildable"),
    "good": ("person", "food", "drink", "text"), "clever": ("person", "animal"), "rich": ("person",),
    "famous": ("person",), "happy": ("person",), "tired": ("person", "animal"),
    "red": ("goods",), "white": ("goods", "animal"), "black": ("goods", "animal"), "green": ("goods",),
    "blue": ("goods",), "expensive": ("goods", "drink"), "long": ("text", "buildable"),
}
# Fitting classes, but not sensible together.
UNSUITED = frozenset({
    ("red", "newspaper"), ("green", "newspaper"), ("blue", "newspaper"), ("white", "newspaper"), ("black", "newspaper"),
    ("old", "child"), ("old", "boy"), ("old", "girl"), ("young", "child"), ("young", "boy"), ("young", "girl"),
    ("rich", "child"), ("long", "house"), ("long", "school"), ("long", "newspaper"),
})
NOT_PREDICATE = frozenset({"happy", "tired", "long"})  # Russian wants other forms for these as predicates


@lru_cache(None)
def suits(adjective: str, noun: str) -> bool:
    """Whether the adjective may describe the noun."""
    if (adjective, noun) in UNSUITED:
        return False
    return any(noun == name or noun in CLASSES.get(name, ()) for name in ADJECTIVES[adjective])


@dataclass(frozen=True)
class Verb:
    """Which subjects and objects a verb takes.

    `creates`: the object comes into being, so it is indefinite ("writes a letter"), which tells the article to
    languages that have none in the source. `event`: English says the present as "is reading".
    """
    subjects: Tuple[str, ...] = ("person", "kin")
    objects: Tuple[str, ...] = ()
    creates: bool = False
    event: bool = True
    gives: bool = False   # takes a recipient
    moves: bool = False   # takes a goal


_ALL = ("person", "kin", "animal")
VERBS: Dict[str, Verb] = {
    "read": Verb(objects=("text",)), "see": Verb(_ALL, ("person", "kin", "animal", "goods"), event=False),
    "look for": Verb(_ALL, ("person", "kin", "animal", "small")),
    "find": Verb(_ALL, ("animal", "small"), event=False),
    "buy": Verb(objects=("goods", "food", "animal")),
    "bring": Verb(objects=("small", "drink"), gives=True), "give": Verb(objects=("small", "animal"), gives=True),
    "show": Verb(objects=("goods", "text"), gives=True), "eat": Verb(_ALL, ("food",)),
    "drink": Verb(_ALL, ("drink",)),
    "love": Verb(_ALL, ("person", "kin", "animal"), event=False), "help": Verb(objects=("person", "kin")),
    "wait for": Verb(_ALL, ("person", "kin")), "listen to": Verb(objects=("person", "kin")),
    "thank": Verb(objects=("person", "kin")), "open": Verb(objects=("closable",)),
    "close": Verb(objects=("closable",)),
    "lose": Verb(objects=("small",), event=False), "draw": Verb(objects=("drawable",), creates=True),
    "write": Verb(objects=("letter", "poem", "book"), creates=True),
    "build": Verb(objects=("buildable",), creates=True),
    "sleep": Verb(_ALL), "work": Verb(), "play": Verb(_ALL), "sing": Verb(), "laugh": Verb(), "dance": Verb(),
    "go": Verb(_ALL, moves=True), "come": Verb(_ALL, moves=True), "return": Verb(moves=True),
}
SAYING = ("know", "say", "think")  # take a clause: "knows that ..."; always in the present
# time -> tenses it goes with
TIMES: Dict[str, Tuple[str, ...]] = {
    "now": ("present",), "today": ("past", "present", "future"), "yesterday": ("past",), "tomorrow": ("future",),
    "every day": ("present",), "in the evening": ("past", "present", "future"),
    "in the morning": ("past", "present", "future"),
}
HABITS = frozenset({"every day", "in the evening", "in the morning"})  # make a present tense a habit


@lru_cache(None)
def nouns(classes: Tuple[str, ...]) -> Tuple[str, ...]:
    """The nouns of `classes` (a class name or a single noun), sorted."""
    return tuple(sorted(set().union(*(CLASSES.get(name, (name,)) for name in classes))))


NOUNS = nouns(tuple(CLASSES))

"""Draws meanings at random and keeps the word combinations of dev and test out of train."""

import random
import zlib
from dataclasses import replace
from functools import lru_cache
from typing import Callable, Dict, Iterable, Iterator, Optional, Sequence, Set, Tuple, TypeVar

from . import concepts, english, french, german, russian, turkish
from .concepts import CLASSES, HABITS, MASS, OWNABLE, POSSESSED_PERSONS, SAYING, TIMES, VERBS, nouns, suits
from .meaning import NUMBERS, Both, Clause, Combination, NounPhrase, Pronoun, Relative, Sentence, Subject, combinations

WRITERS: Dict[str, Callable[[Sentence], str]] = {
    "de": german.write,
    "en": english.write,
    "fr": french.write,
    "ru": russian.write,
    "tr": turkish.write,
}
PIVOT = "en"
_HELD_OUT = {0: "dev", 1: "test"}  # of 8 shares of all combinations
T = TypeVar("T")


@lru_cache(None)
def split_of(combination: Combination) -> str:
    """The split to which a word combination belongs; the same for every seed, size and language."""
    return _HELD_OUT.get(zlib.crc32(" ".join(combination).encode()) % 8, "train")


def split_of_sentence(sentence: Sentence) -> Optional[str]:
    """train: no held-out combination; dev or test: at least one of its own and none of the other; None: both."""
    held_out = {split_of(combination) for combination in combinations(sentence)} - {"train"}
    return None if len(held_out) == 2 else (held_out or {"train"}).pop()


class MeaningSource:
    """An endless, repeatable stream of meanings; the same `key` gives the same stream on every Python."""

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random  # the one generator method whose stream Python promises to keep

    def __iter__(self) -> Iterator[Sentence]:
        while True:
            yield self._sentence()

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def _chance(self, probability: float) -> bool:
        return self._random() < probability

    def _sentence(self) -> Sentence:
        kind = self._random()
        if kind < 0.12:
            return Sentence(self._description())
        if kind < 0.24:
            return self._report()
        if kind < 0.36:
            tense = self._pick(("past", "present", "future"))
            link = self._pick(("because", "but"))
            event = tense == "future" or self._chance(0.8)
            second = self._event(tense, short=True) if event else self._description(tense)
            return Sentence(self._event(tense, short=True), link, second)
        if kind < 0.52:
            return Sentence(self._with_relative())
        return Sentence(self._event(self._pick(("past", "present", "future"))))

    def _adjective(self, noun: str, chance: float, predicate: bool = False) -> Optional[str]:
        if not self._chance(chance):
            return None
        excluded = concepts.NOT_PREDICATE if predicate else ()
        fitting = [name for name in concepts.ADJECTIVES if suits(name, noun) and name not in excluded]
        return self._pick(fitting) if fitting else None

    def _phrase(
        self,
        noun: str,
        possessed: bool = True,
        counted: bool = False,
        creates: bool = False,
        quality: float = 0.35,
        avoid: Iterable[str] = (),
    ) -> NounPhrase:
        """`possessed`: my, our and owners allowed, but none of `avoid`; `counted`: numbers allowed; `creates`:
        indefinite; `quality`: how likely an adjective is."""
        adjective = self._adjective(noun, quality)
        if noun in CLASSES["kin"]:
            return self._plain(noun)
        plural = noun not in MASS and self._chance(0.3)
        if creates:
            number = plural and self._chance(0.4)
            return NounPhrase(noun, plural, self._pick(NUMBERS) if number else "a", adjective)
        kind = self._random()
        if kind < 0.2 and plural and counted:
            return NounPhrase(noun, plural, self._pick(NUMBERS), adjective)
        if kind < 0.35:
            return NounPhrase(noun, plural, "this", adjective)
        if kind < 0.5 and possessed and (noun in OWNABLE or noun in POSSESSED_PERSONS):
            return NounPhrase(noun, False, self._pick(("my", "our")), adjective)
        if kind < 0.6 and possessed and noun in OWNABLE:
            owner = self._pick([name for name in nouns(("person",)) if name not in avoid])
            return NounPhrase(noun, adjective=adjective, owner=owner)
        return NounPhrase(noun, plural, adjective=adjective)

    def _plain(self, noun: str) -> NounPhrase:
        return NounPhrase(noun, determiner=self._pick(("my", "our")) if noun in CLASSES["kin"] else "the")

    def _place(self, names: str) -> NounPhrase:
        noun = self._pick(nouns((names,)))
        determiner = "this" if self._chance(0.15) else "the"
        return NounPhrase(noun, determiner=determiner, adjective=self._adjective(noun, 0.25))

    def _subject(self, classes: Tuple[str, ...], tense: str) -> Subject:
        kind = self._random()
        if kind < 0.14:  # "I" in the past would ask Russian for the speaker's gender
            return Pronoun(self._pick(("we", "they") if tense == "past" else ("I", "we", "they")))
        if kind < 0.22:
            first, second = (self._pick(nouns(classes)) for _ in range(2))
            if first != second:
                return Both(self._plain(first), self._plain(second))
        return self._phrase(self._pick(nouns(classes)), counted=True)

    def _event(self, tense: str, short: bool = False, noun_subject: bool = False) -> Clause:
        """A clause with a verb; `short`: a plain statement without time and companion; `noun_subject`: no pronoun."""
        verb = self._pick(tuple(VERBS))
        entry = VERBS[verb]
        subject = self._subject(entry.subjects, tense)
        while noun_subject and isinstance(subject, Pronoun):
            subject = self._subject(entry.subjects, tense)
        speaker = isinstance(subject, Pronoun) and subject.person != "they"
        used = _nouns(subject)
        thing = recipient = companion = place = goal = time = None
        if entry.objects:
            thing = self._another(entry.objects, used, speaker, counted=True, creates=entry.creates)
            used |= _nouns(thing)
        if entry.gives:
            recipient = self._another(("person", "kin"), used, speaker)
        mood = 1.0 if short else self._random()
        negated = mood < 0.12 and not (thing and thing.determiner in NUMBERS)
        question = 0.12 <= mood < 0.24
        if entry.moves:
            goal = self._place("goal")
        elif self._chance(0.2 if thing else 0.6) and not (entry.gives or thing and (short or negated)):
            place = self._place("place")
        if not (short or thing or negated) and self._chance(0.3):
            companion = self._another(("person", "kin", "animal"), used, speaker)
        if not short and not (question and speaker) and self._chance(0.45):
            time = self._time(tense, entry)
        # Turkish leaves out "I" and "we", so the two places of the time would read the same there
        time_first = time is not None and not question and (speaker or self._chance(0.5))
        return Clause(
            subject, verb, None, tense, negated, question, thing, recipient, companion, place, goal, time, time_first
        )

    def _time(self, tense: str, verb: concepts.Verb) -> Optional[str]:
        time = self._pick([name for name, tenses in TIMES.items() if tense in tenses])
        if verb.moves and tense == "present" and time in HABITS:
            return None  # Russian has other verbs for going every day
        return None if time == "now" and not verb.event else time

    def _another(
        self, classes: Tuple[str, ...], used: Set[str], speaker: bool, counted: bool = False, creates: bool = False
    ) -> NounPhrase:
        """A phrase whose noun is not in `used`. Beside the subjects "I" and "we" (`speaker`) nothing is possessed:
        "we read our book" would be reflexive in Russian."""
        names = [name for name in nouns(classes) if name not in used and not (speaker and name in CLASSES["kin"])]
        return self._phrase(self._pick(names), not speaker, counted, creates, avoid=used)

    def _description(self, tense: Optional[str] = None) -> Clause:
        """The house is old."""
        while True:
            subject = self._phrase(self._pick(concepts.NOUNS), quality=0)
            adjective = self._adjective(subject.noun, 1, predicate=True)
            if adjective:
                return Clause(subject, None, adjective, tense or self._pick(("past", "present")), self._chance(0.25))

    def _report(self) -> Sentence:
        """The teacher knows that ...; Turkish tells only present and future apart in such a clause."""
        said = self._event(self._pick(("present", "future")), short=True, noun_subject=True)
        if self._chance(0.4):
            subject: Subject = Pronoun(self._pick(("I", "we", "they")))
        else:
            subject = self._another(("person", "kin"), _nouns(said.subject), speaker=False)
        return Sentence(Clause(subject, self._pick(SAYING)), "that", said)

    def _with_relative(self) -> Clause:
        """The man who reads the book sleeps; we see the book that the man reads. Both clauses have one tense, because
        Turkish shows only that of the main one."""
        tense = self._pick(("past", "present"))
        while True:
            main, inner = (self._event(tense, short=True, noun_subject=noun_subject) for noun_subject in (False, True))
            role = self._pick(("subject", "object"))
            if role == "object" and not (_relates_object(main) and _relates_object(inner)):
                continue
            head = getattr(main, role)
            verb = VERBS[inner.verb]
            fits = nouns(verb.subjects if role == "subject" else verb.objects)
            if not isinstance(head, NounPhrase) or head.noun in CLASSES["kin"] or head.noun not in fits:
                continue
            inner = replace(inner, **{role: None})
            if _nouns(inner.subject, inner.object, inner.recipient) & _nouns(main.subject, main.object, main.recipient):
                continue
            noun = NounPhrase(head.noun, head.plural, adjective=head.adjective, relative=Relative(role, inner))
            return replace(main, **{role: noun})


def _relates_object(clause: Clause) -> bool:
    """Whether the object may be shared with another clause: definite and the last thing said."""
    return bool(clause.object) and not (VERBS[clause.verb].creates or clause.recipient or clause.place)


def _nouns(*subjects: Optional[Subject]) -> Set[str]:
    """The nouns among subjects and objects, owners included."""
    found: Set[str] = set()
    for subject in subjects:
        for phrase in (subject.first, subject.second) if isinstance(subject, Both) else (subject,):
            if isinstance(phrase, NounPhrase):
                found.update(filter(None, (phrase.noun, phrase.owner)))
    return found

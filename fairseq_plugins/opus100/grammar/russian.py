"""Russian: three genders, six cases, animacy, numerals that govern case, no articles, no present copula."""

from typing import Dict, List, Optional, Tuple

from .meaning import Both, Clause, NounPhrase, Pronoun, Sentence, Subject
from .russian_words import ADJECTIVES, CASES, NOUNS, VERBS
from .text import flatten, line

# fmt: off

# noun -> preposition; the others: в
PLACES: Dict[str, str] = {name: "на" for name in ("kitchen", "market", "street", "station", "beach")}
TIMES = {"now": "сейчас", "today": "сегодня", "yesterday": "вчера", "tomorrow": "завтра", "every day": "каждый день",
         "in the evening": "вечером", "in the morning": "утром"}
PRONOUNS = {"I": "я", "we": "мы", "they": "они"}
# in the order masculine, neuter, feminine, plural; the accusative of masculine and plural goes by animacy ("=")
_ADJECTIVE = {"nom": "ый ое ая ые", "gen": "ого ого ой ых", "dat": "ому ому ой ым", "acc": "= ое ую =",
              "ins": "ым ым ой ыми", "prep": "ом ом ой ых"}
DETERMINERS: Dict[str, Dict[str, str]] = {
    "this": {"nom": "этот это эта эти", "gen": "этого этого этой этих", "dat": "этому этому этой этим",
             "acc": "= это эту =", "ins": "этим этим этой этими", "prep": "этом этом этой этих"},
    "my": {"nom": "мой моё моя мои", "gen": "моего моего моей моих", "dat": "моему моему моей моим",
           "acc": "= моё мою =", "ins": "моим моим моей моими", "prep": "моём моём моей моих"},
    "our": {"nom": "наш наше наша наши", "gen": "нашего нашего нашей наших", "dat": "нашему нашему нашей нашим",
            "acc": "= наше нашу =", "ins": "нашим нашим нашей нашими", "prep": "нашем нашем нашей наших"},
}
# number -> nominative, feminine nominative, animate accusative
NUMBERS = {"two": ("два", "две", "двух"), "three": ("три", "три", "трёх"), "four": ("четыре", "четыре", "четырёх"),
           "five": ("пять", "пять", "пять")}
WILL_BE = ("буду", "будет", "будем", "будут")
# fmt: on


def _pick(table: Dict[str, str], gender: str, plural: bool, case: str, animate: bool) -> str:
    column = 3 if plural else "mnf".index(gender)
    form = table[case].split()[column]
    return table["gen" if animate else "nom"].split()[column] if form == "=" else form


def adjective(lemma: str, gender: str, plural: bool, case: str, animate: bool) -> str:
    """Declines an adjective given by its masculine nominative: старый, молодой, маленький, хороший, синий."""
    stem, nominative = lemma[:-2], lemma[-2:]
    ending = _pick(_ADJECTIVE, gender, plural, case, animate)
    if ending == "ый":
        return lemma
    if stem[-1] in "гкхжшщч":
        ending = ending.replace("ы", "и")
        if stem[-1] in "жшщч" and nominative == "ий" and ending[0] == "о":
            ending = "е" + ending[1:]
    elif nominative == "ий":  # soft: синий
        ending = ending.replace("ы", "и").replace("ая", "яя").replace("ую", "юю")
        ending = "е" + ending[1:] if ending[0] == "о" else ending
    return stem + ending


def _phrase(np: NounPhrase, case: str) -> List[str]:
    """The phrase without its relative clause."""
    noun = NOUNS[np.noun]
    gender, animate = noun.gender, noun.animate
    if np.determiner in NUMBERS:
        return _counted(np, case)
    determiner = ""
    if np.determiner in DETERMINERS:
        determiner = _pick(DETERMINERS[np.determiner], gender, np.plural, case, animate)
    quality = adjective(ADJECTIVES[np.adjective], gender, np.plural, case, animate) if np.adjective else None
    form = (noun.plural if np.plural else noun.singular)[CASES.index(case)]
    return flatten(determiner, quality, form, _phrase(NounPhrase(np.owner), "gen") if np.owner else None)


def _counted(np: NounPhrase, case: str) -> List[str]:
    """Nominative or accusative: genitive singular after 2 to 4, genitive plural after 5 and after двух, трёх."""
    noun = NOUNS[np.noun]
    plain, feminine, oblique = NUMBERS[np.determiner]
    governs_plural = np.determiner == "five" or (case == "acc" and noun.animate)
    number = oblique if case == "acc" and noun.animate else feminine if noun.gender == "f" else plain
    form = (noun.plural if governs_plural else noun.singular)[CASES.index("gen")]
    quality = None
    if np.adjective:
        adjective_case = "nom" if noun.gender == "f" and not governs_plural else "gen"
        quality = adjective(ADJECTIVES[np.adjective], noun.gender, True, adjective_case, noun.animate)
    return flatten(number, quality, form)


def _relative(np: NounPhrase) -> Optional[List[str]]:
    if np.relative is None:
        return None
    noun, clause = NOUNS[np.noun], np.relative.clause
    case = "nom" if np.relative.role == "subject" else VERBS[clause.verb].case
    which = adjective("который", noun.gender, np.plural, case, noun.animate)
    subject = np.relative.role == "subject"
    return flatten(",", which, _clause(clause, head=np if subject else None, inverted=not subject), ",")


def _full(np: NounPhrase, case: str) -> List[str]:
    return flatten(_phrase(np, case), _relative(np))


def _agreement(subject: Subject) -> Tuple[int, str]:
    """Index into я/он/мы/они, and m, f, n or p for the past."""
    if isinstance(subject, Pronoun):
        return {"I": 0, "we": 2, "they": 3}[subject.person], "p"
    if isinstance(subject, Both) or subject.plural:
        return 3, "p"
    return 1, NOUNS[subject.noun].gender


def _past(form: str, stem: str, gender: str) -> str:
    if gender == "m":
        return form
    reflexive = stem.endswith("ся")
    ending = {"f": "а", "n": "о", "p": "и"}[gender]
    return stem[:-2] + ending + "сь" if reflexive else stem + ending


def _with(words: List[str]) -> List[str]:
    """с, or со before с, з, ш or ж and another consonant."""
    first, second = words[0][:2]
    return flatten("со" if first in "сзшж" and second not in "аеёиоуыэюя" else "с", words)


def _clause(clause: Clause, head: Optional[NounPhrase] = None, inverted: bool = False) -> List[str]:
    """`head`: the subject where the clause has none (который as subject); `inverted`: the subject ends the clause."""
    index, gender = _agreement(clause.subject or head)
    time = TIMES[clause.time] if clause.time else None
    front, middle = (time, None) if clause.time_first else (None, time)
    subject: List[str] = []
    if isinstance(clause.subject, Pronoun):
        subject = [PRONOUNS[clause.subject.person]]
    elif isinstance(clause.subject, Both):
        subject = flatten(_phrase(clause.subject.first, "nom"), "и", _phrase(clause.subject.second, "nom"))
    elif clause.subject:
        subject = _full(clause.subject, "nom")
    no = "не" if clause.negated else None
    if clause.verb is None:
        case = "nom" if clause.tense == "present" else "ins"
        quality = adjective(ADJECTIVES[clause.adjective], gender if gender != "p" else "m", gender == "p", case, False)
        be = None if clause.tense == "present" else _past("был", "был", gender)
        return flatten(subject, no, be, quality)
    verb = VERBS[clause.verb]
    if clause.tense == "past":
        finite, infinitive = _past(verb.past, verb.past_stem, gender), None
    elif clause.tense == "future" and len(verb.future) == 1:
        finite, infinitive = WILL_BE[index], verb.future[0]
    else:
        finite, infinitive = (verb.present if clause.tense == "present" else verb.future)[index], None
    preposition = [PLACES.get(np.noun, "в") if np else "" for np in (clause.place, clause.goal)]
    rest = flatten(
        _phrase(clause.recipient, "dat") if clause.recipient else None,
        _full(clause.object, verb.case) if clause.object else None,
        _with(_phrase(clause.companion, "ins")) if clause.companion else None,
        [preposition[0], _phrase(clause.place, "prep")] if clause.place else None,
        [preposition[1], _phrase(clause.goal, "acc")] if clause.goal else None,
    )
    if clause.question:
        return flatten(finite, "ли", subject, middle, infinitive, rest)
    if inverted:
        return flatten(finite, infinitive, rest, subject)
    return flatten(front, subject, middle, no, finite, infinitive, rest)


def write(sentence: Sentence) -> str:
    """The sentence in Russian."""
    words = _clause(sentence.main)
    if sentence.second is not None:
        joint = {"because": "потому что", "that": "что", "but": "но"}[sentence.link]
        words += flatten(",", joint, _clause(sentence.second))
    return line(words, "?" if sentence.main.question else ".")

"""Turkish: vowel harmony, agglutinated cases and possessors, the verb last, participles instead of relative clauses."""

from typing import Dict, List, Optional, Tuple

from .concepts import CLASSES
from .meaning import Both, Clause, NounPhrase, Pronoun, Sentence, Subject
from .text import flatten, line

# fmt: off

# noun -> nominative, or "nominative stem" where the stem before a vowel differs (kitap, kitab-)
NOUNS: Dict[str, str] = {
    "woman": "kadın", "man": "adam", "girl": "kız", "boy": "oğlan", "child": "çocuk çocuğ", "teacher": "öğretmen",
    "doctor": "doktor", "pupil": "öğrenci", "farmer": "çiftçi", "king": "kral",
    "queen": "kraliçe",
    "neighbour": "komşu", "friend": "arkadaş", "soldier": "asker",
    "mother": "anne",
    "father": "baba", "grandmother": "büyükanne", "grandfather": "büyükbaba", "dog": "köpek köpeğ", "cat": "kedi",
    "horse": "at", "bird": "kuş", "book": "kitap kitab", "letter": "mektup mektub",
    "newspaper": "gazete", "poem": "şiir", "apple": "elma", "bread": "ekmek ekmeğ", "cheese": "peynir",
    "tea": "çay", "milk": "süt", "coffee": "kahve", "picture": "resim resm", "car": "araba", "table": "masa",
    "key": "anahtar", "flower": "çiçek çiçeğ", "hat": "şapka", "bag": "çanta",
    "bicycle": "bisiklet", "house": "ev", "ship": "gemi", "bridge": "köprü", "window": "pencere", "door": "kapı",
    "garden": "bahçe", "kitchen": "mutfak mutfağ", "school": "okul", "city": "şehir şehr", "village": "köy",
    "market": "pazar", "park": "park", "forest": "orman", "street": "sokak sokağ",
    "station": "istasyon", "beach": "plaj",
}
ADJECTIVES: Dict[str, str] = {
    "small": "küçük", "big": "büyük", "old": "eski", "new": "yeni", "young": "genç", "beautiful": "güzel",
    "good": "iyi",
    "clever": "akıllı", "rich": "zengin", "famous": "ünlü", "happy": "mutlu", "tired": "yorgun",
    "red": "kırmızı", "white": "beyaz", "black": "siyah", "green": "yeşil", "blue": "mavi", "expensive": "pahalı",
    "long": "uzun",
}
# verb -> stem, or "stem/stem before a vowel"
VERBS: Dict[str, str] = {
    "read": "oku", "see": "gör", "look for": "ara", "find": "bul", "buy": "satın al", "bring": "getir",
    "give": "ver", "show": "göster", "eat": "ye", "drink": "iç", "love": "sev", "help": "yardım et/yardım ed",
    "wait for": "bekle", "listen to": "dinle", "thank": "teşekkür et/teşekkür ed", "open": "aç", "close": "kapat",
    "lose": "kaybet/kaybed", "draw": "çiz", "write": "yaz",
    "build": "inşa et/inşa ed", "sleep": "uyu", "work": "çalış", "play": "oyna", "sing": "şarkı söyle",
    "laugh": "gül",
    "dance": "dans et/dans ed", "go": "git/gid", "come": "gel", "return": "dön", "know": "bil", "say": "söyle",
    "think": "düşün",
}
DATIVE_VERBS = frozenset(("help", "thank"))
TIMES = {"now": "şimdi", "today": "bugün", "yesterday": "dün", "tomorrow": "yarın", "every day": "her gün",
         "in the evening": "akşam", "in the morning": "sabah"}
NUMBERS = {"two": "iki", "three": "üç", "four": "dört", "five": "beş"}
POSSESSIVES = {"my": ("ım", "m"), "our": ("ımız", "mız"), "owner": ("ı", "sı")}  # after a consonant, after a vowel
# person -> suffix of present and future, of the past
PERSONS = {"I": ("ım", "m"), "we": ("ız", "k"), "they": ("lar", "lar"), "": ("", "")}
VOWELS, FRONT, ROUND, VOICELESS = "aıoueiöü", "eiöü", "ouöü", "fstkçşhp"
# fmt: on


def suffix(word: str, ending: str) -> str:
    """Adds `ending`, written with back unrounded vowels (a, ı) and a voiced first consonant, in harmony with `word`.

    "ev" + "dan" -> "evden", "okul" + "da" -> "okulda", "üç" + "dı" -> "üçtü".
    """
    if ending[0] == "d" and word[-1] in VOICELESS:
        ending = "t" + ending[1:]
    for letter in ending:
        if letter in "aı":
            last = next(vowel for vowel in reversed(word) if vowel in VOWELS)
            front, rounded = last in FRONT, last in ROUND
            if letter == "a":
                letter = "e" if front else "a"
            else:
                letter = ("ü" if rounded else "i") if front else ("u" if rounded else "ı")
        word += letter
    return word


def noun(name: str, plural: bool = False, possessor: Optional[str] = None, case: str = "nom") -> str:
    """Inflects a noun; `possessor`: my, our or owner; `case`: nom, acc, dat, loc or gen."""
    word, stem = (NOUNS[name].split() * 2)[:2]
    if plural:
        word = stem = suffix(word, "lar")
    if possessor:
        after_consonant, after_vowel = POSSESSIVES[possessor]
        word = stem = suffix(word, after_vowel) if word[-1] in VOWELS else suffix(stem, after_consonant)
    if case == "nom":
        return word
    if case == "loc":
        return suffix(word, "nda" if possessor == "owner" else "da")
    endings = {"acc": ("ı", "yı", "nı"), "dat": ("a", "ya", "na"), "gen": ("ın", "nın", "nın")}[case]
    if possessor == "owner":
        return suffix(word, endings[2])
    return suffix(word, endings[1]) if word[-1] in VOWELS else suffix(stem, endings[0])


def _stems(verb: str) -> Tuple[str, str]:
    """The stem before a consonant and before a vowel."""
    before_consonant, _, before_vowel = VERBS[verb].partition("/")
    return before_consonant, before_vowel or before_consonant


def _joined(verb: str, ending: str) -> str:
    """A verb with an ending that begins with a vowel: y after a vowel (okuyan), yi- for ye- (yiyen)."""
    stem, soft = _stems(verb)
    if verb == "eat":
        return suffix("yi", "y" + ending)
    return suffix(stem, "y" + ending) if stem[-1] in VOWELS else suffix(soft, ending)


def conjugate(verb: str, tense: str, person: str = "", negated: bool = False, question: bool = False) -> str:
    """A finite form; `person`: I, we, they or '' for the third singular, which also goes with plural nouns."""
    stem, soft = _stems(verb)
    ending = PERSONS[person][tense == "past"]
    if tense == "past":
        form = suffix(stem, "madı" if negated else "dı")
        form = suffix(form, ending) if ending else form
        return f"{form} {suffix(form, ' mı').split()[-1]}" if question else form
    if tense == "present":
        if negated:
            form = suffix(stem, "mı") + "yor"
        elif verb == "eat":
            form = "yiyor"
        elif stem[-1] in VOWELS:
            form = suffix(stem[:-1], "ı") + "yor"
        else:
            form = suffix(soft, "ı") + "yor"
    else:
        form = suffix(stem, "mayacak") if negated else _joined(verb, "acak")
    if question:  # the person moves to the particle, but not the plural
        if person == "they":
            form = suffix(form, ending)
            return f"{form} {suffix(form, 'mı')[len(form) :]}"
        particle = suffix(form, "mı" + ("y" + ending if ending else ""))[len(form) :]
        return f"{form} {particle}"
    if not ending:
        return form
    if form.endswith("k") and ending[0] == "ı":
        form = form[:-1] + "ğ"
    return suffix(form, ending)


def _adjective(name: str, described: str) -> str:
    """Turkish has one word for old things and another for old persons and animals."""
    living = CLASSES["person"] | CLASSES["kin"] | CLASSES["animal"]
    return "yaşlı" if name == "old" and described in living else ADJECTIVES[name]


def _phrase(np: NounPhrase, case: str = "nom") -> List[str]:
    """An indefinite or counted object stays in the nominative; a counted noun is singular."""
    possessor = "owner" if np.owner else np.determiner if np.determiner in POSSESSIVES else None
    counted = np.determiner in NUMBERS
    if case == "acc" and (counted or np.determiner == "a"):
        case = "nom"
    return flatten(
        _participle(np),
        noun(np.owner, case="gen") if np.owner else None,
        "bu" if np.determiner == "this" else NUMBERS.get(np.determiner),
        _adjective(np.adjective, np.noun) if np.adjective else None,
        "bir" if np.determiner == "a" and not np.plural else None,
        noun(np.noun, np.plural and not counted, possessor, case),
    )


def _participle(np: NounPhrase) -> Optional[List[str]]:
    """okuyan kadın, the woman who reads; kadının okuduğu kitap, the book that the woman reads."""
    if np.relative is None:
        return None
    clause = np.relative.clause
    if np.relative.role == "subject":
        return flatten(_parts(clause), _joined(clause.verb, "an"))
    return flatten(_subject(clause.subject, "gen"), _parts(clause), _nominal(clause.verb, "present"))


def _nominal(verb: str, tense: str) -> str:
    """okuduğu (that she reads) or okuyacağı (that she will read)."""
    if tense == "future":
        return suffix(_joined(verb, "acağ"), "ı")
    return suffix(_stems(verb)[0], "dığı")


def _parts(clause: Clause) -> List[str]:
    """What stands between subject and verb."""
    case = "dat" if clause.verb in DATIVE_VERBS else "acc"
    return flatten(
        [_phrase(clause.companion), "ile"] if clause.companion else None,
        _phrase(clause.place, "loc") if clause.place else None,
        _phrase(clause.goal, "dat") if clause.goal else None,
        _phrase(clause.recipient, "dat") if clause.recipient else None,
        _phrase(clause.object, case) if clause.object else None,
    )


def _subject(subject: Optional[Subject], case: str = "nom") -> List[str]:
    if isinstance(subject, Pronoun):
        return ["onlar"] if subject.person == "they" else []  # the verb says I and we
    if isinstance(subject, Both):
        return flatten(_phrase(subject.first), "ve", _phrase(subject.second, case))
    return _phrase(subject, case)


def _clause(clause: Clause) -> List[str]:
    time = TIMES[clause.time] if clause.time else None
    start = [time, _subject(clause.subject)] if clause.time_first else [_subject(clause.subject), time]
    if clause.verb is None:
        word = _adjective(clause.adjective, clause.subject.noun)
        last = "değil" if clause.negated else word
        if clause.tense == "past":
            last = suffix(last, "ydı" if last[-1] in VOWELS else "dı")
        return flatten(start, word if clause.negated else None, last)
    person = clause.subject.person if isinstance(clause.subject, Pronoun) else ""
    return flatten(start, _parts(clause), conjugate(clause.verb, clause.tense, person, clause.negated, clause.question))


def _nominalised(clause: Clause) -> List[str]:
    """kadının kitabı okuduğunu: (knows) that the woman reads the book."""
    return flatten(_subject(clause.subject, "gen"), _parts(clause), suffix(_nominal(clause.verb, clause.tense), "nı"))


def write(sentence: Sentence) -> str:
    """The sentence in Turkish."""
    if sentence.link == "that":
        main = sentence.main
        person = main.subject.person if isinstance(main.subject, Pronoun) else ""
        words = flatten(_subject(main.subject), _nominalised(sentence.second), conjugate(main.verb, "present", person))
    else:
        words = _clause(sentence.main)
        if sentence.second is not None:
            words += flatten(",", {"because": "çünkü", "but": "ama"}[sentence.link], _clause(sentence.second))
    return line(words, "?" if sentence.main.question else ".", lambda letter: "İ" if letter == "i" else letter.upper())

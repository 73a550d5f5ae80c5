"""German: three genders, four cases, strong and weak adjectives, verb second in main and verb last in other clauses."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from .meaning import Both, Clause, NounPhrase, Pronoun, Sentence, Subject
from .text import flatten, line

# fmt: off

# noun -> gender, singular, plural, genitive singular ("-": the singular itself; "weak": the plural in every case but
# the nominative)
NOUNS: Dict[str, Tuple[str, str, str, str]] = {
    "woman": ("f", "Frau", "Frauen", "-"), "man": ("m", "Mann", "Männer", "Mannes"),
    "girl": ("n", "Mädchen", "Mädchen", "Mädchens"), "boy": ("m", "Junge", "Jungen", "weak"),
    "child": ("n", "Kind", "Kinder", "Kindes"), "teacher": ("m", "Lehrer", "Lehrer", "Lehrers"),
    "doctor": ("m", "Arzt", "Ärzte", "Arztes"), "pupil": ("m", "Schüler", "Schüler", "Schülers"),
    "farmer": ("m", "Bauer", "Bauern", "weak"),
    "king": ("m", "König", "Könige", "Königs"), "queen": ("f", "Königin", "Königinnen", "-"),
    "neighbour": ("m", "Nachbar", "Nachbarn", "weak"), "friend": ("m", "Freund", "Freunde", "Freundes"),
        "soldier": ("m", "Soldat", "Soldaten", "weak"), "mother": ("f", "Mutter", "Mütter", "-"),
    "father": ("m", "Vater", "Väter", "Vaters"), "grandmother": ("f", "Großmutter", "Großmütter", "-"),
    "grandfather": ("m", "Großvater", "Großväter", "Großvaters"), "dog": ("m", "Hund", "Hunde", "Hundes"),
    "cat": ("f", "Katze", "Katzen", "-"), "horse": ("n", "Pferd", "Pferde", "Pferdes"),
    "bird": ("m", "Vogel", "Vögel", "Vogels"),
    "book": ("n", "Buch", "Bücher", "Buches"), "letter": ("m", "Brief", "Briefe", "Briefes"),
    "newspaper": ("f", "Zeitung", "Zeitungen", "-"), "poem": ("n", "Gedicht", "Gedichte", "Gedichts"),
    "apple": ("m", "Apfel", "Äpfel", "Apfels"), "bread": ("n", "Brot", "Brote", "Brotes"),
    "cheese": ("m", "Käse", "Käse", "Käses"),
    "tea": ("m", "Tee", "Tees", "Tees"),
    "milk": ("f", "Milch", "Milch", "-"), "coffee": ("m", "Kaffee", "Kaffees", "Kaffees"),
    "picture": ("n", "Bild", "Bilder", "Bildes"), "car": ("n", "Auto", "Autos", "Autos"),
    "table": ("m", "Tisch", "Tische", "Tisches"),
    "key": ("m", "Schlüssel", "Schlüssel", "Schlüssels"),
    "flower": ("f", "Blume", "Blumen", "-"), "hat": ("m", "Hut", "Hüte", "Hutes"),
    "bag": ("f", "Tasche", "Taschen", "-"), "bicycle": ("n", "Fahrrad", "Fahrräder", "Fahrrads"),
    "house": ("n", "Haus", "Häuser", "Hauses"), "ship": ("n", "Schiff", "Schiffe", "Schiffes"),
    "bridge": ("f", "Brücke", "Brücken", "-"), "window": ("n", "Fenster", "Fenster", "Fensters"),
    "door": ("f", "Tür", "Türen", "-"), "garden": ("m", "Garten", "Gärten", "Gartens"),
    "kitchen": ("f", "Küche", "Küchen", "-"), "school": ("f", "Schule", "Schulen", "-"),
    "city": ("f", "Stadt", "Städte", "-"), "village": ("n", "Dorf", "Dörfer", "Dorfes"),
    "market": ("m", "Markt", "Märkte", "Marktes"), "park": ("m", "Park", "Parks", "Parks"),
    "forest": ("m", "Wald", "Wälder", "Waldes"),
    "street": ("f", "Straße", "Straßen", "-"),
    "station": ("m", "Bahnhof", "Bahnhöfe", "Bahnhofs"), "beach": ("m", "Strand", "Strände", "Strandes"),
}
# noun -> preposition of rest (with dative), of direction, case of direction; the others: in, in, accusative
PLACES: Dict[str, Tuple[str, str, str]] = {"market": ("auf", "auf", "acc"), "street": ("auf", "auf", "acc"),
                                           "station": ("an", "zu", "dat"), "beach": ("an", "an", "acc")}
MERGED = {"in dem": "im", "an dem": "am", "zu dem": "zum", "zu der": "zur"}
ADJECTIVES: Dict[str, str] = {
    "small": "klein", "big": "groß", "old": "alt", "new": "neu", "young": "jung", "beautiful": "schön", "good": "gut",
    "clever": "klug", "rich": "reich", "famous": "berühmt", "happy": "glücklich", "tired": "müde",
    "red": "rot", "white": "weiß", "black": "schwarz", "green": "grün", "blue": "blau", "expensive": "teuer",
    "long": "lang",
}
NUMBERS = {"two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}


class Verb(NamedTuple):
    """First and third person, infinitive (also the plural), participle; `particle` separates ("hört ... zu")."""
    ich: str
    er: str
    infinitive: str
    participle: str
    case: str = "acc"
    preposition: str = ""
    particle: str = ""
    auxiliary: str = "haben"


VERBS: Dict[str, Verb] = {
    "read": Verb("lese", "liest", "lesen", "gelesen"), "see": Verb("sehe", "sieht", "sehen", "gesehen"),
    "look for": Verb("suche", "sucht", "suchen", "gesucht"), "find": Verb("finde", "findet", "finden", "gefunden"),
    "buy": Verb("kaufe", "kauft", "kaufen", "gekauft"),
    "bring": Verb("bringe", "bringt", "bringen", "gebracht"), "give": Verb("gebe", "gibt", "geben", "gegeben"),
    "show": Verb("zeige", "zeigt", "zeigen", "gezeigt"), "eat": Verb("esse", "isst", "essen", "gegessen"),
    "drink": Verb("trinke", "trinkt", "trinken", "getrunken"), "love": Verb("liebe", "liebt", "lieben", "geliebt"),
    "help": Verb("helfe", "hilft", "helfen", "geholfen", "dat"),
    "wait for": Verb("warte", "wartet", "warten", "gewartet", "acc", "auf"),
    "listen to": Verb("höre", "hört", "hören", "gehört", "dat", particle="zu"),
    "thank": Verb("danke", "dankt", "danken", "gedankt", "dat"),
    "open": Verb("öffne", "öffnet", "öffnen", "geöffnet"),
    "close": Verb("schließe", "schließt", "schließen", "geschlossen"),
            "lose": Verb("verliere", "verliert", "verlieren", "verloren"),
    "draw": Verb("zeichne", "zeichnet", "zeichnen", "gezeichnet"),
    "write": Verb("schreibe", "schreibt", "schreiben", "geschrieben"),
    "build": Verb("baue", "baut", "bauen", "gebaut"),
    "sleep": Verb("schlafe", "schläft", "schlafen", "geschlafen"),
    "work": Verb("arbeite", "arbeitet", "arbeiten", "gearbeitet"),
    "play": Verb("spiele", "spielt", "spielen", "gespielt"),
    "sing": Verb("singe", "singt", "singen", "gesungen"), "laugh": Verb("lache", "lacht", "lachen", "gelacht"),
    "dance": Verb("tanze", "tanzt", "tanzen", "getanzt"),
    "go": Verb("gehe", "geht", "gehen", "gegangen", auxiliary="sein"),
    "come": Verb("komme", "kommt", "kommen", "gekommen", auxiliary="sein"),
    "return": Verb("kehre", "kehrt", "kehren", "gekehrt", particle="zurück", auxiliary="sein"),
    "know": Verb("weiß", "weiß", "wissen", "gewusst"), "say": Verb("sage", "sagt", "sagen", "gesagt"),
    "think": Verb("denke", "denkt", "denken", "gedacht"),
}
AUXILIARIES = {"haben": ("habe", "hat", "haben"), "sein": ("bin", "ist", "sind"), "werden": ("werde", "wird", "werden"),
               "war": ("war", "war", "waren")}
TIMES = {"now": "jetzt", "today": "heute", "yesterday": "gestern", "tomorrow": "morgen", "every day": "jeden Tag",
         "in the evening": "am Abend", "in the morning": "am Morgen"}
PRONOUNS = {"I": "ich", "we": "wir", "they": "sie"}
# case -> endings for masculine, feminine, neuter, plural
DEFINITE = {"nom": ("der", "die", "das", "die"), "acc": ("den", "die", "das", "die"),
            "dat": ("dem", "der", "dem", "den"), "gen": ("des", "der", "des", "der")}
DIESER = {"nom": ("er", "e", "es", "e"), "acc": ("en", "e", "es", "e"), "dat": ("em", "er", "em", "en")}
EIN = {"nom": ("", "e", "", "e"), "acc": ("en", "e", "", "e"), "dat": ("em", "er", "em", "en")}
WEAK = {"nom": ("e", "e", "e", "en"), "acc": ("en", "e", "e", "en"), "dat": ("en", "en", "en", "en")}
MIXED = {"nom": ("er", "e", "es", "en"), "acc": ("en", "e", "es", "en"), "dat": ("en", "en", "en", "en")}
# fmt: on


def _column(np: NounPhrase) -> int:
    return 3 if np.plural else "mfn".index(NOUNS[np.noun][0])


def _noun(np: NounPhrase, case: str) -> str:
    _, singular, plural, genitive = NOUNS[np.noun]
    if np.plural:
        return plural + "n" if case == "dat" and plural[-1] not in "ns" else plural
    if genitive == "weak" and case != "nom":
        return plural
    return genitive if case == "gen" and genitive != "-" else singular


def _phrase(np: NounPhrase, case: str, negated: bool = False) -> List[str]:
    """`negated`: an indefinite phrase takes kein."""
    column, adjective = _column(np), ""
    if np.determiner in NUMBERS:
        determiner, endings = NUMBERS[np.determiner], DIESER  # strong: no article shows the case
    elif np.determiner == "a":
        stem = "kein" if negated else "" if np.plural else "ein"
        determiner, endings = (stem + EIN[case][column], MIXED) if stem else ("", DIESER)
    elif np.determiner in ("my", "our"):
        stem = {"my": "mein", "our": "unser"}[np.determiner]
        determiner, endings = stem + EIN[case][column], MIXED
    else:
        determiner = "dies" + DIESER[case][column] if np.determiner == "this" else DEFINITE[case][column]
        endings = WEAK
    if np.adjective:
        stem = {"teuer": "teur", "müde": "müd"}.get(ADJECTIVES[np.adjective], ADJECTIVES[np.adjective])
        adjective = stem + endings[case][column]
    owner = [_phrase(NounPhrase(np.owner), "gen")] if np.owner else None
    return flatten(determiner, adjective, _noun(np, case), owner)


def _relative(np: NounPhrase) -> Optional[List[str]]:
    if np.relative is None:
        return None
    clause = np.relative.clause
    if np.relative.role == "subject":
        verb_last = _clause(clause, order="last", person="wir" if np.plural else "er")
        return flatten(",", DEFINITE["nom"][_column(np)], verb_last, ",")
    verb = VERBS[clause.verb]
    pronoun = "denen" if verb.case == "dat" and np.plural else DEFINITE[verb.case][_column(np)]
    return flatten(",", verb.preposition, pronoun, _clause(clause, order="last"), ",")


def _subject(subject: Subject) -> List[str]:
    if isinstance(subject, Pronoun):
        return [PRONOUNS[subject.person]]
    if isinstance(subject, Both):
        return flatten(_phrase(subject.first, "nom"), "und", _phrase(subject.second, "nom"))
    return flatten(_phrase(subject, "nom"), _relative(subject))


def _person(subject: Subject) -> str:
    """ich, er (third singular) or wir (any plural)."""
    if isinstance(subject, Pronoun):
        return "ich" if subject.person == "I" else "wir"
    return "wir" if isinstance(subject, Both) or subject.plural else "er"


def _verb(clause: Clause, person: str) -> Tuple[str, str, str]:
    """The finite verb, the separable particle (of a finite verb) and the verb's last part (participle, infinitive)."""
    index = ("ich", "er", "wir").index(person)
    if clause.verb is None:
        return AUXILIARIES["war" if clause.tense == "past" else "sein"][index], "", ""
    verb = VERBS[clause.verb]
    if clause.tense == "past":
        return AUXILIARIES[verb.auxiliary][index], "", verb.particle + verb.participle
    if clause.tense == "future":
        return AUXILIARIES["werden"][index], "", verb.particle + verb.infinitive
    return (verb.ich, verb.er, verb.infinitive)[index], verb.particle, ""


def _place(np: Optional[NounPhrase], direction: bool) -> Optional[List[str]]:
    if np is None:
        return None
    rest, toward, case = PLACES.get(np.noun, ("in", "in", "acc"))
    words = flatten(toward if direction else rest, _phrase(np, case if direction else "dat"))
    merged = MERGED.get(" ".join(words[:2]))
    return [merged, *words[2:]] if merged else words


def _clause(clause: Clause, order: str = "second", person: Optional[str] = None) -> List[str]:
    """`order`: second (main clause) or last (after a conjunction or relative pronoun); `person`: where the subject is
    the relative pronoun."""
    finite, particle, last = _verb(clause, person or _person(clause.subject))
    subject = _subject(clause.subject) if clause.subject else None
    time = TIMES[clause.time] if clause.time else None
    recipient = _phrase(clause.recipient, "dat") if clause.recipient else None
    thing = late = relative = nicht = None
    if clause.object:
        verb = VERBS[clause.verb]
        thing = flatten(verb.preposition, _phrase(clause.object, verb.case, clause.negated))
        relative = _relative(clause.object)
        if verb.preposition:
            thing, late = None, thing  # "nicht" stands before a prepositional object
    if clause.negated and not (clause.object and clause.object.determiner == "a"):
        nicht = "nicht"
    things = [recipient, thing]
    middle = things if clause.time_first else [things, time] if nicht else [time, things]
    tail = flatten(
        nicht,
        late,
        ["mit", _phrase(clause.companion, "dat")] if clause.companion else None,
        _place(clause.place, False),
        _place(clause.goal, True),
        ADJECTIVES[clause.adjective] if clause.adjective else None,
    )
    if order == "last":
        return flatten(subject, middle, tail, particle + finite if particle else [last, finite], relative)
    front = [finite, subject] if clause.time_first or clause.question else [subject, finite]
    return flatten(time if clause.time_first else None, front, middle, tail, particle, last, relative)


def write(sentence: Sentence) -> str:
    """The sentence in German."""
    words = _clause(sentence.main)
    if sentence.second is not None:
        joint = {"because": "weil", "that": "dass", "but": "aber"}[sentence.link]
        words += flatten(",", joint, _clause(sentence.second, "second" if sentence.link == "but" else "last"))
    return line(words, "?" if sentence.main.question else ".")

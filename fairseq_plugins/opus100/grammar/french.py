"""French: two genders, adjectives on both sides of the noun, elision and contraction, the agreement of participles."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from .meaning import Both, Clause, NounPhrase, Pronoun, Sentence, Subject
from .text import flatten, line

# fmt: off

# noun -> gender, singular, plural ("": regular -s)
NOUNS: Dict[str, Tuple[str, str, str]] = {
    "woman": ("f", "femme", ""), "man": ("m", "homme", ""), "girl": ("f", "fille", ""), "boy": ("m", "garçon", ""),
    "child": ("m", "enfant", ""), "teacher": ("m", "professeur", ""), "doctor": ("m", "médecin", ""),
    "pupil": ("m", "élève", ""), "farmer": ("m", "fermier", ""),
    "king": ("m", "roi", ""), "queen": ("f", "reine", ""), "neighbour": ("m", "voisin", ""),
    "friend": ("m", "ami", ""),
    "soldier": ("m", "soldat", ""),
    "mother": ("f", "mère", ""), "father": ("m", "père", ""), "grandmother": ("f", "grand-mère", "grands-mères"),
    "grandfather": ("m", "grand-père", "grands-pères"), "dog": ("m", "chien", ""), "cat": ("m", "chat", ""),
    "horse": ("m", "cheval", "chevaux"), "bird": ("m", "oiseau", "oiseaux"),
    "book": ("m", "livre", ""), "letter": ("f", "lettre", ""), "newspaper": ("m", "journal", "journaux"),
    "poem": ("m", "poème", ""), "apple": ("f", "pomme", ""), "bread": ("m", "pain", ""),
    "cheese": ("m", "fromage", ""),
    "tea": ("m", "thé", ""), "milk": ("m", "lait", ""), "coffee": ("m", "café", ""),
    "picture": ("m", "tableau", "tableaux"), "car": ("f", "voiture", ""), "table": ("f", "table", ""),
    "key": ("f", "clé", ""), "flower": ("f", "fleur", ""),
    "hat": ("m", "chapeau", "chapeaux"), "bag": ("m", "sac", ""), "bicycle": ("m", "vélo", ""),
    "house": ("f", "maison", ""), "ship": ("m", "bateau", "bateaux"), "bridge": ("m", "pont", ""),
    "window": ("f", "fenêtre", ""), "door": ("f", "porte", ""), "garden": ("m", "jardin", ""),
    "kitchen": ("f", "cuisine", ""), "school": ("f", "école", ""), "city": ("f", "ville", ""),
    "village": ("m", "village", ""), "market": ("m", "marché", ""), "park": ("m", "parc", ""),
    "forest": ("f", "forêt", ""), "street": ("f", "rue", ""),
    "station": ("f", "gare", ""), "beach": ("f", "plage", ""),
}
# noun -> preposition of rest and of direction; the others: dans, dans
PLACES: Dict[str, Tuple[str, str]] = {
    "school": ("à", "à"), "market": ("à", "à"), "park": ("dans", "à"),
    "station": ("à", "à"), "beach": ("sur", "à"), "village": ("dans", "à"),
}
# adjective -> masculine, feminine, masculine plural, feminine plural ("": add e, s, es), before the noun?
ADJECTIVES: Dict[str, Tuple[str, str, str, str, bool]] = {
    "small": ("petit", "", "", "", True), "big": ("grand", "", "", "", True),
    "old": ("vieux", "vieille", "vieux", "vieilles", True),
    "new": ("nouveau", "nouvelle", "nouveaux", "nouvelles", True),
    "young": ("jeune", "jeune", "jeunes", "jeunes", True), "beautiful": ("beau", "belle", "beaux", "belles", True),
    "good": ("bon", "bonne", "bons", "bonnes", True), "clever": ("intelligent", "", "", "", False),
    "rich": ("riche", "riche", "riches", "riches", False),
    "famous": ("célèbre", "célèbre", "célèbres", "célèbres", False),
    "happy": ("heureux", "heureuse", "heureux", "heureuses", False), "tired": ("fatigué", "", "", "", False),
    "red": ("rouge", "rouge", "rouges", "rouges", False),
    "white": ("blanc", "blanche", "blancs", "blanches", False), "black": ("noir", "", "", "", False),
    "green": ("vert", "", "", "", False), "blue": ("bleu", "", "", "", False),
    "expensive": ("cher", "chère", "chers", "chères", False),
    "long": ("long", "longue", "longs", "longues", True),
}
BEFORE_VOWEL = {"vieux": "vieil", "nouveau": "nouvel", "beau": "bel"}  # masculine singular
NUMBERS = {"two": "deux", "three": "trois", "four": "quatre", "five": "cinq"}


class Verb(NamedTuple):
    """Present for je, il, nous, ils; participle; stem of the future; `etre`: the auxiliary of the past is être."""
    present: Tuple[str, str, str, str]
    participle: str
    future: str
    etre: bool = False


def _er(stem: str, nous: str = "", etre: bool = False) -> Verb:
    """A verb of the first group; `nous`: the stem before -ons where spelling changes it."""
    return Verb((stem + "e", stem + "e", (nous or stem) + "ons", stem + "ent"), stem + "é", stem + "er", etre)


VERBS: Dict[str, Verb] = {
    "read": Verb(("lis", "lit", "lisons", "lisent"), "lu", "lir"),
    "see": Verb(("vois", "voit", "voyons", "voient"), "vu", "verr"), "look for": _er("cherch"), "find": _er("trouv"),
    "buy": Verb(("achète", "achète", "achetons", "achètent"), "acheté", "achèter"),
    "bring": _er("apport"),
    "give": _er("donn"),
    "show": _er("montr"), "eat": _er("mang", nous="mange"),
    "drink": Verb(("bois", "boit", "buvons", "boivent"), "bu", "boir"), "love": _er("aim"), "help": _er("aid"),
    "wait for": Verb(("attends", "attend", "attendons", "attendent"), "attendu", "attendr"),
    "listen to": _er("écout"),
    "thank": _er("remerci"), "open": Verb(("ouvre", "ouvre", "ouvrons", "ouvrent"), "ouvert", "ouvrir"),
    "close": _er("ferm"),
    "lose": Verb(("perds", "perd", "perdons", "perdent"), "perdu", "perdr"), "draw": _er("dessin"),
    "write": Verb(("écris", "écrit", "écrivons", "écrivent"), "écrit", "écrir"),
    "build": Verb(("construis", "construit", "construisons", "construisent"), "construit", "construir"),
    "sleep": Verb(("dors", "dort", "dormons", "dorment"), "dormi", "dormir"), "work": _er("travaill"),
    "play": _er("jou"),
    "sing": _er("chant"), "laugh": Verb(("ris", "rit", "rions", "rient"), "ri", "rir"), "dance": _er("dans"),
    "go": Verb(("vais", "va", "allons", "vont"), "allé", "ir", True),
    "come": Verb(("viens", "vient", "venons", "viennent"), "venu", "viendr", True),
    "return": _er("retourn", etre=True),
    "know": Verb(("sais", "sait", "savons", "savent"), "su", "saur"),
    "say": Verb(("dis", "dit", "disons", "disent"), "dit", "dir"), "think": _er("pens"),
}
AVOIR, ETRE = ("ai", "a", "avons", "ont"), ("suis", "est", "sommes", "sont")
ETAIT, FUTURE = ("étais", "était", "étions", "étaient"), ("ai", "a", "ons", "ont")
TIMES = {"now": "maintenant", "today": "aujourd'hui", "yesterday": "hier", "tomorrow": "demain",
         "every day": "tous les jours", "in the evening": "le soir", "in the morning": "le matin"}
PRONOUNS = {"I": "je", "we": "nous", "they": "ils"}
# determiner -> masculine, feminine, plural
DETERMINERS = {"the": ("le", "la", "les"), "a": ("un", "une", "des"), "this": ("ce", "cette", "ces"),
               "my": ("mon", "ma", "mes"), "our": ("notre", "notre", "nos")}
VOWELS = "aeiouhéèêàâôîœ"  # every h of this lexicon is mute
ELIDED = frozenset(("le", "la", "de", "ne", "que", "je"))
CONTRACTED = {"à le": "au", "à les": "aux", "de le": "du", "de les": "des"}
# fmt: on


def _agree(adjective: str, feminine: bool, plural: bool) -> str:
    forms = ADJECTIVES[adjective]
    return forms[feminine + 2 * plural] or forms[0] + "e" * feminine + "s" * plural


def _phrase(np: NounPhrase, negated: bool = False) -> List[str]:
    """`negated`: an indefinite object takes de."""
    gender, singular, plural = NOUNS[np.noun]
    feminine = gender == "f"
    noun = (plural or singular + "s") if np.plural else singular
    before, after = "", ""
    if np.adjective:
        form = _agree(np.adjective, feminine, np.plural)
        if ADJECTIVES[np.adjective][4]:
            vowel = noun[0] in VOWELS and not (feminine or np.plural)
            before = BEFORE_VOWEL.get(form, form) if vowel else form
        else:
            after = form
    following = before or noun
    if np.determiner in NUMBERS:
        determiner = NUMBERS[np.determiner]
    else:
        determiner = DETERMINERS[np.determiner][2 if np.plural else int(feminine)]
    if np.determiner == "a" and (negated or np.plural and before):
        determiner = "de"
    elif determiner == "ce" and following[0] in VOWELS:
        determiner = "cet"
    elif determiner == "ma" and following[0] in VOWELS:
        determiner = "mon"
    owner = ["de", _phrase(NounPhrase(np.owner))] if np.owner else None
    return flatten(determiner, before, noun, after, owner, _relative(np))


def _relative(np: NounPhrase) -> Optional[List[str]]:
    if np.relative is None:
        return None
    if np.relative.role == "subject":
        return flatten("qui", _clause(np.relative.clause, head=np))
    return flatten("que", _clause(np.relative.clause, moved=np))


def _agreement(subject: Subject) -> Tuple[int, bool, bool]:
    """Index into je/il/nous/ils, feminine?, plural?"""
    if isinstance(subject, Pronoun):
        return {"I": 0, "we": 2, "they": 3}[subject.person], False, subject.person != "I"
    if isinstance(subject, Both):
        return 3, NOUNS[subject.first.noun][0] == NOUNS[subject.second.noun][0] == "f", True
    return 3 if subject.plural else 1, NOUNS[subject.noun][0] == "f", subject.plural


def _clause(clause: Clause, head: Optional[NounPhrase] = None, moved: Optional[NounPhrase] = None) -> List[str]:
    """`head`: the subject where the clause has none; `moved`: the object that stands before it (que)."""
    index, feminine, plural = _agreement(clause.subject or head)
    participle = ""
    if clause.verb is None:
        finite, participle = (ETAIT if clause.tense == "past" else ETRE)[index], ""
    else:
        verb = VERBS[clause.verb]
        finite = verb.present[index] if clause.tense == "present" else verb.future + FUTURE[index]
        if clause.tense == "past":
            finite, participle = (ETRE if verb.etre else AVOIR)[index], verb.participle
            if verb.etre:
                participle += "e" * feminine + "s" * plural
            elif moved:
                participle += "e" * (NOUNS[moved.noun][0] == "f") + "s" * moved.plural
    subject: List[str] = []
    if isinstance(clause.subject, Pronoun):
        subject = [PRONOUNS[clause.subject.person]]
    elif isinstance(clause.subject, Both):
        subject = flatten(_phrase(clause.subject.first), "et", _phrase(clause.subject.second))
    elif clause.subject:
        subject = _phrase(clause.subject)
    time = TIMES[clause.time] if clause.time else None
    place = clause.place or clause.goal
    preposition = PLACES.get(place.noun, ("dans", "dans")) if place else ("", "")
    return flatten(
        [time, ","] if clause.time_first else None,
        "est-ce que" if clause.question else None,
        subject,
        "ne" if clause.negated else None,
        finite,
        "pas" if clause.negated else None,
        participle,
        _agree(clause.adjective, feminine, plural) if clause.adjective else None,
        _phrase(clause.object, clause.negated) if clause.object else None,
        ["à", _phrase(clause.recipient)] if clause.recipient else None,
        [preposition[int(clause.goal is not None)], _phrase(place)] if place else None,
        ["avec", _phrase(clause.companion)] if clause.companion else None,
        None if clause.time_first else time,
    )


def _spell(words: List[str]) -> List[str]:
    """Elision (le arbre -> l'arbre) and contraction (à le -> au)."""
    out: List[str] = []
    for word, following in zip(words, [*words[1:], "."], strict=True):
        if out and out[-1].endswith("'"):
            out[-1] += word
            continue
        elided = word in ELIDED and following[0] in VOWELS
        merged = None if elided else CONTRACTED.get(f"{out[-1]} {word}") if out else None
        if merged:
            out[-1] = merged
        else:
            out.append(word[:-1] + "'" if elided else word)
    return out


def write(sentence: Sentence) -> str:
    """The sentence in French."""
    words = _clause(sentence.main)
    if sentence.second is not None:
        joint = {"because": "parce que", "that": "que", "but": ", mais"}[sentence.link]
        words += flatten(joint, _clause(sentence.second))
    return line(_spell(words), " ?" if sentence.main.question else ".")

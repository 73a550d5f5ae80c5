"""The Russian lexicon: declined nouns, adjective stems, conjugated verbs."""

from typing import Dict, NamedTuple, Tuple

# fmt: off

CASES = ("nom", "gen", "dat", "acc", "ins", "prep")


class Noun(NamedTuple):
    """`singular`, `plural`: the six cases in the order of `CASES`."""
    gender: str
    animate: bool
    singular: Tuple[str, ...]
    plural: Tuple[str, ...]


# declension -> endings of the singular and the plural; "*" is the genitive plural, "=" the accusative by animacy
_ENDINGS: Dict[str, Tuple[str, str]] = {
    "m": ("- а у = ом е", "ы * ам = ами ах"),     # стол
    "mь": ("ь я ю = ем е", "и * ям = ями ях"),    # учитель
    "f": ("а ы е у ой е", "ы * ам = ами ах"),     # женщина
    "fя": ("я и е ю ей е", "и * ям = ями ях"),    # кухня
    "fь": ("ь и и ь ью и", "и * ям = ями ях"),    # дверь
    "n": ("о а у о ом е", "а * ам = ами ах"),     # окно
}


def _decline(stem: str, endings: str, genitive_plural: str, animate: bool) -> Tuple[str, ...]:
    forms = []
    for ending in endings.split():
        if ending == "ы" and stem[-1] in "гкхжшщч":
            ending = "и"
        forms.append(genitive_plural if ending == "*" else stem if ending == "-" else ending if ending == "="
                     else stem + ending)
    if forms[3] == "=":
        forms[3] = forms[1] if animate else forms[0]
    return tuple(forms)


def _noun(declension: str, stem: str, genitive_plural: str, animate: bool = False, gender: str = "",
          nominative: str = "", instrumental: str = "", locative: str = "", singular: str = "", plural: str = "",
          plural_stem: str = "", plural_ending: str = "") -> Noun:
    """A regular noun and its exceptions: single forms, another stem or nominative ending of the plural, or a whole
    number written out."""
    one, many = _ENDINGS[declension]
    forms = list(singular.split() or _decline(stem, one, "", animate))
    if nominative:  # a fleeting vowel: рынок, рынка
        forms[0] = nominative
        forms[3] = forms[1] if animate else nominative
    forms[4] = instrumental or forms[4]
    forms[5] = locative or forms[5]
    if plural_ending:
        many = plural_ending + many[1:]
    plurals = tuple(plural.split()) or _decline(plural_stem or stem, many, genitive_plural, animate)
    return Noun(gender or declension[0], animate, tuple(forms), plurals)


NOUNS: Dict[str, Noun] = {
    "woman": _noun("f", "женщин", "женщин", True), "man": _noun("f", "мужчин", "мужчин", True, "m"),
    "girl": _noun("f", "девочк", "девочек", True), "boy": _noun("m", "мальчик", "мальчиков", True),
    "child": _noun("m", "ребёнк", "", True, nominative="ребёнок", plural="дети детей детям детей детьми детях"),
    "teacher": _noun("mь", "учител", "учителей", True, plural_ending="я"),
    "doctor": _noun("m", "врач", "врачей", True),
    "pupil": _noun("m", "ученик", "учеников", True), "farmer": _noun("m", "фермер", "фермеров", True),
    "king": _noun("mь", "корол", "королей", True, instrumental="королём"),
    "queen": _noun("f", "королев", "королев", True),
    "neighbour": _noun("m", "сосед", "", True, plural="соседи соседей соседям соседей соседями соседях"),
    "friend": _noun("m", "друг", "", True, plural="друзья друзей друзьям друзей друзьями друзьях"),
    "soldier": _noun("m", "солдат", "солдат", True),
    "mother": _noun("fь", "матер", "матерей", True, singular="мать матери матери мать матерью матери"),
    "father": _noun("m", "отц", "отцов", True, nominative="отец"),
    "grandmother": _noun("f", "бабушк", "бабушек", True), "grandfather": _noun("f", "дедушк", "дедушек", True, "m"),
    "dog": _noun("f", "собак", "собак", True), "cat": _noun("f", "кошк", "кошек", True),
    "horse": _noun("fь", "лошад", "лошадей", True),
    "bird": _noun("f", "птиц", "птиц", True, instrumental="птицей"),
    "book": _noun("f", "книг", "книг"), "letter": _noun("n", "письм", "писем"),
    "newspaper": _noun("f", "газет", "газет"),
    "poem": _noun("n", "", "", singular="стихотворение стихотворения стихотворению стихотворение стихотворением "
                  "стихотворении", plural="стихотворения стихотворений стихотворениям стихотворения стихотворениями "
                  "стихотворениях"),
    "apple": _noun("n", "яблок", "яблок", plural_ending="и"), "bread": _noun("m", "хлеб", "хлебов"),
    "cheese": _noun("m", "сыр", "сыров"),
    "tea": _noun("m", "", "", singular="чай чая чаю чай чаем чае", plural="чаи чаёв чаям чаи чаями чаях"),
    "milk": _noun("n", "молок", ""), "coffee": _noun("m", "", "", singular="кофе " * 6, plural="кофе " * 6),
    "picture": _noun("f", "картин", "картин"), "car": _noun("f", "машин", "машин"),
    "table": _noun("m", "стол", "столов"),
    "key": _noun("m", "ключ", "ключей"),
    "flower": _noun("m", "цветк", "цветов", nominative="цветок", plural_stem="цвет"),
    "hat": _noun("f", "шляп", "шляп"), "bag": _noun("f", "сумк", "сумок"),
    "bicycle": _noun("m", "велосипед", "велосипедов"), "house": _noun("m", "дом", "домов", plural_ending="а"),
    "ship": _noun("mь", "корабл", "кораблей", instrumental="кораблём"), "bridge": _noun("m", "мост", "мостов"),
    "window": _noun("n", "окн", "окон"), "door": _noun("fь", "двер", "дверей"),
    "garden": _noun("m", "сад", "садов", locative="саду"), "kitchen": _noun("fя", "кухн", "кухонь"),
    "school": _noun("f", "школ", "школ"), "city": _noun("m", "город", "городов", plural_ending="а"),
    "village": _noun("fя", "деревн", "деревень"), "market": _noun("m", "рынк", "рынков", nominative="рынок"),
    "park": _noun("m", "парк", "парков"), "forest": _noun("m", "лес", "лесов", locative="лесу", plural_ending="а"),
    "street": _noun("f", "улиц", "улиц", instrumental="улицей"),
    "station": _noun("m", "вокзал", "вокзалов"),
    "beach": _noun("m", "пляж", "пляжей", instrumental="пляжем"),
}
# adjective -> masculine nominative; the ending tells the declension (see russian.adjective)
ADJECTIVES: Dict[str, str] = {
    "small": "маленький", "big": "большой", "old": "старый", "new": "новый", "young": "молодой",
    "beautiful": "красивый", "good": "хороший", "clever": "умный", "rich": "богатый", "famous": "известный",
    "happy": "счастливый", "tired": "усталый", "red": "красный", "white": "белый",
    "black": "чёрный",
    "green": "зелёный", "blue": "синий", "expensive": "дорогой", "long": "длинный",
}


class Verb(NamedTuple):
    """Present and future of я, он, мы, они, and the past of он; a future of one word is the infinitive after буду."""
    present: Tuple[str, ...]
    future: Tuple[str, ...]
    past: str
    past_stem: str  # the other genders add а, о, и
    case: str = "acc"


def _endings(stem: str, kind: str) -> Tuple[str, ...]:
    endings = {"а": "ю ет ем ют", "и": "ю ит им ят", "ё": "у ёт ём ут", "е": "у ет ем ут"}[kind]
    return tuple(stem + ending for ending in endings.split())


def _verb(present: str, future: str, past: str, past_stem: str = "", case: str = "acc") -> Verb:
    """`present`, `future`: "stem+kind" (see `_endings`), the four forms, or one infinitive (future only)."""
    def forms(text: str) -> Tuple[str, ...]:
        return _endings(*text.split("+")) if "+" in text else tuple(text.split())

    return Verb(forms(present), forms(future), past, past_stem or past, case)


VERBS: Dict[str, Verb] = {
    "read": _verb("чита+а", "прочита+а", "прочитал"),
    "see": _verb("вижу видит видим видят", "увижу увидит увидим увидят", "увидел"),
    "look for": _verb("ищу ищет ищем ищут", "искать", "искал"),
    "find": _verb("нахожу находит находим находят", "найд+ё", "нашёл", "нашл"),
    "buy": _verb("покупа+а", "куплю купит купим купят", "купил"),
    "bring": _verb("приношу приносит приносим приносят", "принес+ё", "принёс", "принесл"),
    "give": _verb("даю даёт даём дают", "дам даст дадим дадут", "дал"),
    "show": _verb("показыва+а", "покажу покажет покажем покажут", "показал"),
    "eat": _verb("ем ест едим едят", "съем съест съедим съедят", "съел"),
    "drink": _verb("пью пьёт пьём пьют", "выпью выпьет выпьем выпьют", "выпил"),
    "love": _verb("люблю любит любим любят", "любить", "любил"),
    "help": _verb("помога+а", "помогу поможет поможем помогут", "помог", "помогл", "dat"),
    "wait for": _verb("жд+ё", "ждать", "ждал"), "listen to": _verb("слуша+а", "слушать", "слушал"),
    "thank": _verb("благодар+и", "поблагодар+и", "поблагодарил"), "open": _verb("открыва+а", "откро+а", "открыл"),
    "close": _verb("закрыва+а", "закро+а", "закрыл"),
    "lose": _verb("теря+а", "потеря+а", "потерял"),
    "draw": _verb("рису+а", "нарису+а", "нарисовал"),
    "write": _verb("пишу пишет пишем пишут", "напишу напишет напишем напишут", "написал"),
    "build": _verb("стро+и", "постро+и", "построил"), "sleep": _verb("сплю спит спим спят", "спать", "спал"),
    "work": _verb("работа+а", "работать", "работал"), "play": _verb("игра+а", "играть", "играл"),
    "sing": _verb("пою поёт поём поют", "петь", "пел"),
    "laugh": _verb("смеюсь смеётся смеёмся смеются", "смеяться", "смеялся"),
    "dance": _verb("танцу+а", "танцевать", "танцевал"),
    "go": _verb("ид+ё", "пойд+ё", "пошёл", "пошл"),
    "come": _verb("прихожу приходит приходим приходят", "прид+ё", "пришёл", "пришл"),
    "return": _verb("возвращаюсь возвращается возвращаемся возвращаются",
                    "вернусь вернётся вернёмся вернутся", "вернулся"),
    "know": _verb("зна+а", "знать", "знал"), "say": _verb("говор+и", "говорить", "говорил"),
    "think": _verb("дума+а", "думать", "думал"),
}

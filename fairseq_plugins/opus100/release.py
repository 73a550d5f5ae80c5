"""What the release of OPUS-100 (v1.0) holds: pairs with test sets, their sizes, and the groups of Zhang et al. (2020).

Counts are those of the data card; together they give the 54,627,120 train pairs and 185,537 test pairs of the release.
"""

from fairseq_plugins.opus100.corpus import SUPERVISED, ZERO_SHOT

PIVOT = "en"
BLEU4 = ("de", "zh", "br", "te")  # the languages that the paper trained bilingual models for
ZERO_SHOT_LANGUAGES = ("ar", "de", "fr", "nl", "ru", "zh")

# The 94 languages whose pair with English has dev and test; an, dz, hy, mn and yo have train alone.
LANGUAGES = (
    "af am ar as az be bg bn br bs ca cs cy da de el eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu id ig is it ja "
    "ka kk km kn ko ku ky li lt lv mg mk ml mr ms mt my nb ne nl nn no oc or pa pl ps pt ro ru rw se sh si sk sl sq sr "
    "sv ta te tg th tk tr tt ug uk ur uz vi wa xh yi zh zu"
).split()
_BELOW_A_MILLION = {
    "si": 979_109, "ml": 822_746, "ur": 753_913, "mg": 590_771, "hi": 534_319, "gl": 515_344, "nn": 486_055,
    "xh": 439_671, "ne": 406_381, "ka": 377_306, "eo": 337_106, "gu": 318_306, "ga": 289_524, "cy": 289_521,
    "af": 275_512, "sh": 267_211, "az": 262_089, "ta": 227_014, "tg": 193_882, "rw": 173_823, "uz": 173_157,
    "br": 153_447, "ku": 144_844, "nb": 142_906, "as": 138_479, "km": 111_483, "pa": 107_296, "wa": 104_496,
    "tt": 100_843, "ha": 97_983, "am": 89_027, "kk": 79_927, "ps": 79_127, "ug": 72_170, "be": 67_312, "te": 64_352,
    "fy": 54_342, "zu": 38_616, "se": 35_907, "oc": 35_791, "ky": 27_215, "mr": 27_007, "li": 25_535, "my": 24_594,
    "ig": 18_415, "gd": 16_316, "yi": 15_010, "kn": 14_537, "or": 14_273, "tk": 13_110,
}  # fmt: skip
_TEST_BELOW_2000 = {"gd": 1_606, "ig": 1_843, "kn": 918, "or": 1_318, "tk": 1_852}

TRAIN_LINES = {language: _BELOW_A_MILLION.get(language, 1_000_000) for language in LANGUAGES}
TEST_LINES = {language: _TEST_BELOW_2000.get(language, 2_000) for language in LANGUAGES}

# every direction with a test set -> its kind and its test lines: 188 supervised ones, 30 zero-shot ones
DIRECTIONS = {
    direction: SUPERVISED
    for language in LANGUAGES
    for direction in (f"{PIVOT}-{language}", f"{language}-{PIVOT}")
} | {f"{a}-{b}": ZERO_SHOT for a in ZERO_SHOT_LANGUAGES for b in ZERO_SHOT_LANGUAGES if a != b}  # fmt: skip


def train_lines(direction: str) -> int:
    """Of a direction of ``DIRECTIONS``; 0 for zero-shot ones."""
    return TRAIN_LINES[_partner(direction)] if DIRECTIONS[direction] == SUPERVISED else 0


def is_released_test(direction: str, lines: int) -> bool:
    """Whether a test set of so many lines can be the release's: another corpus in the same layout has other numbers."""
    kind = DIRECTIONS.get(direction)
    return kind is not None and lines == (TEST_LINES[_partner(direction)] if kind == SUPERVISED else 2_000)


def _partner(direction: str) -> str:
    """The language beside English."""
    source, target = direction.split("-")
    return source if target == PIVOT else target

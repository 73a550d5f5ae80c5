"""Which writing system a line is in, for whole chunks of lines at once."""

from typing import List

import numpy as np

# Letters only, first and last code point. Japanese mixes three scripts in one line and Chinese characters stand in
# Korean lines, so Chinese characters and kana count as one.
_RANGES = {
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF5A)],
    "Greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "Cyrillic": [(0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)],
    "Armenian": [(0x530, 0x58F)],
    "Hebrew": [(0x590, 0x5FF), (0xFB1D, 0xFB4F)],
    "Arabic": [(0x600, 0x65F), (0x66E, 0x6EF), (0x6FA, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF),
               (0xFE70, 0xFEFF)],
    "Thaana": [(0x780, 0x7BF)],
    "Devanagari": [(0x900, 0x963), (0x970, 0x97F)],
    "Bengali": [(0x980, 0x9E5), (0x9F0, 0x9FF)],
    "Gurmukhi": [(0xA00, 0xA65), (0xA70, 0xA7F)],
    "Gujarati": [(0xA80, 0xAE5), (0xAF0, 0xAFF)],
    "Oriya": [(0xB00, 0xB65), (0xB70, 0xB7F)],
    "Tamil": [(0xB80, 0xBE5)],
    "Telugu": [(0xC00, 0xC65)],
    "Kannada": [(0xC80, 0xCE5)],
    "Malayalam": [(0xD00, 0xD65), (0xD7A, 0xD7F)],
    "Sinhala": [(0xD80, 0xDE5)],
    "Thai": [(0xE00, 0xE4F)],
    "Lao": [(0xE80, 0xECF), (0xEDC, 0xEDF)],
    "Tibetan": [(0xF00, 0xF1F), (0xF40, 0xFFF)],
    "Myanmar": [(0x1000, 0x103F), (0x1050, 0x108F), (0xAA60, 0xAA7F)],
    "Georgian": [(0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)],
    "Hangul": [(0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)],
    "Ethiopic": [(0x1200, 0x137F), (0x1380, 0x139F), (0x2D80, 0x2DDF)],
    "Khmer": [(0x1780, 0x17DF)],
    "Mongolian": [(0x1820, 0x18AF)],
    "Tifinagh": [(0x2D30, 0x2D7F)],
    "Chinese or Japanese": [(0x3005, 0x3007), (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
                            (0xF900, 0xFAFF), (0x20000, 0x3134F)],
}  # fmt: skip
NAMES = ["none", *_RANGES]  # row 0: a line without letters

_script_of = np.zeros(0x110000, dtype=np.uint8)
for _number, _ranges in enumerate(_RANGES.values(), 1):
    for _first, _last in _ranges:
        _script_of[_first : _last + 1] = _number


def dominant_scripts(lines: List[str]) -> np.ndarray:
    """For each line the index into NAMES of the script that most of its letters are in, 0 if it has none."""
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    codes = np.frombuffer("".join(lines).encode("utf-32-le"), np.uint32)
    line_of = np.repeat(np.arange(len(lines)), lengths)
    counts = np.bincount(line_of * len(NAMES) + _script_of[codes], minlength=len(lines) * len(NAMES))
    counts = counts.reshape(len(lines), len(NAMES))
    counts[:, 0] = 0  # white space, digits, punctuation: argmax then says 0 only where there is no letter at all
    return counts.argmax(1)

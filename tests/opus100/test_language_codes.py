"""Codes of corpora as the codes that tools know."""

import pytest

from fairseq_plugins.opus100.language_codes import _CODES, _SHORT, short_code
from fairseq_plugins.opus100.release import LANGUAGES


@pytest.mark.parametrize(
    "code, short",
    [("deu", "de"), ("cmn", "zh"), ("zho", "zh"), ("zh_TW", "zh"), ("nob", "nb"), ("de", "de"), ("ceb", "ceb"),
     ("bod", "bo")],
)  # fmt: skip
def test_short_codes(code, short):
    assert short_code(code) == short


def test_the_table_is_one():
    """No code stands for two languages, and every language of OPUS-100 has one."""
    assert all(len(code) == 3 and code.isalpha() and len(short) == 2 for code, short in _SHORT.items())
    written = [word for word in _CODES.replace(",", " ").split() if len(word) == 3]
    assert len(written) == len(_SHORT) and set(LANGUAGES) <= set(_SHORT.values())

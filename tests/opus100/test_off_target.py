"""Off-target shares by script and by py3langid; py3langid is one of the package's test extras."""

import socket

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100 import off_target as module
from fairseq_plugins.opus100.off_target import choose_identifier, off_target

GERMAN = ["Das ist ein schöner Tag und die Sonne scheint.", "Ich habe gestern ein Buch gelesen.",
          "Wir gehen heute nicht in die Schule.", "Wo ist der Bahnhof, bitte?"]  # fmt: skip
ENGLISH = ["This is a beautiful day and the sun is shining.", "I read a book yesterday.",
           "We are not going to school today.", "Where is the station, please?"]  # fmt: skip
RUSSIAN = ["Сегодня прекрасный день и светит солнце.", "Вчера я прочитал книгу.", "Мы не идём в школу.", "Где вокзал?"]
CROATIAN = ["Danas je lijep dan i sunce sja nad gradom.", "Jučer sam pročitao jednu knjigu.",
            "Danas ne idemo u školu.", "Gdje je kolodvor, molim vas?"]  # fmt: skip


@pytest.mark.parametrize(
    "hypotheses, references, expected",
    [
        (RUSSIAN, RUSSIAN, (0, 0)),
        (ENGLISH[:1] + RUSSIAN[1:], RUSSIAN, (25, 0)),
        (["123 !", "", ENGLISH[0], RUSSIAN[0]], RUSSIAN, (50, 0)),  # lines without letters do not count
        (["12", "", "?", "-"], RUSSIAN, (None, 0)),
        (ENGLISH, GERMAN, (0, 0)),  # what script cannot see
        (["да", "da", "да", "да"], ["da", "да", "да", "да"], (0, 0)),  # written both ways, as Serbian is
        (["δα"] * 20, ["да"] * 19 + ["δα"], (100, 5)),  # one Greek reference of 20 is an accident
    ],
)
def test_by_script(hypotheses, references, expected):
    found = off_target(hypotheses, references, "xx", ["xx", "en"], "script")
    assert (found.hypotheses, found.references, found.identifier) == (*expected, "script")


def test_langid_tells_languages_of_one_script_apart():
    found = off_target([*GERMAN[:3], ENGLISH[3]], GERMAN, "de", ["de", "en", "fr"], "langid")
    assert found == (25, 0, "langid")
    assert off_target(ENGLISH, ENGLISH, "en", ["de", "en", "fr"], "langid") == (0, 0, "langid")


def test_three_letter_codes():
    assert off_target(ENGLISH, GERMAN, "deu", ["deu", "eng"], "langid") == (100, 0, "langid")


def test_members_of_a_macrolanguage_are_not_off_target():
    """py3langid knows no Serbo-Croatian; Croatian in its place is right, English is not."""
    assert off_target(CROATIAN, CROATIAN, "sh", ["sh", "en"], "langid") == (0, 0, "langid")
    assert off_target(ENGLISH, CROATIAN, "sh", ["sh", "en"], "langid") == (100, 0, "langid")


@pytest.mark.parametrize("target, languages", [("yi", ["yi", "en", "de"]), ("en", ["en", "yi"])])
def test_script_where_langid_can_say_nothing(target, languages):
    """Of a language that it does not know, and where it knows one language alone."""
    assert off_target(RUSSIAN, ENGLISH, target, languages, "langid") == (100, 0, "script")


def test_the_model_comes_without_the_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    module._langid.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert off_target(GERMAN, GERMAN, "de", ["de", "nl"], "langid").hypotheses == 0


def test_without_py3langid_script_is_used(monkeypatch):
    assert choose_identifier(None) == choose_identifier("langid") == "langid"
    assert choose_identifier("script") == "script" and module.describe("langid").startswith("py3langid 0.")
    for version in ("0.3.0", None):
        def old(_, version=version):
            if version is None:
                raise module.PackageNotFoundError
            return version

        monkeypatch.setattr(module, "version", old)
        assert choose_identifier(None) == "script" and "pip install 'py3langid>=0.4'" in module.describe("script")
        with pytest.raises(UserError, match="--identifier langid needs a Python package: pip install"):
            choose_identifier("langid")

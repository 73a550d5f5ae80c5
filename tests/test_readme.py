"""The commands in README.md and the other documents are ones that the verbs accept."""

import pytest

from tests.helpers import REPOSITORY
from tests.verb_parsers import calls_in, parse_verb

DOCUMENTS = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "examples").glob("*/*.md")]
CALLS = [
    pytest.param(words, id=f"{path.relative_to(REPOSITORY)}-{words[2]}")
    for path in sorted(DOCUMENTS)
    for words in calls_in(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("words", CALLS)
def test_a_documented_command_is_accepted(words):
    parse_verb(words)


def test_the_readme_shows_the_whole_road():
    verbs = [words[2] for words in calls_in((REPOSITORY / "README.md").read_text(encoding="utf-8"))]
    road = ["download", "audit", "prepare", "train", "evaluate", "report"]
    assert [verb for verb in verbs if verb in road] == road


@pytest.mark.parametrize("words", ["audit", "prepare --corpus C --no-such-flag", "translate"])
def test_a_wrong_command_is_noticed(words):
    with pytest.raises(AssertionError):
        parse_verb(["-m", "fairseq_plugins.opus100", *words.split()])

"""The scripts under examples/ lead to the commands that their READMEs describe."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, environment

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus of a few lines."""
    folder = tmp_path_factory.mktemp("corpus")
    verb = [sys.executable, "-m", "fairseq_plugins.opus100"]
    for words in (
        ["sample", folder, "--train-lines", "200", "--dev-lines", "10", "--test-lines", "10"],
        ["prepare", "--corpus", folder, "--data", folder / "data", "--vocab-size", "300", "--workers", "1"],
    ):
        subprocess.run([*verb, *words], check=True, env=environment(), capture_output=True)
    return folder / "data"


def dry_run(script, data, tmp_path, *words, **variables):
    """What the script's fairseq-train command would be."""
    variables = {"DATA": str(data), "RUN": str(tmp_path / "run"), "PYTHON": sys.executable, **variables}
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), *words], env={**environment(), **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "script, variables, expected",
    [
        ("deepnet/train.sh", {}, ["--arch deepnet_mt_200l", "--update-freq 128", "--lr 0.0005", "--dropout 0.1"]),
        ("deepnet/train.sh", {"PRESET": "deepnet_mt_100l", "GPUS": "64"}, ["deepnet_mt_100l", "--update-freq 2"]),
        ("magneto/train.sh", {"LR": "2e-3"}, ["--arch magneto_mt_36l", "--lr 0.002", "--warmup-updates 8000"]),
    ],
)
def test_script_writes_the_paper_s_command(script, variables, expected, data, tmp_path):
    words = [] if "magneto" in script else ["--cpu"]
    command = dry_run(script, data, tmp_path, "--dry-run", *words, **variables)
    assert "translation_multi_simple_epoch" in command
    assert [words for words in expected if words not in command] == []


def test_scripts_say_which_variable_is_missing():
    for script in sorted(EXAMPLES.glob("*/*.sh")):
        done = subprocess.run(
            ["bash", str(script)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
        )
        assert done.returncode != 0 and re.search(r"\b(DATA|CORPUS): set ", done.stderr), f"{script}: {done.stderr}"


def test_scripts_use_flags_that_exist():
    flags = set()
    for script in EXAMPLES.glob("*/*.sh"):
        for line in script.read_text(encoding="utf-8").splitlines():
            if not line.lstrip().startswith("#"):
                flags |= {(script.name, flag) for flag in re.findall(r"(?<![\w\"$-])--[a-z][a-z0-9-]+", line)}
    source = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "fairseq_plugins").rglob("*.py"))
    engine = {"--checkpoint-activations", "--lr-scheduler", "--dry-run"}
    assert [(name, flag) for name, flag in sorted(flags) if f'"{flag}"' not in source and flag not in engine] == []

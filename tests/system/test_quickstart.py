"""The main job on the embedded sample, by the verbs that scripts/quickstart.sh runs, at their own recipe."""

import json
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, environment, succeeded

pytestmark = pytest.mark.system


def opus100(*words):
    command = [sys.executable, "-m", "fairseq_plugins.opus100", *map(str, words)]
    process = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=3600)
    return succeeded(process)


def test_the_quickstart_reaches_its_bleu(tmp_path):
    out = tmp_path / "quickstart"
    opus100("sample", out)
    recipe = json.loads((out / "recipe.json").read_text())
    opus100("prepare", "--corpus", out, "--out", out / "data", *recipe["prepare"])
    opus100("train", "--data", out / "data", "--run", out / "run", *recipe["train"])
    opus100("evaluate", "--data", out / "data", "--run", out / "run", "--output", out / "results")
    results = json.loads((out / "results" / "results.json").read_text())
    assert results["model"]["arch"] == "deepnet_mt_tiny"
    bleu = {row["direction"]: row["bleu"] for row in results["directions"]}
    supervised = [score for direction, score in bleu.items() if "en" in direction.split("-")]
    assert len(supervised) == 8 and len(bleu) == 16
    assert sum(supervised) / 8 >= 60, bleu

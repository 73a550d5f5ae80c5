"""kill -9 of an evaluation at random moments: the same command ends in the files of one that was never stopped."""

import json
import random
import signal
import subprocess
import time

import pytest

from tests.helpers import environment
from tests.opus100.road import prepared_folder, train_words, verb, verb_words

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An evaluation of a little trained model; what is missing is where it writes."""
    folder = tmp_path_factory.mktemp("evaluation")
    data = prepared_folder(folder)
    assert verb(*train_words(data, folder / "run", 10)) == 0
    return verb_words("evaluate", "--data", data, "--run", folder / "run", "--cpu", "--beam", 2, "--output")


def written(folder):
    """Hypotheses, and the results without what differs from run to run."""
    results = json.loads((folder / "results.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in results["directions"]]
    hypotheses = {path.name: path.read_bytes() for path in folder.glob("hyp.*") if path.suffix != ".json"}
    return hypotheses, rows, results["averages"]


def test_goes_on_as_if_never_killed(words, tmp_path):
    subprocess.run([*words, str(tmp_path / "straight")], env=environment(), check=True, capture_output=True)
    dice, deaths = random.Random(3), []
    for wanted in (0, 1, 2):  # hypotheses of so many directions at the least
        process = subprocess.Popen([*words, str(tmp_path / "killed")], env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while process.poll() is None and len(list((tmp_path / "killed").glob("hyp.*"))) < wanted:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 3) if not wanted else 0)
        process.send_signal(signal.SIGKILL)
        deaths.append(process.wait())
    assert -signal.SIGKILL in deaths, "none was in time"
    ended = subprocess.run([*words, str(tmp_path / "killed")], env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert written(tmp_path / "killed") == written(tmp_path / "straight")

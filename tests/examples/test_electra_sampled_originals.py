"""Tenths of training, differences to the first arm, restarts and unfinished logs."""

import csv
import importlib.util
import json

import pytest

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "examples" / "electra" / "sampled_originals.py"


def load():
    spec = importlib.util.spec_from_file_location("sampled_originals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_log(path, share, updates=100, step=2):
    """`share` of an update; the engine writes every line twice, and others between."""
    lines = ["loading"]
    for update in range(step, updates + 1, step):
        line = {"epoch": 1, "num_updates": str(update), "sampled_original": str(share(update)), "loss": "3"}
        lines += [json.dumps(line)] * 2 + [json.dumps({"train_sampled_original": "99"})]
    path.write_text("\n".join([*lines, '{"num_up']))
    return path


def rows_of(folder):
    with open(folder / "sampled_originals.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tenths_means_over_seeds_and_differences(tmp_path, capsys):
    logs = [
        write_log(tmp_path / "electra.log", lambda update: update),
        write_log(tmp_path / "hp.1.log", lambda update: update / 2),
        write_log(tmp_path / "hp.2.log", lambda update: update / 2 + 1),
    ]
    load().main([*map(str, logs), "--output", str(tmp_path / "out")])
    rows = rows_of(tmp_path / "out")
    assert [(row["arm"], row["updates_to"]) for row in rows[::10]] == [("electra", "10"), ("hp", "10")]
    assert float(rows[0]["sampled_original"]) == 6 and rows[0]["difference"] == ""  # of 2, 4, ... 10
    assert (rows[19]["seeds"], float(rows[19]["sampled_original"])) == ("2", 48.5)  # 46, 47, ... 50, and a half more
    assert float(rows[19]["difference"]) == 48.5 - 96
    assert float(rows[19]["difference_low"]) < 48.5 - 96 < float(rows[19]["difference_high"]) < 0
    assert "hp to update 100: 48.5 %, -47.5 [" in capsys.readouterr().out
    picture = (tmp_path / "out" / "sampled_originals.svg").read_text()
    assert picture.startswith("<svg xmlns=") and picture.count("<polyline") == 2 and ">hp</text>" in picture


def test_of_updates_made_twice_the_later_counts(tmp_path):
    first = write_log(tmp_path / "electra.log", lambda update: 50)
    second = write_log(tmp_path / "more.log", lambda update: 10)
    first.write_text(first.read_text() + "\n" + second.read_text())
    assert {share for _, share in load().read_points(first)} == {10.0}


@pytest.mark.parametrize("text, message", [(None, "cannot be read"), ("{}\nnothing", "has no line with")])
def test_a_log_that_tells_nothing(tmp_path, text, message):
    if text is not None:
        (tmp_path / "electra.log").write_text(text)
    with pytest.raises(SystemExit, match=f"error: .*electra.log: {message}"):
        load().main([str(tmp_path / "electra.log"), "--output", str(tmp_path / "out")])


def test_a_training_that_is_not_finished(tmp_path):
    logs = [write_log(tmp_path / f"{name}.log", lambda update: 1, updates) for name, updates in (("a", 100), ("b", 60))]
    with pytest.raises(SystemExit, match="error: b: nothing logged in tenth 7 of 100 updates"):
        load().main([*map(str, logs), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(tmp_path):
    log = write_log(tmp_path / "a.log", lambda update: 1)
    with pytest.raises(SystemExit, match="error: .*a.log"):
        load().main([str(log), "--output", str(log)])
    assert load().read_points(log)

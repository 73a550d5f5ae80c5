"""The table of examples/minilmv2: the last numbers of each log, and what is missing named."""

import importlib.util
import json

import pytest

from tests.helpers import REPOSITORY


@pytest.fixture
def table():
    script = REPOSITORY / "examples" / "minilmv2" / "table.py"
    spec = importlib.util.spec_from_file_location("table", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def logs(tmp_path):
    runs, classifiers = tmp_path / "runs", tmp_path / "classify"
    for name in ("teacher", "v2_6"):
        (classifiers / name).mkdir(parents=True)
        text = "| valid on 'test' subset | loss 2 | accuracy 51.25 | wps 3\n"
        (classifiers / name / "classifier.test.log").write_text(text)
    runs.mkdir()
    (runs / "teacher.perplexity.log").write_text("x | valid on 'valid' subset | ae_loss 8.1 | ae_ppl 255.4 | wps 1\n")
    (runs / "v2_6.tuned.perplexity.log").write_text("| ae_ppl 9 | x\n| ae_ppl 632.2 | wps 1\n")
    for loss, value in (("minilmv2", 0.1374), ("minilm", 0.2)):
        lines = [json.dumps({"valid_loss": "7"}), "begin", json.dumps({"valid_loss": str(value)}), '{"valid_lo']
        (runs / f"v2_6.{loss}.log").write_text("\n".join(lines))
    return ["--runs", str(runs), "--classifiers", str(classifiers), "--output", str(tmp_path / "out")]


def test_the_last_number_of_each_log(table, logs, tmp_path, capsys):
    table.main([*logs, "--students", "v2_6"])
    assert (tmp_path / "out" / "students.csv").read_text().splitlines()[1:] == [
        "teacher,,,255,51.2", "v2_6,0.137,0.200,632,51.2",
    ]  # fmt: skip
    assert "| v2_6 | 0.137 | 0.200 | 632 | 51.2 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "log, lacks", [("v2_6.minilm.log", "has no line with valid_loss"), ("teacher.perplexity.log", "has no ae_ppl")]
)
def test_what_is_not_finished_is_named(table, logs, tmp_path, log, lacks):
    path = tmp_path / "runs" / log
    for text, message in (("nothing yet", lacks), (None, "cannot be read")):
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(SystemExit) as end:
            table.main([*logs, "--students", "v2_6"])
        assert f"{path}: {message}" in str(end.value) and "\n" not in str(end.value)
    assert not (tmp_path / "out").exists()

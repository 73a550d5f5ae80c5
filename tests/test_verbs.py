"""The frame of the verbs: what is imported, what is printed, which status comes back."""

import os
import subprocess
import sys
import textwrap

import pytest

from fairseq_plugins import __main__ as main_module
from fairseq_plugins._verbs import one_line, run_verbs


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `toyverbs` with one verb per way to end."""
    bodies = {
        "greet_all": "print('hello', args.name)",
        "count": "return 3",
        "bad_input": "from fairseq_plugins import _verbs; raise _verbs.UserError('--name x is no name; give another')",
        "lacking": "import a_package_nobody_has",
        "defect": "import toyverbs.not_there",
        "stopped": "raise KeyboardInterrupt",
    }
    folder = tmp_path / "toyverbs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, body in bodies.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(f'''\
            """What {name} does."""

            def add_arguments(parser):
                parser.add_argument("--name", default="you")

            def run(args):
                {body}
            '''))
    monkeypatch.syspath_prepend(tmp_path)
    yield "toyverbs", {name.replace("_", "-"): f"help of {name}" for name in bodies}
    for name in [name for name in sys.modules if name.partition(".")[0] == "toyverbs"]:
        del sys.modules[name]


def call(package, *argv):
    return run_verbs("toy", "A toy.", *package, argv=list(argv))


def test_a_dash_in_a_verb_is_an_underscore_in_its_file(package, capsys):
    assert call(package, "greet-all", "--name", "world") == 0
    assert capsys.readouterr().out == "hello world\n"


def test_only_the_chosen_verb_is_imported(package):
    call(package, "greet-all")
    assert "toyverbs.greet_all" in sys.modules and "toyverbs.count" not in sys.modules


def test_a_verb_decides_its_status(package):
    assert call(package, "count") == 3


def test_bad_input_is_one_sentence_and_status_2(package, capsys):
    assert call(package, "bad-input") == 2
    assert capsys.readouterr().err == "error: --name x is no name; give another\n"


def test_a_missing_python_package_points_to_doctor(package, capsys):
    assert call(package, "lacking") == 2
    error = capsys.readouterr().err
    assert "'a_package_nobody_has' is missing" in error and "python -m fairseq_plugins doctor" in error


def test_a_missing_module_of_the_package_itself_is_not_blamed_on_the_installation(package):
    with pytest.raises(ModuleNotFoundError, match="toyverbs.not_there"):
        call(package, "defect")


def test_interruption_says_how_to_go_on(package, capsys):
    assert call(package, "stopped") == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to go on\n"


@pytest.mark.parametrize("argv, says", [([], "required: VERB"), (["dance"], "invalid choice: 'dance'")])
def test_without_a_known_verb_the_usage_comes(package, capsys, argv, says):
    with pytest.raises(SystemExit) as stop:
        call(package, *argv)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
def test_words_that_no_file_and_no_table_can_hold_are_refused(package, capsys, word):
    assert call(package, "greet-all", "--name", word) == 2
    assert "holds a NUL or bytes that are not UTF-8" in capsys.readouterr().err


def test_a_usage_error_is_one_line(package, capsys):
    with pytest.raises(SystemExit) as stop:
        call(package, "greet-all", "--nmae", "x\ny")
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: --nmae x\\ny; toy greet-all --help says more\n"
    )


@pytest.mark.parametrize(
    "message, shown",
    [
        ("a\nb\x1b[31m\u2028", "a\\nb\\x1b[31m\\u2028"),
        ("x" * 3000, "x" * 1000 + " [...] " + "x" * 1000),
        ("Größe", "Größe"),
    ],
)
def test_a_message_stays_on_its_line(message, shown):
    assert one_line(message) == shown


def test_help_lists_every_verb_without_importing_one(package, capsys):
    with pytest.raises(SystemExit) as stop:
        call(package, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown and help_line in shown for name, help_line in package[1].items())
    assert not any(name.startswith("toyverbs.") for name in sys.modules)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered):
    """`path | true`: the reader is gone before we write."""
    script = "import sys; sys.stdin.read(); from fairseq_plugins.__main__ import main; sys.exit(main(['path']))"
    writer = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    writer.stdout.close()
    writer.stdin.close()  # only now does it write
    assert writer.stderr.read() == ""
    assert writer.wait() == 141


def test_the_light_verbs_import_neither_torch_nor_the_engine():
    script = (
        "import sys; from fairseq_plugins.__main__ import main; main(['path']); "
        "print(sorted({'torch', 'fairseq', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"


def test_every_listed_verb_exists():
    from importlib import import_module

    for verb in main_module.VERBS:
        module = import_module(f"fairseq_plugins.cli.{verb.replace('-', '_')}")
        assert module.__doc__ and callable(module.add_arguments) and callable(module.run)

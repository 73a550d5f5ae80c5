"""The scripts under examples/ lead to the commands that their READMEs describe."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY, environment
from tests.verb_parsers import parse_verb

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
    assert "translation_multi_validated" in command
    assert [words for words in expected if words not in command] == []


def test_scripts_say_which_variable_is_missing():
    for script in sorted(EXAMPLES.glob("*/*.sh")):
        done = subprocess.run(["bash", str(script)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
        assert done.returncode != 0 and re.search(r"\b(DATA|CORPUS): set ", done.stderr), f"{script}: {done.stderr}"


# Stands for python: notes its words. With FAILS=NAME the training of that run fails and all others take a minute.
STUB = """\
#!{real} -S
import json, os, sys, time
calls, words, fails = os.environ["CALLS"], sys.argv[1:], os.environ.get("FAILS")
json.dump(words, open(f"{{calls}}/{{time.time_ns()}}-{{os.getpid()}}.json", "w"))
if fails and "train" in words:
    run = os.path.basename(words[words.index("--run") + 1])
    try:
        if run == fails:
            while sum('"train"' in open(os.path.join(calls, name)).read() for name in os.listdir(calls)) < 2:
                time.sleep(0.01) # until the other has begun
            sys.exit(1)
        time.sleep(60)
    except KeyboardInterrupt:
        open(f"{{calls}}/{{run}} was interrupted", "w").close()
        sys.exit(130)
"""


def run_with_stub(script, tmp_path, *words, **variables):
    """(status, the words of every call of the stub in the order of the calls) of a script that calls the stub only.

    A second run in the same folder finds what the first has done; its calls are behind those of the first.
    """
    stub, calls = tmp_path / "stub", tmp_path / "calls"
    stub.write_text(STUB.format(real=sys.executable))
    stub.chmod(0o755)
    calls.mkdir(exist_ok=True)
    names = ("CORPUS", "TATOEBA", "OUT", "DATA", "MONO", "RUN", "INIT", "TEACHER")
    folders = {name: str(tmp_path / name.lower()) for name in names}
    environ = {"PATH": os.environ["PATH"], "PYTHON": str(stub), "CALLS": str(calls), **folders, **variables}
    done = subprocess.run(["bash", str(script), *words], env=environ, capture_output=True, text=True, timeout=120)
    return done.returncode, [json.loads(path.read_text()) for path in sorted(calls.glob("*.json"))]


# What comes first is chance.
SIDE_BY_SIDE = ("mt6/multi30k.sh", "unilmv2/ablation.sh", "electra/ablation.sh", "minilmv2/comparison.sh")


def name_of(words):
    """A verb, a command of fairseq, or a script beside the example."""
    if words[0] != "-m":
        return os.path.basename(words[0])
    return words[1].replace("fairseq_cli.", "fairseq-") if words[1].startswith("fairseq_cli.") else words[2]


def parse_fairseq(words):
    """See that a stock command takes its words; SystemExit for those it does not know."""
    from fairseq import options

    name = name_of(words).removeprefix("fairseq-")
    task = words[words.index("--task") + 1] if "--task" in words else "translation"
    where = words.index("--user-dir") if "--user-dir" in words else len(words)
    given = words[2:where] + words[where + 2 :]
    if name == "preprocess":
        options.get_preprocessing_parser(task).parse_args(given)
        return
    parser = {
        "train": options.get_training_parser,
        "validate": options.get_validation_parser,
        "generate": options.get_generation_parser,
    }[name](task)
    options.parse_args_and_arch(parser, given)


@pytest.mark.parametrize(
    "script, verbs",
    [
        ("opus100/train.sh", ["download", "prepare", "train", "average", "evaluate", "report"]),
        ("opus100/multi30k.sh", ["prepare", "train", "train", "evaluate", "evaluate", "report"]),
        ("deepnet/train.sh", ["train"]),
        ("magneto/train.sh", ["train"]),
        ("moec/train.sh", ["train"]),
        ("xmoe/train.sh", ["train"]),
        ("xlm_t/train.sh", ["train"]),
        ("mt6/train.sh", ["path", "fairseq-train", "train"]),
        (
            "mt6/multi30k.sh",
            [
                *("divide_corpus.py", "prepare", "prepare", "prepare", "mono", "path"),
                *(["fairseq-train"] * 5 + ["train", "evaluate"] * 6 + ["compare"]),
            ],
        ),
        (
            "xmoe/multi30k.sh",
            ["prepare", *["train"] * 4, *["evaluate"] * 4, "compare", *["moe-inspect"] * 3, "report"],
        ),
        ("expert_pruning/multi30k.sh", ["train"] * 3 + ["prune-experts"] + ["evaluate"] * 3 + ["compare"]),
        (
            "unilmv2/classify.sh",
            [
                *("path", "language_task.py", "encode", "fairseq-preprocess", "fairseq-preprocess"),
                *("fairseq-train", "fairseq-validate") * 2,
            ],
        ),
        (
            "electra/classify.sh",
            [
                *("export", "path", "language_task.py", "encode", "fairseq-preprocess", "fairseq-preprocess"),
                *("fairseq-train", "fairseq-validate") * 2,
            ],
        ),
        ("electra/train.sh", ["path", "fairseq-train"]),
        (
            "electra/ablation.sh",
            [
                *("join_corpora.py", "prepare", "mono", "path", *["fairseq-train", "fairseq-validate"] * 18),
                *("language_task.py", "encode", "fairseq-preprocess", "fairseq-preprocess"),
                *(["export", "path"] + ["fairseq-train", "fairseq-validate"] * 2) * 18,
                "sampled_originals.py",
            ],
        ),
        ("minilmv2/train.sh", ["path", "fairseq-train"]),
        (
            "minilmv2/comparison.sh",
            [
                *("join_corpora.py", "prepare", "mono", "path", "fairseq-train", "fairseq-validate"),
                *("language_task.py", "encode", "fairseq-preprocess", "fairseq-preprocess"),
                *["path", "fairseq-train", "fairseq-validate"] * 7,
                *(["fairseq-train"] * 4 + ["fairseq-validate"]) * 6,
                "table.py",
            ],
        ),
        ("unilmv2/train.sh", ["path", "fairseq-train"]),
        ("unilmv2/translate.sh", ["path", "fairseq-train", "fairseq-generate"]),
        (
            "unilmv2/ablation.sh",
            [
                *("join_corpora.py", "prepare", "prepare", "mono", "path"),
                *(["fairseq-train", "fairseq-validate"] * 4 + ["train", "evaluate"] * 5),
                *("path", "language_task.py", "encode", "fairseq-preprocess", "fairseq-preprocess"),
                *(["fairseq-train", "fairseq-validate"] * 8 + ["path"] * 3 + ["compare"]),
            ],
        ),
        ("expert_pruning/train.sh", ["train", "prune-experts", "evaluate", "evaluate"]),
        ("plate/label.sh", ["path", "fairseq-generate", "label_corpus.py"]),
        (
            "plate/comparison.sh",
            [
                *("prepare", "train", "evaluate", "evaluate", "label_corpus.py", "prepare"),
                *(["path", "fairseq-generate", "label_corpus.py", "prepare"] * 3),
                *(["train", "evaluate", "evaluate"] * 4 + ["compare"] * 2),
            ],
        ),
    ],
)
def test_every_call_of_a_script_is_accepted_by_its_verb(script, verbs, tmp_path):
    from fairseq import options

    import fairseq_plugins

    fairseq_plugins.register()
    status, calls = run_with_stub(EXAMPLES / script, tmp_path)
    called = [name_of(words) for words in calls]
    if script in SIDE_BY_SIDE:
        called, verbs = sorted(called), sorted(verbs)
    assert (status, called) == (0, verbs)
    for words in calls:
        if words[0] == "-m" and words[1].startswith("fairseq_cli."):
            parse_fairseq(words)
            continue
        if words[0] != "-m":
            assert os.path.isfile(words[0]) and os.path.realpath(words[0]).startswith(f"{EXAMPLES}{os.sep}")
            continue
        args = parse_verb(words)
        if words[2] == "train":
            task = ["--task", "translation_multi_simple_epoch", "--arch", args.arch]
            parser = options.get_training_parser("translation_multi_simple_epoch")
            options.parse_args_and_arch(parser, ["data", *task, *args.fairseq_args])  # SystemExit for unknown words


def test_all_scripts_are_checked():
    scripts = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*.sh")}
    marks = test_every_call_of_a_script_is_accepted_by_its_verb.pytestmark
    assert {script for script, _ in marks[0].args[1]} == scripts


@pytest.mark.parametrize(
    "script, fails, other",
    [
        ("opus100/multi30k.sh", "stock", "deepnet"),
        ("opus100/multi30k.sh", "deepnet", "stock"),
        ("mt6/multi30k.sh", "scratch", "sc"),
        ("unilmv2/ablation.sh", "ae_par", "par"),
    ],
)
def test_a_training_that_fails_stops_the_other(tmp_path, script, fails, other):
    status, calls = run_with_stub(EXAMPLES / script, tmp_path, FAILS=fails)
    verbs = [name_of(words) for words in calls]
    assert status == 1 and verbs.count("train") == 2 and not {"evaluate", "compare"} & set(verbs)
    assert (tmp_path / "calls" / f"{other} was interrupted").exists()


def trainings(calls):
    return [words for words in calls if name_of(words) == "fairseq-train"]


@pytest.mark.parametrize(
    "script, count",
    [
        *(("mt6/train.sh", 1), ("unilmv2/train.sh", 1), ("electra/train.sh", 1), ("unilmv2/translate.sh", 1)),
        *(("unilmv2/classify.sh", 2), ("electra/classify.sh", 2), ("minilmv2/train.sh", 1)),
    ],
)
def test_a_training_that_is_done_is_not_done_again_but_goes_on_to_more_updates(script, count, tmp_path):
    assert len(trainings(run_with_stub(EXAMPLES / script, tmp_path, UPDATES="10")[1])) == count
    done = len(list((tmp_path / "calls").iterdir()))
    for updates, expected in (("10", 0), ("20", count)):
        status, calls = run_with_stub(EXAMPLES / script, tmp_path, UPDATES=updates)
        assert status == 0 and len(trainings(calls[done:])) == expected
        done = len(calls)


@pytest.mark.parametrize(
    "script, count",
    [
        *(("mt6/multi30k.sh", 5), ("unilmv2/ablation.sh", 12), ("electra/ablation.sh", 54)),
        *(("minilmv2/comparison.sh", 32), ("plate/comparison.sh", 0)),
    ],
)
def test_a_comparison_goes_on_but_not_with_other_numbers(script, count, tmp_path):
    _, calls = run_with_stub(EXAMPLES / script, tmp_path, UPDATES="10")
    status, more = run_with_stub(EXAMPLES / script, tmp_path, UPDATES="10")
    assert (status, len(trainings(calls)), len(trainings(more))) == (0, count, count)
    others = [{"UPDATES": "20"}, *([] if "electra" in script else [{"UPDATES": "10", "SEED": "2"}])]
    for variables in others:  # ELECTRA's has SEEDS, each in runs of its own
        assert run_with_stub(EXAMPLES / script, tmp_path, **variables) == (1, more)


def test_another_task_of_classification_is_not_trained_upon_the_first(tmp_path):
    script = EXAMPLES / "unilmv2/classify.sh"
    _, calls = run_with_stub(script, tmp_path, TRAIN_LINES="50", LEAVE_OUT="cs,fr")
    task = next(words for words in calls if name_of(words) == "language_task.py")
    assert task[task.index("--train-lines") :][:4] == ["--train-lines", "50", "--leave-out", "cs,fr"]
    for variables in ({"TRAIN_LINES": "60", "LEAVE_OUT": "cs,fr"}, {"TRAIN_LINES": "50", "LEAVE_OUT": "cs"}):
        status, more = run_with_stub(script, tmp_path, **variables)
        assert status == 1 and [name_of(words) for words in more[len(calls) :]] == ["path"]
        calls = more


@pytest.mark.parametrize("variables, warm_up", [({}, "24000"), ({"UPDATES": "1000"}, "48")])
def test_unilmv2_warms_up_over_the_paper_s_share_of_the_updates(variables, warm_up, tmp_path):
    words = trainings(run_with_stub(EXAMPLES / "unilmv2/train.sh", tmp_path, **variables)[1])[0]
    assert words[words.index("--warmup-updates") + 1] == warm_up


def test_arms_of_the_ablation_are_measured_with_the_same_masks(tmp_path):
    calls = run_with_stub(EXAMPLES / "unilmv2/ablation.sh", tmp_path)[1]
    measured = [words for words in calls if name_of(words) == "fairseq-validate" and "pseudo_masked_lm" in words]
    assert [words[words.index("--block-probability") + 1] for words in measured] == ["0.4"] * 4


def test_plate_labels_with_the_temperatures_of_the_arms_and_not_twice(tmp_path):
    calls = run_with_stub(EXAMPLES / "plate/comparison.sh", tmp_path)[1]
    written = [words for words in calls if name_of(words) == "fairseq-generate"]
    told = [words[words.index("--model-overrides") + 1] for words in written]
    assert told == [f"{{'attention_temperature': {temperature}}}" for temperature in (0, 48, 64)]
    status, more = run_with_stub(EXAMPLES / "plate/comparison.sh", tmp_path)
    again = [name_of(words) for words in more[len(calls) :]]
    assert status == 0 and "fairseq-generate" not in again and again.count("label_corpus.py") == 4


def test_plate_takes_no_labels_of_another_teacher_data_direction_beam_or_words(tmp_path):
    contents = {"teacher": "a", "copy": "a", "other": "b", "data/manifest.json": "1", "new/manifest.json": "2"}
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    copy, other = str(tmp_path / "copy"), str(tmp_path / "other")
    settings = [
        *(((), {}), (("--lenpen", "2"), {}), ((), {"BEAM": "1"}), ((), {"PAIR": "en-de"}), ((), {"TEMPERATURE": "0"})),
        *(((), {"TEACHER": other}), ((), {"TEACHER": f"{copy}:{other}"}), ((), {"DATA": str(tmp_path / "new")})),
    ]
    repeated = [*settings, ((), {"TEACHER": copy}), ((), {"BEAM": "5", "MAX_TOKENS": "100"})]  # two more are the first
    for words, variables in settings + repeated:
        status, calls = run_with_stub(EXAMPLES / "plate/label.sh", tmp_path, *words, **variables)
        assert status == 0
    assert sum(name_of(words) == "fairseq-generate" for words in calls) == len(settings)
    read = [words[words.index("--generated") + 1] for words in calls if name_of(words) == "label_corpus.py"]
    first = read[: len(settings)]
    assert len(set(first)) == len(settings) and read[len(settings) :] == [*first, first[0], first[0]]

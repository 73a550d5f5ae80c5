"""kill -9 at any moment of a training: the same command goes on with the same batches and losses, to the last bit."""

import random
import signal
import subprocess
import time

import pytest

from tests.distributed.ranks import run_together
from tests.helpers import TINY_TRANSFORMER, checkpoint, environment, train_words, write_tiny_translation_data
from tests.system.recorded import assert_as_if_never_stopped, live, read_record, recorded_words
from tests.tasks.pretraining import write_data
from tests.tasks.tiny_trainings import TASKS, words_of

pytestmark = pytest.mark.system

UPDATES = 9
# large batches: several epochs begin within nine updates
SHORT = ["--max-update", UPDATES, "--max-tokens", 1200, "--save-interval-updates", 3, "--keep-interval-updates", 1,
         "--no-epoch-checkpoints", "--disable-validation"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_goes_on_as_if_never_killed(task, data, tmp_path):
    words = [*words_of(task, data), *SHORT, "--dropout", "0.1", "--save-dir"]
    live(tmp_path / "straight.jsonl", "never", [*words, tmp_path / "straight"])
    record, run = tmp_path / "record.jsonl", tmp_path / "run"
    for death in ("write:2", f"update:{random.Random(task).randint(4, 8)}", "never"):
        live(record, death, [*words, run])
    assert len(read_record(record)) > UPDATES, "some updates were made twice"
    assert_as_if_never_stopped(record, tmp_path / "straight.jsonl", run, tmp_path / "straight", "checkpoint_last.pt")


def test_a_stock_task_resumed_in_a_later_epoch_has_the_same_batches(tmp_path):
    """Stock composes its batches with dice of the epoch in which a process begins."""
    data = write_tiny_translation_data(tmp_path / "data")
    words = [*train_words(data, tmp_path / "straight", 14), "--no-epoch-checkpoints", "--disable-validation", "--cpu"]
    live(tmp_path / "straight.jsonl", "never", words)
    run, record = tmp_path / "run", tmp_path / "record.jsonl"
    for updates in (8, 14):
        live(record, "never", [*words, "--save-dir", run, "--max-update", updates])
    epoch = checkpoint(run)["extra_state"]["train_iterator"]["epoch"]
    assert epoch >= 3 and len(read_record(record)) == 14
    assert_as_if_never_stopped(record, tmp_path / "straight.jsonl", run, tmp_path / "straight", "checkpoint_last.pt")


def test_a_finished_training_ends_at_once(straight, tmp_path):
    words, folder = straight
    before = (folder / "run" / "checkpoint_last.pt").read_bytes()
    said = live(tmp_path / "record.jsonl", "never", [*words, folder / "run"])
    assert f"has {UPDATES} updates, --max-update {UPDATES} is reached: nothing to do" in said
    assert not read_record(tmp_path / "record.jsonl") and (folder / "run" / "checkpoint_last.pt").read_bytes() == before


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Translation, never stopped: words, record and folder."""
    folder = tmp_path_factory.mktemp("straight")
    words = [*words_of("translation_multi_validated", data), *SHORT, "--save-dir"]
    live(folder / "record.jsonl", "never", [*words, folder / "run"])
    return words, folder


@pytest.mark.parametrize("deaths", [["copy:1", "copy:1", "rename:1"], ["rename:2", "write:1", "copy:2"]])
def test_half_a_copy_or_a_file_without_its_name_is_never_read(deaths, straight, tmp_path):
    words, folder = straight
    for death in (*deaths, "never"):
        live(tmp_path / "record.jsonl", death, [*words, tmp_path / "run"])
    record, run = tmp_path / "record.jsonl", tmp_path / "run"
    assert_as_if_never_stopped(record, folder / "record.jsonl", run, folder / "run", "checkpoint_last.pt")


def test_killed_from_outside_at_random_moments(straight, tmp_path):
    """Also while it starts, reads data or ends: moments that nobody thought of."""
    words, folder = straight
    words = [*words[:-1], "--num-workers", 1, "--save-dir"]  # a process that loads data outlives its training a little
    record, run, dice = tmp_path / "record.jsonl", tmp_path / "run", random.Random(1)
    record.touch()
    deaths = []
    for _ in range(4):
        seen, wait = len(read_record(record)) + dice.randint(0, 4), dice.random()
        command = recorded_words(record, "never", [*words, run])
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and len(read_record(record)) < seen and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        deaths.append(process.wait())
    assert -signal.SIGKILL in deaths, "none was in time"
    live(record, "never", [*words, run])
    assert_as_if_never_stopped(record, folder / "record.jsonl", run, folder / "run", "checkpoint_last.pt")


EXPERTS = [
    *("--arch", "transformer_mt", *TINY_TRANSFORMER[2:], "--moe-experts", 4, "--moe-freq", 1),
    *("--task", "translation", "-s", "de", "-t", "en", "--criterion", "label_smoothed_cross_entropy_with_moe"),
    *("--optimizer", "adam", "--lr", 0.01, "--cpu", "--num-workers", 0, "--seed", 1, "--max-tokens", 100),
    *("--moe-expert-parallel-size", 2, "--ddp-backend", "legacy_ddp", "--distributed-world-size", 2),
    *("--distributed-backend", "gloo", "--distributed-no-spawn", "--max-update", 14, "--save-interval-updates", 2),
    *("--keep-interval-updates", 1, "--no-epoch-checkpoints", "--disable-validation"),
]


def test_experts_on_two_ranks_go_on_from_one_moment(tmp_path):
    """One rank has its new checkpoint and the other has not, when one of them is killed."""
    data = write_tiny_translation_data(tmp_path / "data")

    def both(name, deaths, number):
        words = [data, *EXPERTS, "--save-dir", tmp_path / name]
        words += ["--distributed-init-method", f"file://{tmp_path / f'meet_{name}_{number}'}"]
        commands = [
            recorded_words(tmp_path / f"{name}_{rank}.jsonl", death, [*words, "--distributed-rank", rank])
            for rank, death in enumerate(deaths)
        ]
        processes = run_together(commands)
        return [process.returncode for process in processes], "".join(process.stderr for process in processes)

    assert both("straight", ["never", "never"], 0)[0] == [0, 0]
    for number, deaths in enumerate((["never", "rename:3"], ["copy:2", "never"], ["never", "write:2"])):
        codes, said = both("run", deaths, number)
        assert codes[[death != "never" for death in deaths].index(True)] == -signal.SIGKILL, f"{deaths}: {said[-3000:]}"
        assert 0 not in codes, "the other rank cannot go on"
    codes, said = both("run", ["never", "never"], 9)
    assert codes == [0, 0], said[-3000:]
    for rank in range(2):
        assert_as_if_never_stopped(
            tmp_path / f"run_{rank}.jsonl",
            tmp_path / f"straight_{rank}.jsonl",
            tmp_path / "run",
            tmp_path / "straight",
            f"checkpoint_last-rank-{rank}.pt",
        )

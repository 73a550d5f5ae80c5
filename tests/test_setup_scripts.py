"""scripts/_setup.sh with an interpreter that only pretends: what is installed, in which order, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# a machine with nothing but what the scripts may count on
TOOLS = "bash awk cat cp dirname env grep ls mkdir mktemp rm tail".split()  # df: see free_space

# Stands for python: pip only notes what it was asked for and remembers the versions it "installed".
FAKE_PYTHON = '''\
#!{real} -S
import importlib.metadata, json, os, platform, shutil, sys, sysconfig
here = os.path.dirname(os.path.abspath(__file__))
state_file = os.environ["FAKE_STATE"]
state = json.load(open(state_file))
words = sys.argv[1:]

def version(name):
    if name not in state["packages"]:
        raise importlib.metadata.PackageNotFoundError(name)
    return state["packages"][name]

def pip(command, *rest):
    state["calls"].append(dict(call=[command, *rest], cuda_home=os.environ.get("CUDA_HOME")))
    failure = next((reason for word, reason in state["pip_fails"].items() if word in (command, *rest)), None)
    if failure is None:
        for word in rest if command == "install" else []:
            name, _, number = word.partition("==")
            if number:
                state["packages"][name] = number
            elif word.endswith("[test]"):
                state["packages"].update(fairseq_plugins="0.1.0", pytest="9", sentencepiece="0.2", sacrebleu="2.6")
    json.dump(state, open(state_file, "w"))
    if failure is not None:
        print(failure)
    sys.exit(failure is not None)

sys.version_info = tuple(state["python"])
platform.python_version = lambda: ".".join(map(str, state["python"]))
importlib.metadata.version = version
sysconfig.get_path = lambda name: state["headers"]
for module in state["lacks"]:
    sys.modules[module] = None
if words[0] == "-P":
    del words[0]
if words[:2] == ["-m", "venv"]:
    os.makedirs(os.path.join(words[2], "bin"))
    shutil.copy(__file__, os.path.join(words[2], "bin", "python"))
    open(os.path.join(words[2], "pyvenv.cfg"), "w").close()
elif words[:2] == ["-m", "pip"]:
    if words[2:] == ["config", "list"]:
        print(state["pip_config"])
    elif words[2] != "--version":
        pip(*words[2:])
elif words[:2] == ["-m", "fairseq_plugins.opus100"]:
    state["calls"].append(dict(call=words[2:], cuda_home=None))
    json.dump(state, open(state_file, "w"))
    if words[2] == "sample":
        os.makedirs(words[3], exist_ok=True)
        json.dump(dict(prepare=["--vocab-size", "12"], train=["--lr", "4e-3"]), open(words[3] + "/recipe.json", "w"))
    sys.exit(words[2] == state["opus100_fails"])
elif words[:2] == ["-m", "fairseq_plugins"]:
    sys.exit(state["doctor"])
elif words == ["-V"]:
    print("Python", platform.python_version())
else:
    code = sys.stdin.read() if words[0] == "-" else words[1]
    sys.prefix = os.path.dirname(here)
    sys.argv = words[:1] + words[2:]
    exec(code)
'''


class Machine:
    """A checkout on a machine whose only Python is the fake one."""

    def __init__(self, folder):
        self.folder, self.checkout, self.bin = folder, folder / "checkout", folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        (self.checkout / "scripts").mkdir(parents=True)
        for name in ("_setup.sh", "test.sh", "quickstart.sh"):
            shutil.copy(ROOT / "scripts" / name, self.checkout / "scripts" / name)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.checkout / name)
        (self.checkout / "fairseq_plugins").mkdir()
        (self.checkout / "fairseq_plugins" / "__init__.py").touch()
        self.environment = {"PATH": str(self.bin), "FAKE_STATE": str(folder / "state.json")}
        self.write(packages={}, calls=[], pip_fails={}, lacks=[], python=[3, 12, 1], headers="")
        self.write(doctor=0, opus100_fails="", pip_config="global.timeout='60'")
        self.free_space(20_000)
        self.add_python("python3")

    def add_python(self, name):
        (self.bin / name).write_text(FAKE_PYTHON.format(real=sys.executable))
        (self.bin / name).chmod(0o755)

    def add_tool(self, name, script):
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (self.bin / name).chmod(0o755)

    def free_space(self, megabytes):
        head = "Filesystem 1024-blocks Used Available Capacity Mounted on"
        self.add_tool("df", f"echo {head}\necho /dev/disk 90000000 7976000 {megabytes * 1024} 89% /")

    def read(self):
        return json.loads((self.folder / "state.json").read_text())

    def write(self, **changes):
        state = self.read() if (self.folder / "state.json").exists() else {}
        (self.folder / "state.json").write_text(json.dumps({**state, **changes}))

    def set_up(self, **environment):
        """Run test.sh up to the tests; returns its status and everything it printed."""
        return self.script("test.sh", SETUP_ONLY="1", **environment)

    def script(self, name, *words, cwd=None, **environment):
        """Run a script of the checkout; returns its status and everything it printed."""
        done = subprocess.run(
            [str(self.bin / "bash"), str(self.checkout / "scripts" / name), *words],
            cwd=cwd or self.checkout,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def refusal(self, **environment):
        """The one sentence with which the set-up ends."""
        status, output = self.set_up(**environment)
        errors = [line for line in output.splitlines() if not line.startswith("[set-up]")]
        assert status == 1 and len(errors) == 1 and errors[0].startswith("error: "), output
        return errors[0]

    def installs(self):
        """The words of every `pip install` so far; paths of temporary files cut to their names."""
        calls = [call["call"][1:] for call in self.read()["calls"] if call["call"][0] == "install"]
        return [[os.path.basename(word) if word.startswith("/") else word for word in words] for words in calls]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_fresh_machine_gets_torch_then_the_engine_then_the_package(machine):
    status, output = machine.set_up(CUDA_HOME="/usr/local/cuda")
    assert status == 0, output
    quiet, keep = "--disable-pip-version-check", ["-c", "keep"]
    torch, build, engine, package = machine.installs()
    assert torch == [quiet, "torch==2.13.0"]
    assert build == [quiet, *keep, "numpy", "cython", "setuptools", "wheel"]
    assert engine[:4] == [quiet, *keep, "--no-build-isolation"] and engine[-1] == "fairseq-fixed==0.12.3.1"
    assert package == [quiet, "--no-build-isolation", *keep, "package[test]"]
    cuda_home = {call["call"][-1]: call["cuda_home"] for call in machine.read()["calls"]}
    assert cuda_home["torch==2.13.0"] and not cuda_home["fairseq-fixed==0.12.3.1"]  # its .cu sources are not shipped
    assert "CPU wheel index" in output and "done in" in output


def test_a_second_run_sets_nothing_up_and_says_nothing(machine):
    machine.set_up()
    before = machine.read()["calls"]
    assert machine.set_up() == (0, "")
    assert machine.read()["calls"] == before


def test_edited_sources_renew_the_installed_copy_only(machine):
    machine.set_up()
    before = len(machine.installs())
    (machine.checkout / "fairseq_plugins" / "new.py").write_text("x = 1\n")
    status, output = machine.set_up()
    assert status == 0 and "its sources changed" in output
    assert machine.installs()[before:] == [
        ["--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--force-reinstall", "package"]
    ]


@pytest.mark.parametrize("change", ["setup.py", "removed package"])
def test_changed_requirements_or_a_removed_package_set_up_again(machine, change):
    machine.set_up()
    before = len(machine.installs())
    if change == "setup.py":
        (machine.checkout / "setup.py").write_text("# other requirements\n")
    else:
        packages = machine.read()["packages"]
        del packages["sentencepiece"]
        machine.write(packages=packages)
    assert machine.set_up()[0] == 0
    assert [words[-1] for words in machine.installs()[before:]][-2:] == ["fairseq-fixed==0.12.3.1", "package[test]"]


def test_an_interrupted_set_up_goes_on(machine):
    machine.write(pip_fails={"--find-links": "Connection broken"})  # only the engine is installed with it
    assert "pip could not install the engine" in machine.refusal()
    machine.write(pip_fails={})
    assert machine.set_up()[0] == 0
    assert machine.read()["packages"]["fairseq-fixed"] == "0.12.3.1"


@pytest.mark.parametrize("version, kept", [("2.6.0", True), ("2.14.1+cpu", True), ("3.0.0", True), ("2.5.1", False)])
def test_a_torch_that_is_new_enough_is_kept(machine, version, kept):
    machine.write(packages={"torch": version})
    machine.add_python("python")
    status, output = machine.set_up(USE_ACTIVE_ENV="1")
    assert status == 0, output
    assert machine.read()["packages"]["torch"] == (version if kept else "2.13.0")
    assert any("torch==2.13.0" in words for words in machine.installs()) is not kept


def test_torch_comes_from_the_index_of_choice(machine):
    status, output = machine.set_up(TORCH_INDEX_URL="file:///wheels")
    assert status == 0 and "CPU wheel index" not in output
    assert machine.installs()[0][-3:] == ["torch==2.13.0", "--index-url", "file:///wheels"]
    assert not any("--index-url" in words for words in machine.installs()[1:])


def test_nothing_is_said_about_cpu_wheels_on_a_gpu_machine(machine):
    machine.add_tool("nvidia-smi", "exit 0")
    assert "CPU wheel index" not in machine.set_up()[1]


def test_venv_may_be_elsewhere_and_relative(machine):
    assert machine.set_up(VENV="../other env")[0] == 0
    assert (machine.folder / "other env" / "fairseq_plugins.setup").exists()
    assert not (machine.checkout / ".venv").exists()


def test_the_preferred_python_is_the_one_with_an_engine_wheel(machine):
    machine.add_tool("python3.13", "exit 1")  # a shim that does not run
    machine.add_python("python3.12")
    (machine.bin / "python3").unlink()
    assert machine.set_up()[0] == 0


# ---- every refusal is one sentence -----------------------------------------------------------------------------------


def test_no_python(machine):
    (machine.bin / "python3").unlink()
    assert "Python 3.11, 3.12 or 3.13 is needed, found: none" in machine.refusal()


@pytest.mark.parametrize("version", [[3, 10, 13], [3, 14, 0]])
def test_a_wrong_python(machine, version):
    machine.write(python=version)
    assert f"is needed, found: {'.'.join(map(str, version))}; install one" in machine.refusal()
    machine.add_python("python")
    assert "is needed but USE_ACTIVE_ENV means" in machine.refusal(USE_ACTIVE_ENV="1")


def test_an_old_environment(machine):
    machine.set_up()
    machine.write(python=[3, 10, 13])
    assert "/.venv holds Python 3.10.13; remove it or set VENV" in machine.refusal()


def test_no_venv_module(machine):
    machine.write(lacks=["ensurepip"])
    assert "python3 has no venv module; install it" in machine.refusal()


def test_a_folder_that_is_no_environment_is_left_alone(machine):
    (machine.checkout / "mine").mkdir()
    (machine.checkout / "mine" / "thesis.txt").write_text("precious")
    assert "mine exists and is not a virtual environment" in machine.refusal(VENV="mine")
    assert [path.name for path in (machine.checkout / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "system, variables, pip_config, needed",
    [
        ("linux-gnu", {}, "", 10000),
        ("linux-gnu", {}, "global.index-url='https://mirror/simple'", 10000),  # a mirror has what the default index has
        ("linux-gnu", {}, "global.extra-index-url='https://wheels/cpu'", 3000),
        ("linux-gnu", {}, ":env:.find-links='/wheels'", 3000),
        ("linux-gnu", {"PIP_FIND_LINKS": "/wheels"}, "", 3000),
        ("linux-gnu", {"TORCH_INDEX_URL": "file:///wheels"}, "", 3000),
        ("linux-gnu", {"MIN_FREE_MB": "1500"}, "", 1500),
        ("darwin23", {}, "", 3000),
    ],
)
def test_no_disk_space_up_front(machine, system, variables, pip_config, needed):
    machine.write(pip_config=pip_config)
    machine.free_space(needed - 1)
    refusal = machine.refusal(OSTYPE=system, **variables)
    assert f"has {needed - 1} MB of free disk space, the set-up needs {needed} MB" in refusal
    assert ("(3000 MB with TORCH_INDEX_URL=<PyTorch's CPU wheel index>)" in refusal) is (needed == 10000)
    assert not (machine.checkout / ".venv").exists()


def test_no_disk_space_on_the_way(machine):
    machine.write(pip_fails={"torch==2.13.0": "ERROR: [Errno 28] No space left on device"})
    assert "the disk ran full while installing torch 2.13.0" in machine.refusal()


def test_no_compiler_where_no_wheel_fits(machine):
    machine.write(pip_fails={"download": "no matching distribution"})
    refusal = machine.refusal(CC="gcc-not-there", CXX="g++-not-there")
    assert "the engine must be compiled for this Python and gcc-not-there is missing" in refusal
    assert not machine.installs(), "refused before anything is downloaded"


def test_no_compiler_is_fine_where_a_wheel_fits(machine):
    assert machine.set_up(CC="gcc-not-there", CXX="g++-not-there")[0] == 0


def test_a_compiler_and_the_headers_let_the_engine_be_built(machine):
    machine.add_tool("mycc", "exit 0")
    machine.write(pip_fails={"download": "no matching distribution"}, headers=str(machine.folder))
    assert "its header Python.h is missing; install it" in machine.refusal(CC="mycc -O2", CXX="mycc")
    (machine.folder / "Python.h").touch()
    assert machine.set_up(CC="mycc -O2", CXX="mycc")[0] == 0


def test_a_failing_pip_points_to_its_log(machine):
    machine.write(pip_fails={"package[test]": "x", "cython": "Could not find a version that satisfies the requirement"})
    assert f"the reason stands at the end of {machine.checkout}/.venv/fairseq_plugins.log" in machine.refusal()
    assert "Could not find a version" in (machine.checkout / ".venv" / "fairseq_plugins.log").read_text()


def test_a_broken_result_points_to_doctor(machine):
    machine.write(doctor=1)
    assert "-m fairseq_plugins doctor" in machine.refusal()
    machine.write(doctor=0)
    assert machine.set_up()[0] == 0


# ---- quickstart.sh ---------------------------------------------------------------------------------------------------


def test_quickstart_runs_the_road_with_the_recipe_of_the_corpus(machine):
    elsewhere = machine.folder / "else where"
    elsewhere.mkdir()
    status, output = machine.script("quickstart.sh", "my out", cwd=elsewhere)
    assert status == 0, output
    out = f"{elsewhere}/my out"
    calls = [call["call"] for call in machine.read()["calls"] if call["call"][0] not in ("install", "download")]
    assert calls == [
        ["sample", out],
        ["prepare", "--corpus", out, "--out", f"{out}/data", "--vocab-size", "12"],
        ["train", "--data", f"{out}/data", "--run", f"{out}/run", "--lr", "4e-3"],
        ["evaluate", "--data", f"{out}/data", "--run", f"{out}/run", "--output", f"{out}/results"],
        ["report", "--results", f"{out}/results", "--runs", f"{out}/run", "--names", "deepnet_mt_tiny",
         "--title", "Quickstart", "--data", f"{out}/data", "--output", f"{out}/report.html"],
    ]  # fmt: skip
    assert f"{out}/results/results.md" in output and f"{out}/report.html" in output
    assert "opus100 download" in output.splitlines()[-2]


def test_quickstart_stops_at_the_verb_that_fails(machine):
    machine.write(opus100_fails="train")
    status, output = machine.script("quickstart.sh")
    assert status == 1 and "Done in" not in output
    assert machine.read()["calls"][-1]["call"][0] == "train"


def test_either_script_stops_after_the_set_up(machine):
    status, output = machine.script("quickstart.sh", SETUP_ONLY="1")
    assert status == 0 and "[set-up] done" in output
    assert machine.set_up() == (0, "")

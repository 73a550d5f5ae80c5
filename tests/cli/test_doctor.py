"""`python -m fairseq_plugins doctor`: every problem is seen, named and gets one command."""

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fairseq_plugins.cli import doctor
from tests.helpers import REPOSITORY

GOOD = {"torch": "2.13.0", "fairseq-fixed": "0.12.3.1", "hydra-core": "1.3.2", "omegaconf": "2.3.0", "numpy": "2.4.6"}


@pytest.fixture
def packages(monkeypatch):
    """The installed versions, to be changed by a test; imports of everything in here succeed."""
    installed = dict(GOOD)

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return installed


def test_this_installation_is_whole():
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_plugins", "doctor"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line[:22].strip() for line in done.stdout.partition("\n\n")[0].splitlines()]
    assert {"python", "torch", "fairseq engine", "hydra-core", "omegaconf", "numpy", "NVIDIA apex", "GPU"} <= set(names)
    assert {"tensorboardX", "py3langid"} <= set(names)
    assert done.stdout.splitlines()[-1] == "everything needed is here"
    assert done.stderr == ""


def test_it_runs_without_torch_and_engine():
    """On a machine where the set-up has failed, doctor must still speak: -S -I hide every installed package."""
    script = "import sys; sys.path.append(sys.argv.pop()); from fairseq_plugins.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, "doctor", str(REPOSITORY)], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr == ""
    assert "BROKEN: torch: not installed\n  mend it with: " in done.stdout
    assert "BROKEN: fairseq engine: not installed" in done.stdout
    assert done.stdout.endswith("broken\n")


@pytest.mark.parametrize(
    "check, installed, problem, mend",
    [
        (doctor.check_torch, {"torch": None}, "not installed", "install torch==2.13.0"),
        (doctor.check_torch, {"torch": "2.5.1+cpu"}, "before 2.6", "install --upgrade torch==2.13.0"),
        (doctor.check_engine, {"fairseq-fixed": None}, "not installed", "--no-build-isolation fairseq-fixed==0.12.3.1"),
        (doctor.check_engine, {"fairseq": "0.12.2"}, "overwrites the files", "uninstall -y fairseq fairseq-fixed && "),
        (lambda: doctor.check_pinned("omegaconf"), {"omegaconf": "2.4.0"}, "exactly 2.3.0", "install omegaconf==2.3.0"),
        (lambda: doctor.check_pinned("hydra-core"), {"hydra-core": None}, "exactly 1.3.2", "install hydra-core==1.3.2"),
        (lambda: doctor.check_needed("numpy"), {"numpy": None}, "not installed", "install --force-reinstall numpy"),
        (lambda: doctor.check_needed("no_such"), {"no_such": "1"}, "ModuleNotFoundError", "--force-reinstall no_such"),
    ],
)
def test_what_is_broken_gets_a_command(packages, check, installed, problem, mend):
    packages.update(installed)
    for name in [name for name, version in installed.items() if version is None]:
        del packages[name]
    finding = check()
    assert finding.broken and problem in finding.problem and mend in finding.mend


@pytest.mark.parametrize("name, use", [("tensorboardX", "--tensorboard-logdir"), ("py3langid", "evaluate")])
def test_optional_packages_may_be_missing(packages, name, use):
    finding = doctor.check_optional(name)
    assert finding.value.startswith("not installed (optional: ") and use in finding.value and not finding.problem
    packages[name] = "2.6.5"
    assert doctor.check_optional(name) == doctor.Finding(name, "2.6.5")


def test_another_engine_version_is_a_warning(packages):
    packages["fairseq-fixed"] = "0.12.3.2"
    finding = doctor.check_engine()
    assert not finding.broken and "0.12.3.1" in finding.problem and "fairseq-fixed==0.12.3.1" in finding.mend


@pytest.mark.parametrize("version, broken", [((3, 10), True), ((3, 11), False), ((3, 13), False), ((3, 14), True)])
def test_python_versions(monkeypatch, version, broken):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    assert doctor.check_python().broken is broken


def test_an_engine_without_its_compiled_part_is_rebuilt(packages, monkeypatch):
    monkeypatch.setattr(doctor, "COMPILED", ("fairseq.data.not_compiled_fast",))
    finding = doctor.check_compiled()
    assert finding.broken and "not_compiled_fast" in finding.problem
    assert "env -u CUDA_HOME" in finding.mend and "--force-reinstall --no-deps --no-cache-dir" in finding.mend


def make_apex(folder, parts, monkeypatch):
    for part in ("", *parts):
        (folder / "apex" / part).mkdir(parents=True, exist_ok=True)
        (folder / "apex" / part / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)


def test_no_apex_is_fine(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    finding = doctor.check_apex()
    assert not finding.problem and "optional" in finding.value


def test_the_unrelated_apex_is_recognised(tmp_path, monkeypatch, packages):
    packages["apex"] = "0.9.10.dev0"
    make_apex(tmp_path, ["lib", "views"], monkeypatch)
    finding = doctor.check_apex()
    assert "'apex' 0.9.10.dev0 is an unrelated package" in finding.value and not finding.broken
    assert finding.mend.endswith("-m pip uninstall -y apex")


def test_the_real_apex_is_recognised_and_its_cuda_extensions_looked_for(tmp_path, monkeypatch, packages):
    packages["apex"] = "0.1"
    make_apex(tmp_path, ["normalization", "optimizers", "multi_tensor_apply"], monkeypatch)
    assert "without its CUDA extensions (amp_C, fused_layer_norm_cuda)" in doctor.check_apex().problem
    for extension in ("amp_C", "fused_layer_norm_cuda"):
        (tmp_path / f"{extension}.py").touch()
    assert doctor.check_apex() == doctor.Finding("NVIDIA apex", "0.1, with CUDA extensions")


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    answer = SimpleNamespace(returncode=0, stdout="GPU 0: NVIDIA H200\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: answer)
    assert "this torch cannot use it" in doctor.check_gpu().problem
    answer.returncode = 9  # nvidia-smi without a driver
    assert not doctor.check_gpu().problem


def test_a_registration_that_fails_is_reported(monkeypatch):
    def register():
        raise ValueError("Cannot register duplicate model (x)\nmore")

    monkeypatch.setattr(doctor.fairseq_plugins, "register", register)
    finding = doctor.check_registration()
    assert finding.broken and finding.problem == "ValueError: Cannot register duplicate model (x)"


def test_status_and_last_line_tell_broken_from_warned(monkeypatch, capsys):
    warned = doctor.Finding("a", "1", "old", "upgrade a")
    monkeypatch.setattr(doctor, "CHECKS", [lambda: warned])
    assert doctor.run(None) == 0
    assert capsys.readouterr().out.endswith("warning: a: old\n  mend it with: upgrade a\neverything needed is here\n")
    monkeypatch.setattr(doctor, "CHECKS", [lambda: warned, lambda: doctor.Finding("b", "-", "gone", "get b", True)])
    assert doctor.run(None) == 1
    assert capsys.readouterr().out.endswith("BROKEN: b: gone\n  mend it with: get b\n1 broken\n")

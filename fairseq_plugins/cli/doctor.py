"""Print every version that matters, what is wrong, and for each problem the one command that mends it.

Exit status: 0 if everything needed works (warnings alone do not count), 1 if something is broken.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional

import fairseq_plugins

ENGINE = "fairseq-fixed"
ENGINE_VERSION = "0.12.3.1"
PINNED = {"hydra-core": "1.3.2", "omegaconf": "2.3.0"}  # what the engine asks for, and its checkpoints depend on
OPTIONAL = {"tensorboardX": "--tensorboard-logdir", "py3langid": "opus100 evaluate, off-target shares by language"}
COMPILED = ("fairseq.data.data_utils_fast", "fairseq.data.token_block_utils_fast", "fairseq.libbleu")

PIP = f"{sys.executable} -m pip"
# what a compilation needs first; its .cu sources are not shipped, so no CUDA_HOME; isolation would fetch another torch
BUILD_ENGINE = f"{PIP} install numpy cython setuptools wheel && env -u CUDA_HOME {PIP} install --no-build-isolation"
INSTALL_ENGINE = f"{BUILD_ENGINE} {ENGINE}=={ENGINE_VERSION}"
REBUILD_ENGINE = f"{BUILD_ENGINE} --force-reinstall --no-deps --no-cache-dir {ENGINE}=={ENGINE_VERSION}"


@dataclass(frozen=True)
class Finding:
    """One line of the report and, if something is wrong there, what and how to mend it."""

    name: str
    value: str
    problem: str = ""
    mend: str = ""  # a command
    broken: bool = False  # False with a problem: a warning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if something is broken."""
    findings = [check() for check in CHECKS]
    for finding in findings:
        print(f"{finding.name:<22} {finding.value}")
    print()
    for finding in findings:
        if finding.problem:
            print(f"{'BROKEN' if finding.broken else 'warning'}: {finding.name}: {finding.problem}")
            print(f"  mend it with: {finding.mend}")
    broken = sum(finding.broken for finding in findings)
    print(f"{broken} broken" if broken else "everything needed is here")
    return 1 if broken else 0


# ---- one function per line of the report -----------------------------------------------------------------------------


def check_python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", f"{version} ({sys.executable})")
    problem = "the engine and this package need Python 3.11, 3.12 or 3.13"
    return Finding("python", version, problem, "PYTHON=python3.12 VENV=.venv312 ./scripts/quickstart.sh", broken=True)


def check_package() -> Finding:
    folder = Path(fairseq_plugins.__file__).parent
    found = importlib.util.find_spec("fairseq")
    beside_engine = found is not None and (Path(found.origin or "").parent.parent / folder.name).is_dir()
    reach = "anywhere" if beside_engine else f"only in {folder.parent}"
    return Finding("fairseq_plugins", f"{fairseq_plugins.__version__} ({folder}; bare --user-dir name works {reach})")


def check_torch() -> Finding:
    version = _version("torch")
    if version is None:
        return Finding("torch", "missing", "not installed", f"{PIP} install torch==2.13.0", broken=True)
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 6):
        problem = "weights_only is not yet the default of torch.load before 2.6, so checkpoints could run code"
        return Finding("torch", version, problem, f"{PIP} install --upgrade torch==2.13.0", broken=True)
    reason = _import_error("torch")
    if reason:
        return Finding("torch", version, reason, f"{PIP} install --force-reinstall torch=={version}", broken=True)
    import torch

    return Finding("torch", f"{version} (CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads)")


def check_engine() -> Finding:
    version, official = _version(ENGINE), _version("fairseq")
    clean = f"{PIP} uninstall -y fairseq {ENGINE} && {INSTALL_ENGINE}"
    if official is not None:
        value = f"fairseq {official}" + (f" and {ENGINE} {version}" if version else "")
        problem = f"the official fairseq does not work on Python >= 3.11 and overwrites the files of {ENGINE}"
        return Finding("fairseq engine", value, problem, clean, broken=True)
    if version is None:
        return Finding("fairseq engine", "missing", "not installed", INSTALL_ENGINE, broken=True)
    if version != ENGINE_VERSION:
        problem = f"this package is written for and tested with {ENGINE_VERSION}"
        return Finding("fairseq engine", f"{ENGINE} {version}", problem, INSTALL_ENGINE)
    reason = _import_error("fairseq")
    return Finding("fairseq engine", f"{ENGINE} {version}", reason, REBUILD_ENGINE if reason else "", bool(reason))


def check_compiled() -> Finding:
    if _version(ENGINE) is None:
        return Finding("compiled extensions", "part of the engine")
    for module in COMPILED:
        reason = _import_error(module)
        if reason:
            problem = f"{module}: {reason}"
            return Finding("compiled extensions", "incomplete", problem, REBUILD_ENGINE, broken=True)
    return Finding("compiled extensions", ", ".join(module.rpartition(".")[2] for module in COMPILED))


def check_pinned(name: str) -> Finding:
    version, wanted = _version(name), PINNED[name]
    if version == wanted:
        return Finding(name, version)
    problem = f"the engine needs exactly {wanted}"
    return Finding(name, version or "missing", problem, f"{PIP} install {name}=={wanted}", broken=True)


def check_needed(name: str) -> Finding:
    version = _version(name)
    reason = "not installed" if version is None else _import_error(name)
    mend = f"{PIP} install --force-reinstall {name}" if reason else ""
    return Finding(name, version or "missing", reason, mend, broken=bool(reason))


def check_apex() -> Finding:
    """NVIDIA's apex and an unrelated package share the name; only the former holds what fairseq imports."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return Finding("NVIDIA apex", "not installed (optional: fused layer norm and Adam on a GPU)")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if not any(all((folder / part).is_dir() for part in ("normalization", "optimizers")) for folder in folders):
        value = f"not installed; 'apex' {_version('apex') or ''} is an unrelated package".replace("  ", " ")
        problem = "the package of that name on PyPI is not NVIDIA's and speeds nothing up"
        return Finding("NVIDIA apex", value, problem, f"{PIP} uninstall -y apex")
    version = _version("apex") or "unknown version"
    missing = [name for name in ("amp_C", "fused_layer_norm_cuda") if importlib.util.find_spec(name) is None]
    if missing:
        # on a GPU machine fairseq takes apex's layer norm whenever it can be imported; building a model then fails
        problem = f"built without its CUDA extensions ({', '.join(missing)}); on a GPU models cannot be built with it"
        return Finding("NVIDIA apex", f"{version}, without CUDA extensions", problem, f"{PIP} uninstall -y apex")
    return Finding("NVIDIA apex", f"{version}, with CUDA extensions")


def check_optional(name: str) -> Finding:
    return Finding(name, _version(name) or f"not installed (optional: {OPTIONAL[name]})")


def check_gpu() -> Finding:
    if _import_error("torch"):
        return Finding("GPU", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("GPU", ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in devices))
    driver = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    if driver and driver.returncode == 0 and driver.stdout.strip():
        problem = "there is a GPU but this torch cannot use it: a CPU build, or a driver older than its CUDA"
        return Finding("GPU", "not usable", problem, f"{PIP} install --force-reinstall torch==2.13.0")
    return Finding("GPU", f"none; {os.cpu_count()} CPU cores")


def check_compiler() -> Finding:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return Finding("C++ compiler", "none (needed only to compile the engine; Python 3.12 on x86-64 has a wheel)")
    answer = subprocess.run([compiler, "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    return Finding("C++ compiler", f"{compiler} {answer.stdout.strip()}")


def check_registration() -> Finding:
    """Everything together: does the engine accept what this package registers?"""
    if _import_error("fairseq"):
        return Finding("registration", "skipped without an engine")
    try:
        with _silence():
            fairseq_plugins.register()
            from fairseq.models import ARCH_MODEL_REGISTRY
    except Exception as error:
        problem = f"{type(error).__name__}: {_first_line(error)}"
        mend = f"{PIP} install --no-build-isolation --force-reinstall --no-deps ."
        return Finding("registration", "failed", problem, mend, broken=True)
    ours = [name for name, cls in ARCH_MODEL_REGISTRY.items() if cls.__module__.startswith("fairseq_plugins")]
    return Finding("registration", f"{len(ours)} architectures of this package")


CHECKS: List[Callable[[], Finding]] = [
    check_python,
    check_package,
    check_torch,
    check_engine,
    check_compiled,
    lambda: check_pinned("hydra-core"),
    lambda: check_pinned("omegaconf"),
    lambda: check_needed("numpy"),
    lambda: check_needed("sentencepiece"),
    lambda: check_needed("sacrebleu"),
    check_apex,
    *(functools.partial(check_optional, name) for name in OPTIONAL),
    check_gpu,
    check_compiler,
    check_registration,
]

# ---- helpers ---------------------------------------------------------------------------------------------------------


def _version(distribution: str) -> Optional[str]:
    """The installed version, None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_error(module: str) -> str:
    """Why ``module`` cannot be imported; "" if it can."""
    try:
        with _silence():
            importlib.import_module(module)
    except Exception as error:  # a broken binary raises OSError, RuntimeError, ValueError, ...
        return f"cannot be imported ({type(error).__name__}: {_first_line(error)})"
    return ""


@contextlib.contextmanager
def _silence():
    """Hide what libraries print, log and warn while they are imported."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
    finally:
        logging.disable(logging.NOTSET)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]

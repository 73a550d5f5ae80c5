"""An installed package, for the tests of whole commands, and one world of good files for those of hostile input."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Iterator

import pytest

from tests.helpers import REPOSITORY
from tests.hostile_support import World, make_world, snapshot
from tests.system.installed import run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel built from a clean copy of the sources, as scripts/_setup.sh builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    shutil.copytree(
        REPOSITORY / "fairseq_plugins", folder / "fairseq_plugins", ignore=shutil.ignore_patterns("__pycache__")
    )
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    run([sys.executable, "-m", "pip", "wheel", *offline, "-w", folder, folder], folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installation(wheel, tmp_path_factory):
    """The bin folder of an environment that holds the engine and the wheel in one site-packages, as a user's does.

    A bare name is looked up beside the engine, so the engine is copied (by hard links); the rest is borrowed.
    """
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    ours, theirs = Path(sysconfig.get_path("purelib")), next(environment.glob("lib/python*/site-packages"))
    (theirs / "borrowed.pth").write_text(f"{ours}\n")
    for package in ("fairseq", "fairseq_cli"):
        shutil.copytree(ours / package, theirs / package, copy_function=link_or_copy)
    for script in Path(sys.executable).parent.glob("fairseq-*"):
        copy = environment / "bin" / script.name
        copy.write_text(f"#!{environment}/bin/python\n" + script.read_text().split("\n", 1)[1])
        copy.chmod(0o755)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    run([*pip, "install", "--no-deps", "--no-index", "--force-reinstall", wheel], environment)
    return environment / "bin"


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once; commands are seen to leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        made = make_world(tmp_path_factory.mktemp("hostile") / "world", patch)
    yield made
    assert snapshot(made.root) == made.files

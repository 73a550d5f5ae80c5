"""The benchmarks' modules live beside each other and in no package."""

import importlib
import sys
from types import ModuleType
from typing import Callable

import pytest

from tests.helpers import REPOSITORY


@pytest.fixture(scope="session")
def module() -> Callable[[str], ModuleType]:
    """Imports a module of scripts/benchmarks by its name."""
    folder = str(REPOSITORY / "scripts" / "benchmarks")

    def load(name: str) -> ModuleType:
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)

    return load

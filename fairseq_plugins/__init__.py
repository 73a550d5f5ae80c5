"""Text-only fairseq plug-ins: pass this directory to fairseq as ``--user-dir``.

``register()`` makes every model, criterion, task and optimiser of the package known to fairseq. fairseq imports
``tasks/`` and ``models/`` of a user-dir by itself but never ``criterions/`` or ``optim/``, and it does so after
importing this file; registering everything from here keeps one road for the command line and for Python.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

__version__ = "0.1.0"

REGISTERING = ("models", "criterions", "tasks", "optim")  # subpackages whose modules register themselves when imported

_registered = False


def register() -> None:
    """Prepare fairseq (``compat.apply``) and import every module that registers something. Idempotent.

    Raises:
        ModuleNotFoundError: fairseq is not installed.
    """
    global _registered
    if _registered:
        return
    _registered = True  # set first: a module imported below may call register() again
    try:
        importlib.import_module(f"{__name__}.compat").apply()
        for subpackage in REGISTERING:
            folder = Path(__file__).parent / subpackage
            for module in sorted(pkgutil.iter_modules([str(folder)]), key=lambda module: module.name):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{__name__}.{subpackage}.{module.name}")
    except BaseException:
        _registered = False
        raise


# Under --user-dir fairseq is always loaded by now. Without it (`python -m fairseq_plugins doctor`) the package must
# import fast and without an engine.
if "fairseq" in sys.modules:
    register()

"""The house rules of docs/design.md, checked on the sources: floors, names, sizes, collisions with stock fairseq."""

import ast
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fairseq_plugins"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# part of the package -> the parts it may import; "" is fairseq_plugins/__init__.py itself
GROUND = {"compat", "_verbs", "_training_watch", "_whole_checkpoints"}  # floor 0, open to all that knows fairseq
FLOORS = {
    "modules": {"modules"},
    "data": {"data"},
    "checkpoints": {"checkpoints"},
    "models": GROUND | {"models", "modules", "checkpoints"},
    "criterions": GROUND | {"criterions", "modules"},
    "optim": GROUND | {"optim", "modules"},
    "tasks": GROUND | {"tasks", "data"},
    "opus100": GROUND | {"opus100", "data", "checkpoints", "modules", ""},
    "cli": GROUND | {"cli", "opus100", "data", "checkpoints", "modules", ""},
    "compat": {
        "_verbs", "_expert_parallel_compat", "_options_compat", "_training_watch", "_whole_checkpoints", "_last_words",
    },
    "_options_compat": {"compat"},
    "_expert_parallel_compat": {"compat", "_whole_checkpoints"},
    "_whole_checkpoints": {"compat"},
    "_last_words": {"compat"},
    "_training_watch": {"compat"},
    "_verbs": set(),
    "__main__": {"_verbs"},
    "": set(),
}
# part -> the top-level packages besides Python's own that it may import; parts that are not listed are free
FOREIGN = {
    "modules": {"torch"},
    "data": {"numpy", "torch", "fairseq.data", "sacrebleu"},
    "checkpoints": {"torch"},
    "_verbs": set(),
    "__main__": set(),
    "": set(),
}


def module_name(path):
    """a/b/c.py -> a.b.c, a/b/__init__.py -> a.b"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, name, is_package):
    """Every dotted name that a module imports, relative ones resolved; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if is_package else name.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join(parents + ([base] if base else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(name):
    """fairseq_plugins.models.x -> models; names that fairseq_plugins itself defines -> the empty part."""
    part = name.split(".")[1] if "." in name else ""
    return part if part in FLOORS else ""


def violations(source, name, is_package=False):
    """What a module imports although its floor may not."""
    part = part_of(name)
    for imported in imports(ast.parse(source), name, is_package):
        top = imported.split(".")[0]
        if top == "fairseq_plugins":
            if part_of(imported) not in FLOORS[part] | {part}:
                yield imported
            elif part == "modules" and ".modules.moe" in imported and ".modules.moe" not in name:
                yield imported
        elif part in FOREIGN and top not in sys.stdlib_module_names:
            if not any(imported == allowed or imported.startswith(allowed + ".") for allowed in FOREIGN[part]):
                yield imported


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_floors(path):
    assert not list(violations(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py"))


@pytest.mark.parametrize(
    "name, source, wrong",
    [
        ("modules.linear", "import fairseq", ["fairseq"]),
        ("modules.linear", "from fairseq_plugins.models import x", ["fairseq_plugins.models.x"]),
        ("modules.linear", "from ..data.symbols import x", ["fairseq_plugins.data.symbols.x"]),
        ("modules.linear", "from .moe.router import x", ["fairseq_plugins.modules.moe.router.x"]),
        ("modules.moe.router", "from .experts import x\nfrom ..linear import y\nimport torch.nn", []),
        ("data.symbols", "import fairseq.data.dictionary\nimport fairseq.tasks", ["fairseq.tasks"]),
        ("models.m", "def f():\n    from fairseq_plugins.tasks import t", ["fairseq_plugins.tasks.t"]),
        ("opus100.train", "from fairseq_plugins.models import x", ["fairseq_plugins.models.x"]),
        ("opus100.train", "from fairseq_plugins import register\nfrom . import files", []),
        ("cli.average", "from fairseq_plugins.modules.linear import x", []),
        ("cli.average", "from fairseq_plugins.models import x", ["fairseq_plugins.models.x"]),
    ],
)
def test_the_floor_test_sees_what_it_should(name, source, wrong):
    assert list(violations(source, f"fairseq_plugins.{name}")) == wrong


def test_no_file_is_too_long():
    files = [path for folder in ("fairseq_plugins", "scripts", "tests") for path in (ROOT / folder).rglob("*.*")]
    files = [path for path in files if path.suffix in (".py", ".sh")]
    assert len(files) > 20
    assert not {str(path): n for path in files if (n := len(path.read_text("utf-8").splitlines())) > MAX_LINES}


def test_options_are_never_guessed():
    """getattr(args, "name", default) hides a misspelled option; only compat faces stock objects of any age."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) == 3:
                if ast.unparse(node.args[0]).removeprefix("self.") in ("args", "cfg"):
                    found.append(path.relative_to(PACKAGE))
    assert set(found) <= {Path("compat.py"), Path("_options_compat.py")}


def test_every_folder_of_the_package_is_one():
    """setup.py finds packages by their __init__.py; a folder without one would be missing from the wheel."""
    folders = {path.parent for path in SOURCES}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_public_modules_say_what_they_are():
    undocumented = [str(path) for path in SOURCES if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None]
    assert not undocumented


# ---- registered names ------------------------------------------------------------------------------------------------

RECORDER = textwrap.dedent(
    """
    import collections, importlib, json, logging, sys
    logging.disable(logging.WARNING)
    import fairseq.criterions, fairseq.models, fairseq.optim, fairseq.optim.lr_scheduler, fairseq.tasks

    KINDS = {  # kind -> (module, function that registers, registry of stock names, which argument is the name)
        "model": (fairseq.models, "register_model", fairseq.models.MODEL_REGISTRY, 0),
        "arch": (fairseq.models, "register_model_architecture", fairseq.models.ARCH_MODEL_REGISTRY, 1),
        "task": (fairseq.tasks, "register_task", fairseq.tasks.TASK_REGISTRY, 0),
        "criterion": (fairseq.criterions, "register_criterion", fairseq.criterions.CRITERION_REGISTRY, 0),
        "optimizer": (fairseq.optim, "register_optimizer", fairseq.optim.OPTIMIZER_REGISTRY, 0),
        "lr_scheduler": (
            fairseq.optim.lr_scheduler, "register_lr_scheduler", fairseq.optim.lr_scheduler.LR_SCHEDULER_REGISTRY, 0),
    }
    stock = {kind: sorted(registry) for kind, (_, _, registry, _) in KINDS.items()}
    ours = collections.defaultdict(list)

    def record(kind, register, position):
        def recorded(*args, **kwargs):
            frame = sys._getframe(1)
            ours[kind].append((args[position], frame.f_globals["__name__"]))
            return register(*args, **kwargs)
        return recorded

    for kind, (module, function, registry, position) in KINDS.items():
        setattr(module, function, record(kind, getattr(module, function), position))
    import fairseq_plugins
    print(json.dumps({"stock": stock, "ours": ours}))
    """
)


@pytest.fixture(scope="module")
def registered():
    """kind -> stock names, and kind -> [(name, module)] in the order in which this package asked for them."""
    command = [sys.executable, "-c", RECORDER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_name_is_taken_from_stock_fairseq_or_used_twice(registered):
    """fairseq answers a taken model name with the old class, without a word."""
    assert "transformer" in registered["stock"]["arch"]
    assert {"transformer_mt", "transformer_mlm", "transformer_clm"} <= {name for name, _ in registered["ours"]["model"]}
    for kind, pairs in registered["ours"].items():
        names = [name for name, _ in pairs]
        assert not set(names) & set(registered["stock"][kind])
        assert len(names) == len(set(names)), f"{kind}: {names}"


@pytest.mark.parametrize("kind, folder", [("model", "models"), ("task", "tasks"), ("criterion", "criterions")])
def test_file_name_is_registered_name(registered, kind, folder):
    for name, module in registered["ours"].get(kind, []):
        assert module == f"fairseq_plugins.{folder}.{name}"
    files = {path.stem for path in (PACKAGE / folder).glob("*.py") if not path.stem.startswith("_")}
    assert files == {name for name, _ in registered["ours"].get(kind, [])}

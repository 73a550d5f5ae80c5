"""Every row of docs/papers.md resolves: file, name in it, option, and an example that shows the option."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs/papers.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| (?!paper )[^-]", line)
]


def names(path: Path) -> set:
    """Everything defined at the top of a Python file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found.update(target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.AnnAssign):
            found.add(node.target.id)
    return found


def known_flags() -> set:
    """Flags that the engine or this package's own files declare, as written or as an option field."""
    package = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "fairseq_plugins").rglob("*.py"))
    fields = {"--" + name.replace("_", "-") for name in re.findall(r"^    ([a-z_]+): .*?= field\(", package, re.M)}
    return fields | set(re.findall(r"[\"' ](--[a-z0-9-]+)[\"' ]", package)) | {"--arch"}


def test_there_are_rows():
    assert len(ROWS) >= 10 and all(len(row) == 6 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0][:12]}-{row[3][:40]}")
def test_row_resolves(row):
    paper, fact, source, where, option, example = row
    assert paper and fact and source
    path, _, name = where.strip("`").partition(":")
    file = ROOT / "fairseq_plugins" / path
    assert file.is_file(), f"{path} does not exist"
    assert not name or name in names(file), f"{path} has no {name}"
    flag, _, value = option.strip("`").partition(" ")
    assert flag in known_flags(), f"{flag} is no option"
    if flag == "--arch":
        sources = "\n".join(
            model.read_text(encoding="utf-8") for model in (ROOT / "fairseq_plugins/models").glob("*.py")
        )
        assert f'"{value}"' in sources, f"{value} is no preset"
    wanted = value if flag == "--arch" else f"{flag} {value}".strip()
    shown = re.search(rf"(?<!\w){re.escape(wanted)}(?![\w-])", text_of(ROOT / example.strip("`")))
    assert shown, f"{example} does not show {wanted}"


def text_of(example: Path) -> str:
    """An example: one page, or a folder with a README.md, scripts and configurations."""
    if example.is_file():
        return example.read_text(encoding="utf-8")
    assert (example / "README.md").is_file(), f"{example} is no page and no folder with a README.md"
    files = [path for end in ("md", "sh", "yaml") for path in sorted(example.glob(f"*.{end}"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)

"""What the contracts in pyproject.toml cannot say of the rooms: who awaits, who opens a file.

The contracts themselves are checked by import-linter: `make check`, and here.
"""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.parsing import parsed

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "publisher"
FILES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS: list[dict[str, Any]] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text(encoding="utf-8")
)["tool"]["importlinter"]["contracts"]


def pure_files() -> list[Path]:
    """The files of the modules that the contract calls pure."""
    [contract] = [each for each in CONTRACTS if each["name"].startswith("Rules are pure")]
    found: list[Path] = []
    for module in contract["source_modules"]:
        path = ROOT / module.replace(".", "/")
        found += path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return sorted(found)


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
every_rule = pytest.mark.parametrize(
    "path", pure_files(), ids=lambda path: str(path.relative_to(PACKAGE))
)


def test_the_contracts_hold() -> None:
    """The order of the rooms, pure rules, no circles, ports only."""
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


@every_rule
def test_rules_are_pure(path: Path) -> None:
    """Nothing is awaited, opened, printed or global; time is an argument."""
    for node in ast.walk(parsed(path)):
        assert not isinstance(
            node,
            ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Global,
        ), f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("open", "print", "input", "exec", "eval", "__import__")
            assert called not in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")


def test_no_two_files_have_the_same_name() -> None:
    """Whoever searches a file by its name finds one."""
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


@every_file
def test_every_file_says_what_it_is_for(path: Path) -> None:
    """A docstring opens it."""
    text = path.read_text(encoding="utf-8").strip()
    assert ast.get_docstring(parsed(path)) or (path.name == "__init__.py" and not text)

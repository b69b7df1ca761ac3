"""Messages as three places hold them: the code, its catalogue, and the tests that provoke them.

What changes in a message is `{}` here, whatever it is called.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.parsing import parsed

ROOT: Final = Path(__file__).parents[1]
CATALOGUE: Final = ROOT / "docs" / "reference" / "errors.md"

_ENTRY: Final = re.compile(
    r"^- \*\*`(?P<text>.+)`\*\*(?: \((?P<reasons>.+)\))?\n"
    r"  - Cause: (?P<cause>.+)\n"
    r"  - Cure: (?P<cure>.+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Entry:
    """One message of the catalogue."""

    text: str
    reasons: tuple[str, ...]
    parts: tuple[str, ...]
    """Other words of the code that its explanation quotes."""


def template(text: str) -> str:
    """The text with all that changes as `{}`, without the end of its line."""
    return re.sub(r"\{[^{}]*\}", "{}", text).rstrip("\n")


def catalogue() -> list[Entry]:
    return [
        Entry(
            template(found["text"]),
            tuple(re.findall(r"`(\w+)`", found["reasons"] or "")),
            tuple(map(template, re.findall(r"`([^`]+)`", found["cause"]))),
        )
        for found in _ENTRY.finditer(CATALOGUE.read_text(encoding="utf-8"))
    ]


def strings(tree: ast.AST, constants: dict[str, str] | None = None) -> Iterator[tuple[int, str]]:
    """Line and template of each text in a piece of code, docstrings left out."""
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.lineno, template(tree.value)
    elif isinstance(tree, ast.JoinedStr):
        text = ""
        for part in tree.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                name = ast.unparse(part.value)
                text += (constants or {}).get(name, "{}")
                yield from strings(part.value, constants)
        yield tree.lineno, template(text)
    else:
        for child in ast.iter_child_nodes(tree):
            yield from strings(child, constants)


def texts_of(path: Path) -> list[tuple[int, str]]:
    """All texts of a file; in those with values, its own constants are filled in."""
    tree = parsed(path)
    constants = {
        ast.unparse(name): node.value.value
        for node in tree.body
        for name in (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    used = set(constants.values())
    return [(line, text) for line, text in strings(tree, constants) if text not in used]


@cache
def spoken_by(name: str) -> dict[str, list[str]]:
    """The texts of each test of a file, with those of the constants that it uses."""
    tree = parsed(ROOT / "tests" / name)
    shared: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            shared |= {ast.unparse(target): node for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            shared[ast.unparse(node.target)] = node
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_":
            used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            places = [node, *(shared[each] for each in sorted(used & shared.keys()))]
            found[node.name] = [text for place in places for _, text in strings(place)]
    return found

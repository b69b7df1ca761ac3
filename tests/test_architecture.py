"""Imports point one way, rules are pure, and every file can be read at a sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parsing import parsed

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "publisher"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300

# Design §8. A room may import the rooms below its own line, and itself.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("app", "commands"),
    ("flow", "edges"),
    ("parking", "ordering", "rezoning"),
    ("asking", "committing"),
    ("job",),
    ("rules",),
    ("settings", "signals"),
    ("errors", "model"),
    ("__init__",),
)
LEVEL = {room: -number for number, rooms in enumerate(LEVELS) for room in rooms}

# What reads a clock, the environment, the network, the disk, or keeps time.
IMPURE = {
    "aiohttp", "aiokafka", "asyncio", "concurrent", "http", "io", "logging", "multiprocessing",
    "os", "pathlib", "prometheus_client", "random", "secrets", "select", "shutil", "signal",
    "socket", "ssl", "structlog", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
EDGE_ONLY = {"aiohttp", "aiokafka", "prometheus_client", "structlog"}


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def room(module: str) -> str:
    """The part of the house that a module of ours belongs to."""
    return [*module.split("."), "__init__"][1]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else str(node.module)


def tree_of(path: Path) -> ast.Module:
    return parsed(path)


def ours(path: Path) -> set[str]:
    return {name for name in imported(tree_of(path)) if name.split(".")[0] == "publisher"}


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
every_rule = pytest.mark.parametrize(
    "path", sorted((PACKAGE / "rules").glob("*.py")), ids=lambda path: str(path.name)
)


def test_the_checks_see_the_package() -> None:
    """All rooms of the design exist, so that no check passes on nothing."""
    assert {room(module) for module in MODULES} == set(LEVEL)
    assert "publisher.rules.zone" in ours(PACKAGE / "rules" / "request.py")
    assert "publisher.rules" not in ours(PACKAGE / "rules" / "publication.py")


@every_file
def test_imports_point_one_way(path: Path) -> None:
    """`cli -> commands -> app -> flow, edges -> asking -> job -> rules -> settings, signals`."""
    mine = room(module_of(path))
    for name in ours(path):
        theirs = room(name)
        assert theirs == mine or LEVEL[theirs] < LEVEL[mine], f"{mine} must not import {name}"


@every_file
def test_the_service_knows_nothing_of_its_sandbox(path: Path) -> None:
    """What plays the API or Kafka in tests and demos is never part of the service."""
    others = {name.split(".")[0] for name in imported(tree_of(path))}
    assert not others & {"sandbox", "tests", "benchmarks", "pytest", "hypothesis"}


@every_file
def test_only_edges_touch_the_outside(path: Path) -> None:
    """The clients of Kafka, HTTP, metrics and logs are met in edges, and built in app."""
    if room(module_of(path)) in ("edges", "app"):
        return
    assert not {name.split(".")[0] for name in imported(tree_of(path))} & EDGE_ONLY


def test_no_imports_in_a_circle() -> None:
    """Every module can be read after those it imports."""
    graph = {module_of(path): ours(path) - {module_of(path)} for path in FILES}
    read: set[str] = set()
    while graph:
        # Its own package's __init__ is no import of the module's making.
        ready = {name for name, needs in graph.items() if not (needs & graph.keys())}
        assert ready, f"in a circle: {sorted(graph)}"
        read |= ready
        graph = {name: needs for name, needs in graph.items() if name not in ready}
    assert read == MODULES


@every_rule
def test_rules_are_pure(path: Path) -> None:
    """No clock, no environment, no network, no disk, no logger: time and settings are arguments."""
    tree = tree_of(path)
    assert not {name.split(".")[0] for name in imported(tree)} & IMPURE
    for node in ast.walk(tree):
        assert not isinstance(
            node,
            ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Global,
        ), f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("open", "print", "input", "exec", "eval", "__import__")
            assert called not in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")


@every_file
def test_every_file_is_short(path: Path) -> None:
    """A file that does not fit into a head is two files."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@every_file
def test_every_file_says_what_it_is_for(path: Path) -> None:
    """A docstring opens it; a rule says that it is pure."""
    if not path.read_text(encoding="utf-8").strip():
        assert path.name == "__init__.py"
        return
    told = ast.get_docstring(tree_of(path))
    assert told
    if room(module_of(path)) == "rules":
        assert "Pure." in told

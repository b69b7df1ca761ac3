"""`make mutants`: one line of the product is made wrong, and a test must notice it.

A mutant that no test notices is a rule that nobody holds: it survives, and the run fails. A
mutant whose line is no longer in the product is an error, so that this list follows the code.
Each runs in a copy of the tree; a test that hangs because of it has noticed it.

    python -m tests.mutants [--kafka] [WORD ...]

WORD: only mutants with it in their file, line or tests. --kafka: also those that need a broker.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

REPOSITORY: Final = Path(__file__).parents[1]
SECONDS: Final = 240
"""A test that takes longer hangs because of the mutant."""
PRELOADED: Final = ("aiohttp", "aiokafka", "hypothesis", "jsonschema", "orjson", "pytest")
"""Imported once: each mutant runs in a fork of this process."""

OUTPUT: Final = "mutants.out"
"""What the tests said last, in the copy."""


class Mutant(NamedTuple):
    """One wrong line."""

    file: str
    right: str
    """As it stands in the file, at exactly one place."""
    wrong: str
    tests: str
    """Those that should notice, as for pytest, separated by spaces."""
    kafka: bool = False
    """They start a broker."""

    @property
    def name(self) -> str:
        return f"{self.file}: {self.right.strip()}  ->  {self.wrong.strip()}"


def main(arguments: Sequence[str]) -> int:
    """Run the mutants; 1 = one survived, or none could be made."""
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(arguments)
    from tests.mutant_list import MUTANTS

    if errors := [text for mutant in MUTANTS if (text := _misplaced(mutant))]:
        sys.stdout.write("\n".join(errors) + "\n")
        return 1
    chosen = [
        mutant
        for mutant in sorted(MUTANTS, key=lambda mutant: mutant.kafka)
        if (options.kafka or not mutant.kafka)
        and (not options.words or any(word in " ".join(mutant[:4]) for word in options.words))
    ]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        _copy(tree)
        for name in PRELOADED:
            __import__(name)
        tests = sorted({test for mutant in chosen for test in mutant.tests.split()})
        if _fails(tree, tests, seconds=SECONDS * 4):
            text = (tree / OUTPUT).read_text(encoding="utf-8", errors="replace")
            sys.stdout.write(f"{text[-5000:]}\nthe tests fail without any mutant\n")
            return 1
        survivors = [mutant for mutant in chosen if _survives(tree, mutant)]
    sys.stdout.write(f"{len(chosen)} mutants, {len(survivors)} survived\n")
    sys.stdout.writelines(f"  {mutant.name}\n" for mutant in survivors)
    return 1 if survivors else 0


def _misplaced(mutant: Mutant) -> str:
    count = (REPOSITORY / mutant.file).read_text(encoding="utf-8").count(mutant.right)
    return "" if count == 1 else f"{mutant.file}: at {count} places instead of 1: {mutant.right!r}"


def _copy(tree: Path) -> None:
    """What git knows of and what it would add, as it is now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True).stdout
    for name in names.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tree / name)


def _survives(tree: Path, mutant: Mutant) -> bool:
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
    began = time.monotonic()
    try:
        survives = not _fails(tree, mutant.tests.split(), SECONDS)
    finally:
        path.write_text(text, encoding="utf-8")
    word = "SURVIVED" if survives else "noticed"
    sys.stdout.write(f"{word} after {time.monotonic() - began:.0f} s  {mutant.name}\n")
    sys.stdout.flush()
    return survives


def _fails(tree: Path, tests: Sequence[str], seconds: float) -> bool:
    """Whether one of the tests fails in that tree, or hangs."""
    child = get_context("fork").Process(target=_test, args=(tree, tests))
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        return True
    if child.exitcode > 1:
        raise SystemExit(f"pytest ended with {child.exitcode}: {' '.join(tests)}")
    return child.exitcode == 1


def _test(tree: Path, tests: Sequence[str]) -> None:
    """In a process of its own: run the tests with the tree's own code."""
    import pytest

    os.chdir(tree)
    os.environ["NO_SHRINKING"] = "yes"
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "publisher")]:
        del sys.modules[name]
    sys.path[0] = str(tree)
    sys.dont_write_bytecode = True
    output = os.open(tree / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    plain = [
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    code = pytest.main([*plain, *tests])
    import publisher

    if not str(publisher.__file__).startswith(str(tree)):
        code = 9
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

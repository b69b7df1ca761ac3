"""What the tests need from npm and Maven: fetched once, kept in the sandbox's cache."""

import shutil
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from sandbox.kafka import install

MADE: Final = shutil.ignore_patterns("node_modules", "lib", "*.js")
"""What a person who tries a folder out leaves in it."""


class Missing(Exception):  # noqa: N818  # a state of the machine, not a fault in it
    """A program is not here; the text is one line for a person."""


def prepared(folder: Path, *commands: Sequence[str]) -> Path:
    """A copy of the folder in which the commands have run; made anew when a file of it changes.

    Raises Missing.
    """
    for program, *_ in commands:
        if shutil.which(program) is None:
            raise Missing(f"no {program} here: what is in {folder.name}/ is not tested")
    cache = install.cache()
    cache.mkdir(parents=True, exist_ok=True)
    digest = sha256(repr(commands).encode())
    ignored = MADE(str(folder), [path.name for path in folder.iterdir()])
    for path in sorted(folder.iterdir()):
        if path.name not in ignored:
            digest.update(path.name.encode() + path.read_bytes())
    made = cache / f"{folder.name}-{digest.hexdigest()[:12]}"
    with install._locked(cache / f"{folder.name}.lock"):
        if not made.exists():
            with install._appearing(made) as new:
                shutil.copytree(folder, new, ignore=MADE)
                for command in commands:
                    done = subprocess.run(
                        command, cwd=new, capture_output=True, text=True, check=False
                    )
                    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return made

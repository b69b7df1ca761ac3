"""Runs a command of the service as people do: in a process of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended: exit code, standard output and standard error."""

    code: int
    out: str
    problems: str


async def command(
    settings: Mapping[str, str], *words: str, kill_after: float | None = None
) -> Ended:
    """Run it with these settings and nothing else; it may complain, and never crashes.

    Killed hard where it takes longer than `kill_after` seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "publisher", *words),
        env={"PATH": os.environ["PATH"], **settings},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ending = asyncio.create_task(process.communicate())
    await asyncio.wait([ending], timeout=kill_after)
    if not ending.done():
        process.kill()
    out, problems = await ending
    assert b"Traceback" not in problems, problems
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), problems.decode())

"""Runs a command of the service as people do: in a process of its own."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from tests.prepared import forked


class Ended(NamedTuple):
    """How a command ended: exit code, standard output and standard error."""

    code: int
    out: str
    problems: str


async def command(
    settings: Mapping[str, str], *words: str, kill_after: float | None = None
) -> Ended:
    """See `run`; what it has printed as text."""
    code, out, problems = await run(settings, *words, kill_after=kill_after)
    return Ended(code, out.decode(), problems)


async def run(
    settings: Mapping[str, str], *words: str, kill_after: float | None = None
) -> tuple[int, bytes, str]:
    """Run a command with these settings and nothing else; it may complain, and never crashes.

    Exit code, standard output and standard error. It is killed hard after `kill_after` seconds.
    """
    env = {"PATH": os.environ["PATH"], **settings}
    code, out, problems = await forked(words, env, kill_after)
    assert b"Traceback" not in problems, problems
    return code, out, problems.decode()

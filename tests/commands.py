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
    """Run it with these settings and nothing else; it may complain, and never crashes.

    Killed hard where it takes longer than `kill_after` seconds.
    """
    env = {"PATH": os.environ["PATH"], **settings}
    code, out, problems = await forked(words, env, kill_after)
    assert b"Traceback" not in problems, problems
    return Ended(code, out.decode(), problems.decode())

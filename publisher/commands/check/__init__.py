"""`check`: looks whether everything is in place, publishes nothing, changes nothing.

`checklist` is the list, `api` and `kafka` find out, `show` renders. All is asked at once,
and what has not answered after some seconds has failed: it ends within 15 s, always.
"""

import asyncio
import logging
import os
import sys
from typing import Final

from publisher.commands.check import api_checks, kafka_checks, output
from publisher.commands.check.checklist import Check, Checklist
from publisher.errors import SettingsError
from publisher.kafka.clients import Clients
from publisher.settings import Settings, load

SECONDS: Final = 12.0
"""Longest time for all that is asked; with the start and the end of the process below 15 s."""


def main(*, as_json: bool) -> int:
    """Check everything; the exit code."""
    # What libraries log of failures, the list tells better.
    logging.getLogger().addHandler(logging.NullHandler())
    checklist = Checklist()
    check = checklist.add("Settings", "settings")["settings"]
    try:
        settings = load()
    except SettingsError as error:
        check.failed("\n".join(error.problems))
        output.everything(checklist, 2, as_json=as_json)
        return 2
    output.begin(as_json=as_json)
    # No `asyncio.run`: at its end it waits for name look-ups that hang.
    loop = asyncio.new_event_loop()
    code = loop.run_until_complete(find_out(settings, checklist, check))
    output.everything(checklist, code, as_json=as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # for the same reason: the interpreter would wait for them, too


async def find_out(settings: Settings, checklist: Checklist, check: Check) -> int:
    """Try everything; `check` is the line of the settings. The exit code."""
    names = ", ".join(operation.name for operation in settings.operations)
    if settings.hints:
        check.hint("\n".join(settings.hints))
    else:
        check.ok(f"complete, for {names}")
    tasks = [
        asyncio.ensure_future(api_checks.check(settings, operation, checklist))
        for operation in settings.operations
    ]
    wrong = 0
    try:
        clients = Clients(settings)
    except SettingsError as error:
        check.failed("\n".join(error.problems))
        checklist.add(f"Kafka, {settings.kafka.bootstrap_servers}", "connection")
        wrong = 2
    else:
        tasks.append(asyncio.ensure_future(kafka_checks.check(settings, clients, checklist)))
    _, late = await asyncio.wait(tasks, timeout=SECONDS)
    checklist.end(SECONDS)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=0.5)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()  # a mistake of ours outside of any check: told, not hidden
    return wrong or checklist.exit_code

"""`wolkvox-publisher check`: tests whether the service could run. It publishes and changes nothing.

`checklist` holds the checks and their results, `api_checks` and `kafka_checks` fill it in, and
`output` prints it. All checks run at once. A check without an answer after some seconds has failed,
so the command always ends within 15 s.
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
"""Longest time for all checks. With start and end of the process the command takes below 15 s."""


def main(*, as_json: bool) -> int:
    """Check everything, print the results and return the exit code."""
    # The checklist reports failures better than the log messages of the libraries.
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
    # Not `asyncio.run`: it waits at its end for hanging name look-ups.
    loop = asyncio.new_event_loop()
    exit_code = loop.run_until_complete(find_out(settings, checklist, check))
    output.everything(checklist, exit_code, as_json=as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # for the same reason: the interpreter would wait for them, too


async def find_out(settings: Settings, checklist: Checklist, check: Check) -> int:
    """Run all checks and return the exit code. `check` is the line about the settings."""
    names = ", ".join(operation.name for operation in settings.operations)
    if settings.hints:
        check.hint("\n".join(settings.hints))
    else:
        check.ok(f"complete, for {names}")
    tasks = [
        asyncio.ensure_future(api_checks.check(settings, operation, checklist))
        for operation in settings.operations
    ]
    settings_code = 0
    try:
        clients = Clients(settings)
    except SettingsError as error:
        check.failed("\n".join(error.problems))
        checklist.add(f"Kafka, {settings.kafka.bootstrap_servers}", "connection")
        settings_code = 2
    else:
        tasks.append(asyncio.ensure_future(kafka_checks.check(settings, clients, checklist)))
    _, unfinished = await asyncio.wait(tasks, timeout=SECONDS)
    checklist.end(SECONDS)
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished, timeout=0.5)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()  # raises an error of our own code outside of any check
    return settings_code or checklist.exit_code

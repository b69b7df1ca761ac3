"""Shared code of commands that look into Kafka: settings, failures, exit codes.

A failure becomes a line on standard error and an exit code: 2 for wrong settings, 1 for others.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from publisher.commands.status_reader import NoAnswerError
from publisher.errors import PublisherError, SettingsError
from publisher.settings import Operation, Settings, load
from publisher.telemetry.page import duration


class RefusedError(Exception):
    """The command cannot do what was asked for; the text says why, and what to do."""


def run(doing: Callable[[Settings], Coroutine[Any, Any, int]], what: str = "") -> int:
    """Run a command with its settings; returns its exit code.

    What the command raises becomes a line and an exit code. `what` names what cannot be read while
    Kafka gives no answer; give it if the failures do not say this.
    """
    # These lines say in our words what libraries log.
    logging.root.addHandler(logging.NullHandler())
    try:
        return asyncio.run(doing(load()))
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    except (RefusedError, NoAnswerError) as error:
        complain(str(error))
    except PublisherError as error:
        complain(f"{what} cannot be read: {error}" if what else str(error))
    except KeyboardInterrupt:
        return 130
    return 1


def span(seconds: float) -> str:
    """The text of a duration, for a terminal."""
    return duration(seconds).replace("\N{NO-BREAK SPACE}", " ")


def complain(problem: str) -> None:
    """Write a problem to standard error."""
    sys.stderr.write(f"wolkvox-publisher: {problem}\n")


def complain_all(problems: Iterable[str]) -> None:
    """Write several problems to standard error, sorted."""
    for problem in sorted(problems):
        complain(problem)


def chosen(settings: Settings, name: str | None) -> list[Operation]:
    """The operation of that name or label, in a list; all for None. Raises SettingsError."""
    operations = [
        operation
        for operation in settings.operations
        if name in (None, operation.name, operation.label)
    ]
    if not operations:
        names = ", ".join(operation.name for operation in settings.operations)
        raise SettingsError([f"--operation: there is no {name}; there are: {names}"])
    return operations

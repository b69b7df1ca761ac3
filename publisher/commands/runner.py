"""What commands that look into Kafka have in common: settings, failures, exit codes."""

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
    """What was asked for cannot be done; the text says why, and what to do."""


def run(doing: Callable[[Settings], Coroutine[Any, Any, int]], what: str = "") -> int:
    """Run a command with its settings; what it raises becomes a line and an exit code.

    `what` is what cannot be read while Kafka gives no answer, where the failure does not say.
    """
    # What libraries say besides is in these lines, in our words.
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
    """A length of time, for a terminal."""
    return duration(seconds).replace("\N{NO-BREAK SPACE}", " ")


def complain(problem: str) -> None:
    """Say on standard error what is wrong."""
    sys.stderr.write(f"wolkvox-publisher: {problem}\n")


def complain_all(problems: Iterable[str]) -> None:
    """The same of several."""
    for problem in sorted(problems):
        complain(problem)


def chosen(settings: Settings, name: str | None) -> list[Operation]:
    """The operation of that name, or all. Raises SettingsError."""
    found = [one for one in settings.operations if name in (None, one.name)]
    if not found:
        names = ", ".join(one.name for one in settings.operations)
        raise SettingsError([f"--operation: there is no {name}; there are: {names}"])
    return found

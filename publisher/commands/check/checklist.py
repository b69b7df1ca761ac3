"""The checklist: the checks of one run and their results.

This module knows neither how a check finds its result nor who reads it.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from publisher.errors import SettingsError, StepError


class State(StrEnum):
    """How a check ended. The values are part of the JSON."""

    OK = "ok"
    HINT = "hint"
    """It works, but the text tells something worth knowing."""
    FAILED = "failed"
    NOT_TRIED = "not_tried"
    """The check was not reached, because another check failed before it."""


class GiveUpError(Exception):
    """A check has failed, and the checks after it depend on it."""


@dataclass(slots=True)
class Check:
    """One line of the list."""

    group: str
    name: str
    state: State = State.NOT_TRIED
    text: str = ""
    """The result of the check. For a failure it also says what to do."""
    command: str = ""
    """A command that would solve the problem."""
    trying: bool = False
    """Whether the check is running now."""
    optional: bool = False
    """Whether the service can run without the thing that is checked."""

    def ok(self, text: str) -> None:
        self._ended(State.OK, text)

    def hint(self, text: str, command: str = "") -> None:
        self._ended(State.HINT, text, command)

    def failed(self, text: str, command: str = "") -> None:
        self._ended(State.FAILED, text, command)

    def wrong(self, text: str, command: str = "") -> None:
        """The checked thing is not as it must be: a failure, or a hint where it is optional."""
        self._ended(State.HINT if self.optional else State.FAILED, text, command)

    def _ended(self, state: State, text: str, command: str = "") -> None:
        self.state, self.text, self.command, self.trying = state, text, command, False


@dataclass(slots=True)
class Checklist:
    """All checks of a run, in the order in which they are shown."""

    checks: list[Check] = field(default_factory=list)

    def add(self, group: str, *names: str, optional: bool = False) -> dict[str, Check]:
        """Add a check for each name under the heading `group`, and return the checks by name.

        A check counts as not tried until it gets a result.
        """
        new = {name: Check(group, name, optional=optional) for name in names}
        self.checks += new.values()
        return new

    def end(self, seconds: float) -> None:
        """The time of `seconds` is over: mark the checks that are still running as failed."""
        for check in self.checks:
            if check.trying:
                check.failed(
                    f"no answer within {seconds:g} s: the other side hangs, or is very slow"
                )

    @property
    def exit_code(self) -> int:
        """1 if a check has failed, else 0. For unusable settings the caller uses 2 instead."""
        return int(any(check.state is State.FAILED for check in self.checks))


@contextmanager
def trying(check: Check) -> Iterator[Check]:
    """Run the block as this check: an error in the block becomes the result of the check.

    Raises GiveUpError if the check fails, and SettingsError as the block does.
    """
    check.trying = True
    try:
        yield check
    except GiveUpError:
        raise
    except StepError as error:
        check.failed(str(error))
    except SettingsError as error:
        check.failed("; ".join(error.problems))
        raise
    except Exception as error:  # an error of our own code: its text may hold private data
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        check.failed(f"unexpected {type(error).__name__} at {place}: please report it")
    if check.state is State.FAILED:
        raise GiveUpError

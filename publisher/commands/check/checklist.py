"""The checklist: what is looked at, and what came out. Knows neither how nor for whom."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from publisher.errors import SettingsError, StepError


class State(StrEnum):
    """How a check ended; part of the JSON."""

    OK = "ok"
    HINT = "hint"
    """Works, but somebody may want to know."""
    FAILED = "failed"
    NOT_TRIED = "not_tried"
    """Another check failed before it could be tried."""


class GiveUpError(Exception):
    """A check failed on which those behind it depend."""


@dataclass(slots=True)
class Check:
    """One line of the list."""

    group: str
    name: str
    state: State = State.NOT_TRIED
    text: str = ""
    """What was found; for a failure with what to do."""
    command: str = ""
    """A command that would cure it."""
    trying: bool = False
    optional: bool = False
    """The service can do without what it looks at."""

    def ok(self, text: str) -> None:
        self._ended(State.OK, text)

    def hint(self, text: str, command: str = "") -> None:
        self._ended(State.HINT, text, command)

    def failed(self, text: str, command: str = "") -> None:
        self._ended(State.FAILED, text, command)

    def wrong(self, text: str, command: str = "") -> None:
        """What is looked at is not as it must be; where it is optional, that is a hint."""
        self._ended(State.HINT if self.optional else State.FAILED, text, command)

    def _ended(self, state: State, text: str, command: str = "") -> None:
        self.state, self.text, self.command, self.trying = state, text, command, False


@dataclass(slots=True)
class Checklist:
    """All checks of one run, in the order in which they are shown."""

    checks: list[Check] = field(default_factory=list)

    def add(self, group: str, *names: str, optional: bool = False) -> dict[str, Check]:
        """Say what will be looked at; until then it counts as not tried."""
        new = {name: Check(group, name, optional=optional) for name in names}
        self.checks += new.values()
        return new

    def end(self, seconds: float) -> None:
        """The time is over: what was being tried has failed."""
        for check in self.checks:
            if check.trying:
                check.failed(
                    f"no answer within {seconds:g} s: the other side hangs, or is very slow"
                )

    @property
    def exit_code(self) -> int:
        """1 when something failed; settings that cannot work are known to whoever calls."""
        return int(any(check.state is State.FAILED for check in self.checks))


@contextmanager
def trying(check: Check) -> Iterator[Check]:
    """Try one check: our own errors are its finding. Raises GiveUpError when it fails."""
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
    except Exception as error:  # a mistake of ours: its text may hold anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        check.failed(f"unexpected {type(error).__name__} at {place}: please report it")
    if check.state is State.FAILED:
        raise GiveUpError

"""Finds the window to park: a window that fails while other windows answer.

The proof has three steps: the window fails twice, another window answers, the window fails
again. Only then the window is at fault and not the API (docs/decisions/0016).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from publisher.errors import PublisherError, Reason, Stage
from publisher.model import Instant, Window
from publisher.schedule.passes import Read, advanced
from publisher.state.checkpoint import Entry
from publisher.state.gaps import Gaps, added
from publisher.state.state import State, Successor

PROBE: Final = timedelta(minutes=1)
"""The width of a probe: a request for another window, which shows whether the API answers."""

_OWN: Final = {
    Reason.TIMEOUT,
    Reason.CONNECTION_LOST,
    Reason.SERVER_ERROR,
    Reason.NOT_UNDERSTOOD,
    Reason.TOO_LARGE,
}


def own(error: PublisherError) -> bool:
    """Whether the window itself may have caused the error. Else we, the token or the server did."""
    return error.stage is Stage.READ and error.reason in _OWN


class Next(Enum):
    """What to do with the window that is due."""

    ASK = auto()
    PROBE = auto()
    """Ask for another window instead."""
    PARK = auto()


@dataclass(slots=True)
class FailingWindow:
    """The window that fails at present, and the evidence against it."""

    step: Read | None = None
    attempts: int = 0
    """Failures of the window plus the probes, which alternate with it."""
    others_answer: bool = False
    """Another window was answered since the last failure of this window."""
    proven: bool = False
    """The window is at fault: it failed again after another window had been answered."""

    def failed(self, step: Read, error: PublisherError) -> None:
        """Count a failure of the step."""
        if not own(error):
            self.others_answer = False  # what was proven may have changed
            return
        if not self._is(step):
            self.attempts, self.others_answer = 0, False
        self.step = step
        self.attempts += 1
        self.proven = self.others_answer

    def answered(self, step: Read) -> None:
        """Note an answer: of another window it is evidence, of this window it clears the window."""
        if self._is(step):
            self.clear()
        elif self.attempts >= 2:
            self.others_answer = True

    def clear(self) -> None:
        self.step, self.attempts, self.others_answer, self.proven = None, 0, False, False

    def next(self, step: Read) -> Next:
        """What to do with the step that is due. While a window fails, its step is due again."""
        if not self._is(step):
            return Next.ASK
        if self.proven:
            return Next.PARK
        probe_due = self.attempts >= 2 and self.attempts % 2 == 0 and not self.others_answer
        return Next.PROBE if probe_due else Next.ASK

    def probe(self, step: Read, gaps: Gaps) -> Read:
        """A probe: a minute before the window, outside all gaps. Each probe lies further back."""
        end = step.window.start - PROBE * (self.attempts // 2)
        for gap in reversed(gaps):
            if gap.start - PROBE < end and end - PROBE < gap.end + PROBE:
                end = gap.start - PROBE
        self.attempts += 1
        return Read(step.pass_, Window(end - PROBE, end), ends_round=False)

    def _is(self, step: Read) -> bool:
        failing = self.step
        return (
            failing is not None
            and failing.pass_.name == step.pass_.name
            and failing.window.start == step.window.start
        )


def parked(state: State, step: Read, now: Instant, horizon: timedelta) -> Successor:
    """Return the state with the step's window among the gaps, and its pass behind the window.

    The journal gets an entry whose window covers no time.
    """
    start = step.window.start
    entry = Entry(
        state.checkpoint.sequence + 1, step.pass_.name, start, start, now,
        rows=0, new=0, duplicate=0, rejected=0,
    )  # fmt: skip
    gaps = added(state.checkpoint.gaps, step.window)
    passes = advanced(state.checkpoint.passes, step, step.window.end, now, gaps)
    return state.successor(entry, passes, {}, horizon, gaps)

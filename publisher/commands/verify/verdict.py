"""The verdict of `verify` on an operation.

It says which part of the range could be judged, why not the rest, and what was wrong.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from publisher.commands.verify.comparison import Comparison
from publisher.model import Instant, Window, iso
from publisher.state.gaps import NEAR

KINDS: Final = ("missing", "doubled", "extra", "changed")
"""The kinds of findings."""


class Unjudged(StrEnum):
    """Why a part of the range is not judged."""

    DELETED = "deleted"
    """The topic no longer keeps the events of that time."""
    FORGOTTEN = "forgotten"
    """The state does not remember what was published of that time."""
    UNSETTLED = "unsettled"
    """Live has not read that time for good yet."""
    UNDECIDED = "undecided"
    """A transaction hides what was published."""


@dataclass(slots=True)
class Verdict:
    """The verdict on an operation. It is filled in step by step; `described` comes last."""

    operation: str
    asked: Window
    """The range that the command was asked for."""
    comparison: Comparison | None = None
    """None = nothing could be compared."""
    repaired: int = 0
    """How many missing events were published."""
    notes: list[str] = field(default_factory=list)
    """Remarks for a person."""
    unjudged: list[tuple[Unjudged, Window]] = field(default_factory=list)
    problem: str | None = None
    """Why nothing could be judged; None = something could."""

    def bounds(
        self,
        kept_since: Instant | None,
        settled: Instant,
        forgotten: Sequence[Window],
        live_may_lack: timedelta,
    ) -> Window | None:
        """The part of the range that can be compared; None = nothing. Notes why not the rest.

        `kept_since`: the topic has deleted older events; None = it holds all events.
        `settled`: how far live has read the report for good.
        `forgotten`: time of which the state does not remember what was published.
        `live_may_lack`: how much of the end may be unsettled without counting as not judged.
        """
        asked = self.asked
        start, end = max(asked.start, kept_since or asked.start), min(asked.end, settled)
        if start > asked.start:
            self.notes.append(f"not judged before {iso(start)}: the topic has deleted older events")
            self._leave_out(Unjudged.DELETED, asked.start, start)
        if end < asked.end:
            self.notes.append(f"not judged after {iso(end)}: live has not settled it yet")
            if asked.end - end > live_may_lack or end <= start:
                self._leave_out(Unjudged.UNSETTLED, max(start, end), asked.end)
        for stretch in forgotten:
            self._leave_out(Unjudged.FORGOTTEN, stretch.start - NEAR, stretch.end + NEAR)
        for reason, part in self.unjudged:
            if reason is Unjudged.FORGOTTEN:
                self.notes.append(
                    f"not vouched for, and not repaired, from {iso(part.start)} to"
                    f" {iso(part.end)}: what was published of that time is not remembered"
                )
        return Window(start, end) if start < end else None

    def undecided(self, problem: str) -> None:
        """Note that nothing can be judged, because of this problem."""
        self.problem = problem
        self._leave_out(Unjudged.UNDECIDED, self.asked.start, self.asked.end)

    def _leave_out(self, reason: Unjudged, start: Instant, end: Instant) -> None:
        """Note that this part of the range is not judged."""
        start, end = max(start, self.asked.start), min(end, self.asked.end)
        if start < end:
            self.unjudged.append((reason, Window(start, end)))

    def described(self) -> dict[str, Any]:
        """The verdict as JSON."""
        comparison = self.comparison
        findings = comparison.findings if comparison else []
        counts = Counter(finding.kind for finding in findings)
        wrong_count = len(findings) - self.repaired
        return {
            "operation": self.operation,
            "complete": comparison is not None and not wrong_count and not self.unjudged,
            "from": iso(comparison.start) if comparison else None,
            "to": iso(comparison.end) if comparison else None,
            "rows": comparison.rows if comparison else 0,
            "events": comparison.events if comparison else 0,
            **{kind: counts[kind] for kind in KINDS},
            "repaired": self.repaired,
            "not_judged": [
                {"reason": reason, "from": iso(part.start), "to": iso(part.end)}
                for reason, part in self.unjudged
            ],
            "problem": self.problem,
            "notes": self.notes,
            "findings": [finding._asdict() for finding in findings],
        }

"""Whether an answer that says it found more than it shows was cut, or counts otherwise.

A report that is cut shows as many rows as it may: asked for less, it shows as many again, or
all there are. So a narrower window that shows clearly less than a wider one around it was
not cut, and when it still says that it found more, its counter lies. Where the rows do not
get fewer on the way down to a second, a number that is too large by the same amount all the
way is a lie as well: rows that were cut would have come out on the way.

It can be wrong: where the server shows fewer rows the busier it is, so that the narrower
window was cut too (two such windows in a row, unless both lack the same number); where
all rows that are missing lie in one second; and, once a counter that lies by changing amounts
is known, where the report begins to be cut at fewer rows than before. Re-reads ask again.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from publisher.model import Window
from publisher.schedule.passes import NARROWEST
from publisher.wolkvox.responses import Classification, Verdict
from publisher.wolkvox.schema import Counted

PROVEN_AGAIN: Final = 24
"""So many answers are believed of a counter that lies by changing numbers; then a new proof."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """The last answer of a pass that said it found more than it showed."""

    window: Window
    shown: Counted
    widest: Counted
    """The first of the answers before it that said too much by the same number."""
    fewer: int = 0
    """How many narrower windows in a row showed clearly less."""
    differs: bool = False
    """It says too much by another number than the wider window did."""


@dataclass(slots=True)
class Counts:
    """What is known of one operation's counter; in memory only."""

    doubts: dict[str, _Doubt] = field(default_factory=dict)
    """By pass."""
    largest: Counted | None = None
    """A counter that lies: so much was shown in one answer, hence less is not cut."""
    excess: int | None = None
    """It says too much by this number, always; None = by changing ones."""
    believed: int = 0
    """Answers that were taken for whole since the lie was shown last."""

    def settled(
        self, pass_name: str, window: Window, classification: Classification
    ) -> Classification:
        """The judgement, or another one where the number alone spoke against the answer."""
        shown = classification.counted
        if shown is None:
            return classification
        if shown.excess <= 0:
            if shown.rows:
                self.largest = self.excess = None
            return classification
        if self._lies(pass_name, window, shown):
            self.believed += 1
            self.doubts.pop(pass_name, None)
            verdict = Verdict.USE if shown.rows else Verdict.EMPTY
            return replace(classification, verdict=verdict, reason=None, text="")
        if shown.rows or window.width <= NARROWEST or self.doubts[pass_name].differs:
            return classification  # of an empty answer: not understood
        return replace(classification, verdict=Verdict.TOO_LARGE)

    def _lies(self, pass_name: str, window: Window, shown: Counted) -> bool:
        if self.largest:
            if self.excess == shown.excess:
                return True
            smaller = shown.rows and shown.clearly_less_than(self.largest)
            if self.excess is None and smaller and self.believed < PROVEN_AGAIN:
                return True
        return self._doubt(pass_name, window, shown)

    def _doubt(self, pass_name: str, window: Window, shown: Counted) -> bool:
        last = self.doubts.get(pass_name)
        inside = last is not None and (
            last.window.start <= window.start
            and window.end <= last.window.end
            and window.width < last.window.width
        )
        doubt = _Doubt(window, shown, shown)
        if last and inside:
            same = shown.excess == last.shown.excess
            less = bool(shown.rows) and shown.clearly_less_than(last.shown)
            widest = last.widest if same else shown
            doubt = _Doubt(window, shown, widest, last.fewer + 1 if less else 0, not same)
            if less and same:
                return self._learn(widest, shown.excess)
            if doubt.fewer >= (1 if self.largest else 2):
                return self._learn(
                    max(last.shown, self.largest or last.shown, key=lambda shown: shown.rows), None
                )
            if same and window.width <= NARROWEST:
                return self._learn(doubt.widest, shown.excess)
        self.doubts[pass_name] = doubt
        return False

    def _learn(self, largest: Counted, excess: int | None) -> bool:
        self.largest, self.excess, self.believed = largest, excess, 0
        return True

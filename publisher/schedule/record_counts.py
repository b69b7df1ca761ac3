"""Decides whether an answer that claims more records than it shows was cut, or its counter lies.

A cut report shows as many rows as its limit allows. Asked for less time, it shows as many
again, or all rows. So a narrower window that shows clearly less than a wider window around
it was not cut. If it still claims more, the counter lies. The counter also lies where the
rows do not get fewer on the way down to a second, but the number is too large by the same
amount all the way: cut rows would have appeared on the way.

The decision can be wrong in three cases:
- The server shows fewer rows the busier it is, so the narrower window was cut, too. This
  takes two such windows in a row, or one that lacks the same number as the wider window.
- All missing rows lie in a single second.
- A counter lies by changing amounts, and the report begins to be cut at fewer rows than
  before.
Re-reads ask for the same time again.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from publisher.model import Window
from publisher.schedule.passes import NARROWEST
from publisher.wolkvox.responses import Classification, Verdict
from publisher.wolkvox.schema import Counted

PROVEN_AGAIN: Final = 24
"""A counter that lies by changing amounts is ignored so many times; then a new proof is due."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """The last answer of a pass that claimed more records than it showed."""

    window: Window
    shown: Counted
    widest: Counted
    """The first answer of the current run in which the excess was the same."""
    fewer_count: int = 0
    """How many narrower windows in a row showed clearly less."""
    differs: bool = False
    """Its excess is another number than the excess of the wider window."""


@dataclass(slots=True)
class Counts:
    """What we know about the counter of one operation; in memory only."""

    doubts: dict[str, _Doubt] = field(default_factory=dict)
    """The open doubts, by the name of the pass."""
    largest: Counted | None = None
    """The largest answer with a lying counter: smaller answers are not cut. None = no lie."""
    excess: int | None = None
    """The counter is always too large by this number; None = by changing numbers."""
    accepted_count: int = 0
    """Answers that were accepted as whole since the lie was proven last."""

    def settled(
        self, pass_name: str, window: Window, classification: Classification
    ) -> Classification:
        """Return the classification, corrected where only the number spoke against the answer."""
        shown = classification.counted
        if shown is None:
            return classification
        if shown.excess <= 0:
            if shown.row_count:
                self.largest = self.excess = None
            return classification
        if self._lies(pass_name, window, shown):
            self.accepted_count += 1
            self.doubts.pop(pass_name, None)
            verdict = Verdict.USE if shown.row_count else Verdict.EMPTY
            return replace(classification, verdict=verdict, reason=None, text="")
        if shown.row_count or window.width <= NARROWEST or self.doubts[pass_name].differs:
            return classification  # an empty answer stays "not understood"
        return replace(classification, verdict=Verdict.TOO_LARGE)

    def _lies(self, pass_name: str, window: Window, shown: Counted) -> bool:
        """Whether the counter lies in this answer, by what is already known or by new proof."""
        if self.largest:
            if self.excess == shown.excess:
                return True
            smaller = shown.row_count and shown.clearly_less_than(self.largest)
            if self.excess is None and smaller and self.accepted_count < PROVEN_AGAIN:
                return True
        return self._doubt(pass_name, window, shown)

    def _doubt(self, pass_name: str, window: Window, shown: Counted) -> bool:
        """Compare with the last doubt of the pass. True = a lie is proven; else the doubt stays."""
        last = self.doubts.get(pass_name)
        inside = last is not None and (
            last.window.start <= window.start
            and window.end <= last.window.end
            and window.width < last.window.width
        )
        doubt = _Doubt(window, shown, shown)
        if last and inside:
            same_excess = shown.excess == last.shown.excess
            shows_less = bool(shown.row_count) and shown.clearly_less_than(last.shown)
            widest = last.widest if same_excess else shown
            fewer_count = last.fewer_count + 1 if shows_less else 0
            doubt = _Doubt(window, shown, widest, fewer_count, not same_excess)
            if shows_less and same_excess:
                return self._learn(widest, shown.excess)
            if fewer_count >= (1 if self.largest else 2):
                return self._learn(
                    max(last.shown, self.largest or last.shown, key=lambda shown: shown.row_count),
                    None,
                )
            if same_excess and window.width <= NARROWEST:
                return self._learn(doubt.widest, shown.excess)
        self.doubts[pass_name] = doubt
        return False

    def _learn(self, largest: Counted, excess: int | None) -> bool:
        """Remember that the counter lies; always True."""
        self.largest, self.excess, self.accepted_count = largest, excess, 0
        return True

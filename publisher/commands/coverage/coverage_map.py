"""Computes from the state which stretches of time were read, when, and which are missing.

Rules of this file:
- The journal is the only source: its entries are the windows that were read.
- An answer covers its window up to the moment of the request. How old an instant was at the
  request says how complete its rows are: the older it was, the fewer rows may still appear late.
- Time that the journal has forgotten, because of its horizon, is neither read nor missing. The
  checkpoint records which time that is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeAlias

from publisher.model import Instant, Window
from publisher.state.checkpoint import Entry
from publisher.state.state import State

Stretches: TypeAlias = Sequence[tuple[Instant, Instant]]
"""Half-open ranges, sorted; no range touches another."""


class Kind(StrEnum):
    """What the state says of a stretch, worst first."""

    PARKED = "parked"
    """Its request failed while other requests were answered; `repair` reads it again."""
    NEVER_ASKED = "never_asked"
    """It lies before the end of what live has covered, but no answer covers it."""
    POSSIBLY_CUT = "possibly_cut"
    """The answer reached the row cap of the report in the narrowest window."""
    NOT_YET = "not_yet"
    """It lies after the end of what live has covered."""
    READ = "read"
    """An answer covers it; `Stretch.age` says how old it was then."""
    FORGOTTEN = "forgotten"
    """It was read longer ago than the journal remembers."""
    BEFORE_START = "before_start"
    """It lies before the start of the operation."""


MISSING: Final = frozenset({Kind.PARKED, Kind.NEVER_ASKED})


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time with the same kind and age throughout."""

    start: Instant
    end: Instant
    kind: Kind
    age: timedelta = timedelta()
    """The largest of the given ages that it had reached when it was read last."""

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


def coverage(
    state: State, start: Instant, end: Instant, ages: Iterable[timedelta]
) -> list[Stretch]:
    """Split [start, end) into stretches, in order; neighbours differ in kind or age.

    `ages` are the ages to distinguish, such as the overlap and the ages of the re-reads.
    """
    if not start < end:
        return []
    checkpoint = state.checkpoint
    entries = asked(state, start, end)
    begun_at, covered_until = checkpoint.start, checkpoint.live.covered_until
    forgotten = ((window.start, window.end) for window in checkpoint.forgotten)
    # A later layer covers the earlier ones.
    layers: list[tuple[Kind, timedelta, Stretches]] = [
        (Kind.NEVER_ASKED, timedelta(), [(start, end)]),
        (Kind.FORGOTTEN, timedelta(), _clipped(_union(forgotten), start, end)),
    ]
    for age in sorted({timedelta(), *ages}):
        read = ((entry.start, min(entry.end, entry.read_at - age)) for entry in entries)
        layers.append((Kind.READ, age, _clipped(_union(read), start, end)))
    cut = ((entry.start, entry.end) for entry in entries if entry.possibly_cut)
    parked = ((gap.start, gap.end) for gap in checkpoint.gaps)
    layers += [
        (Kind.POSSIBLY_CUT, timedelta(), _clipped(_union(cut), start, end)),
        (Kind.PARKED, timedelta(), _clipped(_union(parked), start, end)),
        (Kind.NOT_YET, timedelta(), _clipped([(covered_until, end)], start, end)),
        (Kind.BEFORE_START, timedelta(), _clipped([(start, begun_at)], start, end)),
    ]
    return list(_flat(layers))


def asked(state: State, start: Instant, end: Instant) -> list[Entry]:
    """The committed windows that touch [start, end), oldest first."""
    return [entry for entry in state.journal if entry.start < end and start < entry.end]


def missing(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The stretches that are missing: they may hold rows that were never read."""
    return [stretch for stretch in stretches if stretch.kind in MISSING]


def cells(stretches: Sequence[Stretch], slots: Sequence[Window]) -> list[Stretch | None]:
    """The worst stretch that touches each slot; None = no stretch touches it."""
    order = [*Kind]
    worst_by_slot: list[Stretch | None] = []
    first = 0
    for slot in slots:
        while first < len(stretches) and stretches[first].end <= slot.start:
            first += 1
        touching = []
        for stretch in stretches[first:]:
            if stretch.start >= slot.end:
                break
            touching.append(stretch)
        worst = min(
            touching, key=lambda stretch: (order.index(stretch.kind), stretch.age), default=None
        )
        worst_by_slot.append(worst)
    return worst_by_slot


def _union(pairs: Iterable[tuple[Instant, Instant]]) -> Stretches:
    """The ranges as sorted stretches; ranges that overlap or touch become a single stretch."""
    merged: list[tuple[Instant, Instant]] = []
    for start, end in sorted(pairs):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _clipped(stretches: Stretches, start: Instant, end: Instant) -> Stretches:
    """The parts of the stretches within [start, end)."""
    inside = ((max(first, start), min(last, end)) for first, last in stretches)
    return [(first, last) for first, last in inside if first < last]


def _flat(layers: Sequence[tuple[Kind, timedelta, Stretches]]) -> Iterator[Stretch]:
    """Merge the layers into stretches: the topmost layer decides between every two edges.

    A layer is a kind, an age, and the stretches that have them.
    """
    edges = sorted({edge for _, _, stretches in layers for pair in stretches for edge in pair})
    places = [0] * len(layers)
    last: Stretch | None = None
    for start, end in pairwise(edges):
        top = None
        for number, (kind, age, stretches) in enumerate(layers):
            while places[number] < len(stretches) and stretches[places[number]][1] <= start:
                places[number] += 1
            if places[number] < len(stretches) and stretches[places[number]][0] <= start:
                top = kind, age
        if top is None:
            continue
        if last is not None and (last.kind, last.age) == top and last.end == start:
            last = Stretch(last.start, end, *top)
            continue
        if last is not None:
            yield last
        last = Stretch(start, end, *top)
    if last is not None:
        yield last

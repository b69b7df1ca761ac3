"""When to ask, and for which window: the passes over the timeline.

Rules of this file:
- A pass is a cursor that walks the timeline at a distance behind now. `live` and
  the re-reads are the same code with other numbers.
- A step takes the most urgent pass that is due; nothing here sleeps. After each round of live
  the others have one turn, due or not is live: an API that takes as long as the poll starves
  nobody.
- No pass asks for what lies in a recorded gap: `repair` does, when nothing else is due.
- "Now" is the server's clock. Window width and the position inside a round are
  not state: a restart begins with them anew and reads a little twice.
- Only time read later than `settle` after it happened is settled: the cursor
  stops there, and the next round reads the rest again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, TypeAlias

from publisher.model import SECOND, Instant, Progress, Window
from publisher.schedule.gap_repair import Repair
from publisher.settings import PublisherSettings, duration_text
from publisher.state.checkpoint import LIVE, REPAIR
from publisher.state.gaps import LAST_STRETCH, NEAR, Gaps, before_next, beyond
from publisher.wolkvox import request
from publisher.wolkvox.timezone import Zone

TARGET_ROWS: Final = 10_000
"""Rows an answer should have at most: bounds memory and the length of a transaction."""
QUICK: Final = 15.0
"""Seconds below which an answer is quick enough to ask for twice as much."""
NARROWEST: Final = SECOND
SPARING: Final = timedelta(hours=12)
"""So seldom does each re-read ask while the daily quota is nearly spent: 2 rounds a day."""
REREAD: Final = "reread"
"""The label of all re-reads."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One walker over the timeline."""

    name: str
    """Its key in the checkpoint."""
    label: str
    """Its name in metrics, logs and headers: a closed set."""
    delay: timedelta
    """Distance behind now."""
    cadence: timedelta
    """How much time must have passed unread before a new round begins."""
    settle: timedelta
    """Time younger than this when it is read is read again."""


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for this window on behalf of this pass."""

    pass_: Pass
    window: Window
    ends_round: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due before."""

    until: Instant


Step: TypeAlias = Read | Wait


def passes_of(settings: PublisherSettings) -> tuple[Pass, ...]:
    """All passes, most urgent first."""
    live = Pass(LIVE, LIVE, timedelta(), settings.poll_every, settings.overlap)
    return live, *(
        Pass(f"{REREAD}-{duration_text(age)}", REREAD, age, age / 2, timedelta())
        for age in rereads_of(settings)
    )


def rereads_of(settings: PublisherSettings) -> list[timedelta]:
    """The ages at which everything is read again, youngest first.

    Those within the overlap are left out: live reads such time again at every poll.
    """
    return sorted(age for age in settings.rereads if age > settings.overlap)


REPAIRING: Final = Pass(REPAIR, REPAIR, timedelta(), timedelta(), timedelta())
"""Reads what lies in gaps, hence without a cursor of its own."""


@dataclass(slots=True)
class Pace:
    """How fast and where in the current rounds: in memory only."""

    width: timedelta
    widest: timedelta
    repair: Repair
    positions: dict[str, Instant] = field(default_factory=dict)
    """Where the round of a pass goes on; passes between two rounds are not in here."""
    last_read: Instant | None = None
    """The server's time at the last answer for live."""
    passed: dict[str, Instant] = field(default_factory=dict)
    """How far re-reads have passed over time without a request."""
    others_turn: bool = False
    """Live has just ended a round: one step of another pass comes before its next one."""

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Pace":
        """Begin narrow: nobody knows yet how dense the messages are."""
        width = min(settings.poll_every, settings.max_window)
        repair = Repair(settings.overlap, settings.poll_every, settings.max_window)
        return cls(width, settings.max_window, repair)

    def begin(self, live_cursor: Instant) -> None:
        """After a restore: a live round at once, however short ago the last one was."""
        self.positions, self.passed = {LIVE: live_cursor}, {}

    def seen(self, progress: Mapping[str, Progress]) -> dict[str, Progress]:
        """The progress with what needed no request, for whoever asks how far behind we are."""
        return {
            name: replace(
                done, covered_until=max(done.covered_until, self.passed.get(name, done.cursor))
            )
            for name, done in progress.items()
        }

    def narrow(self, window: Window) -> None:
        """The window was too much: half of it next time."""
        self.width = max(window.width / 2, NARROWEST)

    def answered(self, step: Read, now: Instant, rows: int, took: float) -> None:
        """The window was published: go on behind it, wider when it was small and quick."""
        if step.pass_ is REPAIRING:
            self.repair.answered(step.window, now)
            return
        self._go_on(step, now)
        if rows > TARGET_ROWS:
            self.narrow(step.window)
        elif rows * 2 <= TARGET_ROWS and took <= QUICK and step.window.width >= self.width:
            self.width = min(self.width * 2, self.widest)

    def parked(self, step: Read, now: Instant) -> None:
        """The window was set aside: go on behind it, narrower in case it was the width."""
        self._go_on(step, now)
        self.narrow(step.window)
        if not self.repair.pieces:
            self.repair.due = now + self.repair.settle

    def _go_on(self, step: Read, now: Instant) -> None:
        if not step.pass_.delay:
            self.last_read = now
            self.others_turn = step.ends_round
        if step.ends_round:
            self.positions.pop(step.pass_.name, None)
        else:
            self.positions[step.pass_.name] = step.window.end


def next_step(
    passes: Sequence[Pass],
    progress: Mapping[str, Progress],
    pace: Pace,
    now: Instant,
    read_until: Callable[[Instant, timedelta], Instant],
    gaps: Gaps = (),
    *,
    quota_low: bool = False,
) -> Step:
    """The most urgent window that is due, or how long there is none.

    `read_until(instant, age)` answers how far from there on everything was read
    when it was at least that old, or is parked: a re-read passes over it without a request.
    `frugal`: the daily quota is nearly spent, so re-reads ask seldom and repair does not.
    """
    wakes: list[Instant] = []
    for pass_ in passes:
        cadence = max(pass_.cadence, SPARING) if quota_low and pass_.delay else pass_.cadence
        done = progress[pass_.name]
        target = now - pass_.delay
        position = pace.positions.get(pass_.name)
        if position is None:
            due = done.covered_until + pass_.delay + cadence
            if not pass_.delay:
                due = _rhythm(due, pace.last_read, pass_.cadence, now)
            if now >= due and pass_.delay:
                # Time that was read at that age already does not count as unread.
                position = pace.passed[pass_.name] = read_until(done.cursor, pass_.delay)
                due = position + pass_.delay + cadence
            if now < due:
                wakes.append(due)
                continue
            position = position or done.cursor
        elif pass_.delay:
            position = read_until(position, pass_.delay)
        position = beyond(gaps, position)
        if position < target:
            end = before_next(gaps, position, min(position + pace.width, target))
            return Read(pass_, Window(position, end), ends_round=end == target)
        if pass_.delay:
            pace.positions.pop(pass_.name, None)
            wakes.append(position + pass_.delay + cadence)
            continue
        # The clock is behind what was read: ask for the last stretch before it again, the
        # answer's date tells whose clock is wrong.
        end = next((gap.start for gap in gaps if gap.start < now <= gap.end), now)
        last = end - min(pass_.cadence, LAST_STRETCH)
        start = max([last, *(gap.end for gap in gaps if gap.end < end)])
        return Read(pass_, Window(start, end), ends_round=True)
    match None if quota_low else pace.repair.next(gaps, now):
        case Window() as piece:
            return Read(REPAIRING, piece, ends_round=True)
        case Instant() as wake:
            wakes.append(wake)
    return Wait(min(wakes, default=now))


def _rhythm(due: Instant, read: Instant | None, cadence: timedelta, now: Instant) -> Instant:
    """When live is due that was last read at `read`.

    At once where a clock has gone back, which must not silence live for days. But a poll after
    an answer that covered little: its date has whole seconds, or is missing.
    """
    if read is None or read > now:
        return min(due, now)
    if due <= read:
        return read + cadence
    return max(min(due, read + cadence), read + min(cadence, SECOND))


def askable(step: Read, zone: Zone, longest: timedelta) -> Read:
    """The step, or the first part of it that one request can ask for."""
    window = request.askable(step.window, zone, longest)
    return step if window == step.window else replace(step, window=window, ends_round=False)


def advanced(
    progress: Mapping[str, Progress],
    step: Read,
    covered_until: Instant,
    now: Instant,
    gaps: Gaps = (),
) -> dict[str, Progress]:
    """The progress of all passes once the step's window is committed.

    `covered_until` is the window's end or the answer's date, whichever is
    earlier; `now` the server's time when the request was sent.
    """
    if step.pass_.name not in progress:
        return dict(progress)  # repair and backfill have their cursors elsewhere, if any
    old = progress[step.pass_.name]
    settled = min(covered_until, now - step.pass_.settle)
    # A window inside the unsettled stretch settles nothing before itself.
    joins = step.window.start <= beyond(gaps, old.cursor)
    cursor = settled if joins or step.pass_.delay else old.cursor
    return {
        **progress,
        step.pass_.name: Progress(
            cursor=max(old.cursor, cursor),
            covered_until=max(old.covered_until, covered_until),
        ),
    }


def with_passes(
    progress: Mapping[str, Progress],
    passes: Sequence[Pass],
    start: Instant,
    forgotten: Gaps = (),
) -> dict[str, Progress]:
    """The progress of exactly these passes; a re-read that is new begins 1.5 ages ago.

    Ago = before what live has covered: at a start nobody knows yet whether our clock is
    right, and a cursor that begins too late passes over what it should find. It begins behind
    all forgotten time, however old it is to be.
    """
    covered = progress[LIVE].covered_until
    start = max([start, *(window.end + NEAR for window in forgotten)])
    of_passes = {}
    for pass_ in passes:
        begin = max(start, covered - pass_.delay * 1.5)
        of_passes[pass_.name] = progress.get(pass_.name, Progress(begin, begin))
    return of_passes

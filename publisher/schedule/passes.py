"""Decides when to ask and for which window: the passes over the timeline.

Rules of this file:
- A pass is a cursor that walks the timeline at a distance behind now. `live` and the
  re-reads are the same code with other numbers.
- The next step belongs to the most urgent pass that is due. Nothing here sleeps. After a
  round of live the other passes get one turn, even if live is due again. So they are
  served even where an answer takes as long as the poll.
- No pass asks for time in a recorded gap. `repair` asks for it when nothing else is due.
- "Now" is the server's clock. Window width and the position inside a round are not part of
  the state: a restart begins both anew and reads a little time twice.
- Time is settled only if it was read later than `settle` after it happened. The cursor stops
  at the end of settled time, and the next round reads the rest again.
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
"""An answer should have at most so many rows. This bounds memory and the transaction."""
QUICK: Final = 15.0
"""After an answer within so many seconds the next window may be twice as wide."""
NARROWEST: Final = SECOND
SPARING: Final = timedelta(hours=12)
"""The cadence of every re-read while the daily quota is nearly spent: 2 rounds a day."""
REREAD: Final = "reread"
"""The label of all re-reads."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A reader that walks over the timeline."""

    name: str
    """Its key in the checkpoint."""
    label: str
    """Its name in metrics, logs and headers: a closed set."""
    delay: timedelta
    """The distance that it keeps behind now; 0 = live."""
    cadence: timedelta
    """A new round begins when so much time is unread."""
    settle: timedelta
    """Time that was younger than this when it was read is read again."""


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for this window on behalf of this pass."""

    pass_: Pass
    window: Window
    ends_round: bool
    """The round of the pass ends with this window."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due before `until`."""

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
    """The ages at which all time is read again, youngest first.

    Ages within the overlap are left out, because live reads such time again at every poll.
    """
    return sorted(age for age in settings.rereads if age > settings.overlap)


REPAIRING: Final = Pass(REPAIR, REPAIR, timedelta(), timedelta(), timedelta())
"""Reads the time in gaps. It has no cursor of its own."""


@dataclass(slots=True)
class Pace:
    """The window width, and the position of every pass in its round; in memory only."""

    width: timedelta
    """The width of the next window."""
    widest: timedelta
    repair: Repair
    positions: dict[str, Instant] = field(default_factory=dict)
    """Where the round of a pass continues. Passes between two rounds are missing."""
    last_read: Instant | None = None
    """The server's time at the last answer for live."""
    passed: dict[str, Instant] = field(default_factory=dict)
    """Up to where re-reads have passed over time without a request."""
    others_turn: bool = False
    """Live has just ended a round. Another pass gets one step before the next step of live."""

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Pace":
        """Begin with narrow windows, because the density of messages is still unknown."""
        width = min(settings.poll_every, settings.max_window)
        repair = Repair(settings.overlap, settings.poll_every, settings.max_window)
        return cls(width, settings.max_window, repair)

    def begin(self, live_cursor: Instant) -> None:
        """After a restore, begin a round of live at once, even right after its last round."""
        self.positions, self.passed = {LIVE: live_cursor}, {}

    def seen(self, progress: Mapping[str, Progress]) -> dict[str, Progress]:
        """The progress, including time that needed no request. It serves to report the lag."""
        return {
            name: replace(
                done, covered_until=max(done.covered_until, self.passed.get(name, done.cursor))
            )
            for name, done in progress.items()
        }

    def narrow(self, window: Window) -> None:
        """The window was too large: ask for half of it next time."""
        self.width = max(window.width / 2, NARROWEST)

    def answered(self, step: Read, now: Instant, rows: int, took: float) -> None:
        """The window was published: continue behind it, wider when it was small and quick.

        `took` is the duration of the request in seconds.
        """
        if step.pass_ is REPAIRING:
            self.repair.answered(step.window, now)
            return
        self._go_on(step, now)
        if rows > TARGET_ROWS:
            self.narrow(step.window)
        elif rows * 2 <= TARGET_ROWS and took <= QUICK and step.window.width >= self.width:
            self.width = min(self.width * 2, self.widest)

    def parked(self, step: Read, now: Instant) -> None:
        """The window was parked: continue behind it, narrower in case the width was the cause."""
        self._go_on(step, now)
        self.narrow(step.window)
        if not self.repair.pieces:
            self.repair.due_at = now + self.repair.settle

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
    """Return the most urgent window that is due, or until when none is due.

    `read_until(instant, age)` returns the end of the time from `instant` on that either was read
    at this age or later, or is parked. A re-read passes over such time without a request.
    `quota_low`: the daily quota is nearly spent, so re-reads ask seldom and repair does not ask.
    """
    due_times: list[Instant] = []
    for pass_ in passes:
        cadence = max(pass_.cadence, SPARING) if quota_low and pass_.delay else pass_.cadence
        done = progress[pass_.name]
        target = now - pass_.delay
        position = pace.positions.get(pass_.name)
        if position is None:
            due = done.covered_until + pass_.delay + cadence
            if not pass_.delay:
                due = _live_due(due, pace.last_read, pass_.cadence, now)
            if now >= due and pass_.delay:
                # Time that was already read at that age does not count as unread.
                position = pace.passed[pass_.name] = read_until(done.cursor, pass_.delay)
                due = position + pass_.delay + cadence
            if now < due:
                due_times.append(due)
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
            due_times.append(position + pass_.delay + cadence)
            continue
        # The clock is behind what was read. Ask again for the last stretch before it: the answer's
        # date shows whose clock is wrong.
        end = next((gap.start for gap in gaps if gap.start < now <= gap.end), now)
        last = end - min(pass_.cadence, LAST_STRETCH)
        start = max([last, *(gap.end for gap in gaps if gap.end < end)])
        return Read(pass_, Window(start, end), ends_round=True)
    match None if quota_low else pace.repair.next(gaps, now):
        case Window() as piece:
            return Read(REPAIRING, piece, ends_round=True)
        case Instant() as due:
            due_times.append(due)
    return Wait(min(due_times, default=now))


def _live_due(due: Instant, read_at: Instant | None, cadence: timedelta, now: Instant) -> Instant:
    """When live is due. It was last read at `read_at`; `due` is when its unread time is enough.

    It is due at once where a clock has gone back, which must not silence live for days. It is
    due a poll later where the last answer covered little, because its date has whole seconds
    or is missing.
    """
    if read_at is None or read_at > now:
        return min(due, now)
    if due <= read_at:
        return read_at + cadence
    return max(min(due, read_at + cadence), read_at + min(cadence, SECOND))


def askable(step: Read, zone: Zone, longest: timedelta) -> Read:
    """Return the step, or the first part of it that fits into one request."""
    window = request.askable(step.window, zone, longest)
    return step if window == step.window else replace(step, window=window, ends_round=False)


def advanced(
    progress: Mapping[str, Progress],
    step: Read,
    covered_until: Instant,
    now: Instant,
    gaps: Gaps = (),
) -> dict[str, Progress]:
    """Return the progress of all passes after the step's window is committed.

    `covered_until` is the window's end or the answer's date, whichever is earlier. `now` is the
    server's time when the request was sent.
    """
    if step.pass_.name not in progress:
        return dict(progress)  # repair and backfill keep their cursors elsewhere, if they have any
    old = progress[step.pass_.name]
    settled = min(covered_until, now - step.pass_.settle)
    # A window inside unsettled time does not settle the time before it.
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
    """Return the progress of exactly these passes. A new re-read begins 1.5 times its age ago.

    "Ago" means before the end of what live has covered: at a start our clock may be wrong, and a
    cursor that begins too late misses messages. A new re-read always begins behind all
    forgotten time.
    """
    covered_until = progress[LIVE].covered_until
    start = max([start, *(window.end + NEAR for window in forgotten)])
    progress_of = {}
    for pass_ in passes:
        begin = max(start, covered_until - pass_.delay * 1.5)
        progress_of[pass_.name] = progress.get(pass_.name, Progress(begin, begin))
    return progress_of

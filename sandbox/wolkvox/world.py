"""What conversations exist. Pure: the same parameters give the same messages for the same instants.

Conversations are made per minute of opening, from a random generator seeded with (seed, minute):
any stretch of history can be made without making what came before it, and in any order.
Instants are seconds since the epoch (UTC). `local` values are seconds of the operation's wall clock
counted as if it were UTC: what the vendor stores, compares and prints, because its dates carry no
offset (wolkvox-api.md, 1.7).
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

from sandbox.wolkvox import texts

Hypothesis = Literal["H1", "H2", "H3"]
Records = Literal["messages", "conversations"]
Ends = Literal["[]", "[)", "(]", "()"]
Fields = dict[str, Any]
Seconds = Annotated[float, "s"]

MINUTE = 60
FIRST_MINUTE = 26_297_280
"""2020-01-01T00:00Z in minutes: conn_ids count from here, to stay short and rising."""

CACHED_MESSAGES = 150_000
"""Kept for the next read of the same minutes; about 1 kB each."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of [start, end) that no window shows before `until` (silent gaps, api.md 1.8).

    `share` of the conversations is struck: on the live API part of the campaigns answered 0 while
    others were full. `since` is when the gap began to hide what had been visible before.
    All but `share` in seconds since the epoch.
    """

    start: float
    end: float
    until: float
    share: float = 1.0
    since: float = -math.inf


@dataclass(frozen=True)
class World:
    """Every parameter of the simulated operation; shares are from 0 to 1, times in seconds."""

    # What is said.
    seed: Annotated[int, "same seed, same messages"] = 7
    start: Annotated[datetime | None, "history begins (aware); before it nothing exists"] = None
    end: Annotated[datetime | None, "no conversation opens from here on (aware)"] = None
    history: Annotated[Seconds, "history before the server's start, without --start"] = 3_600.0
    rate: Annotated[float, "conversations opened per hour; 0 = only explicit ones"] = 600.0
    zone: Annotated[str, "IANA zone of the operation"] = "America/Bogota"
    min_messages: Annotated[int, "of a conversation"] = 2
    max_messages: Annotated[int, "of a conversation"] = 12
    duration: Annotated[Seconds, "longest time from first to last message"] = 1_200.0
    close_after: Annotated[Seconds, "longest time from last message to closing"] = 60.0
    abandoned: Annotated[float, "share of conversations that close by time-out only"] = 0.01
    abandoned_after: Annotated[Seconds, "that time-out"] = 82_800.0

    # Specialities.
    twins: Annotated[float, "share of rows followed by a completely equal one"] = 0.01
    same_second: Annotated[float, "share of rows in the same second as the one before"] = 0.05
    placeholders: Annotated[float, "share of conversations sharing a placeholder conn_id"] = 0.01
    listed_twice: Annotated[float, "share of conversations in two elements of `data`"] = 0.01
    late: Annotated[float, "share of rows that become visible only later"] = 0.01
    latest: Annotated[Seconds, "longest delay of late rows"] = 3_600.0
    rebuild: Annotated[Seconds, "reports are rebuilt only so often; 0 = at once"] = 0.0
    gaps: tuple[Gap, ...] = ()
    feeling: Annotated[float, "share of conversations whose rows carry `feeling`"] = 0.7
    phone: Annotated[float, "share of conversations whose rows carry `customer_phone`"] = 0.7
    corrected: Annotated[float, "share of feelings and agent_names corrected on later reads"] = 0.1
    corrected_after: Annotated[Seconds, "longest time to such a correction"] = 600.0
    unknown_fields: Annotated[float, "share of conversations with fields nobody documented"] = 0.02
    inline_media: Annotated[float, "share of rows with a picture of some hundred kB"] = 0.0002
    long_texts: Annotated[float, "share of rows with some kB of text"] = 0.003
    shuffled: Annotated[float, "share of answers whose order is random"] = 1.0

    # How the report answers.
    hypothesis: Annotated[Hypothesis, "the filter's date: H1 close, H2 message, H3 open"] = "H1"
    ends: Annotated[Ends, "which ends of a window belong to it"] = "[]"
    empty: Annotated[Literal["404", "200"], "answer without rows"] = "404"
    records: Annotated[Records, "what a record is, in the cap and in N"] = "messages"
    row_cap: Annotated[int, "records an answer holds at most"] = 60_000
    over_cap: Annotated[Literal["truncate", "refuse"], "answer beyond the cap"] = "truncate"
    cap_tells: Annotated[bool, "N counts what was found, not what is shown"] = False
    drift: Annotated[float, "share of answers with '200', 'null' or ' N records'"] = 0.5
    max_days: Annotated[float, "widest window, in days"] = 31.0
    simultaneous: Annotated[int, "requests in flight per token"] = 2
    quota: Annotated[int, "requests per local day"] = 1_000_000
    latency: Annotated[Seconds, "before every answer"] = 0.0
    keep_alive: Annotated[Seconds, "an idle connection is closed after"] = 5.0
    clock_offset: Annotated[Seconds, "the server's clock is ahead by"] = 0.0

    def __post_init__(self) -> None:
        """Refuse what would otherwise quietly be taken for something else."""
        for name, hint in get_type_hints(World).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name} must be one of {get_args(hint)}")
        if any(when is not None and when.tzinfo is None for when in (self.start, self.end)):
            raise ValueError("start and end need an offset")


@dataclass(slots=True)
class Row:
    """One message: its fields as shown at first, and what becomes of them.

    `visible_from` of an explicit row overrides all other delays. From `later_from` on, `later`
    replaces fields of the same name.
    """

    at: float
    local: float
    fields: Fields
    delay: float = 0.0
    visible_from: float | None = None
    later: Fields | None = None
    later_from: float = 0.0


@dataclass(slots=True)
class Conversation:
    """One chat; `opened` and `closed` are instants, `lot` in [0, 1) decides which gaps strike."""

    head: Fields
    rows: list[Row]
    opened: float
    closed: float
    lot: float = 0.0
    listings: int = 1
    later_head: Fields | None = None
    later_from: float = 0.0
    explicit: bool = False


class LocalTime:
    """The operation's wall clock; offsets are looked up once per minute, which suits IANA zones."""

    def __init__(self, zone: str) -> None:
        self.zone = ZoneInfo(zone)
        self._offsets: dict[int, int] = {}
        self._minutes: dict[int, str] = {}

    def local(self, at: float) -> float:
        """Return wall-clock seconds of an instant."""
        minute = int(at // MINUTE)
        offset = self._offsets.get(minute)
        if offset is None:
            away = datetime.fromtimestamp(minute * MINUTE, self.zone).utcoffset()
            offset = self._offsets[minute] = int((away or timedelta()).total_seconds())
        return at + offset

    def text(self, local: float) -> str:
        """Return `YYYY-MM-DD HH:MM:SS`, as the report prints dates."""
        minute, second = divmod(int(local), MINUTE)
        prefix = self._minutes.get(minute)
        if prefix is None:
            when = datetime.fromtimestamp(minute * MINUTE, UTC)
            prefix = self._minutes[minute] = f"{when:%Y-%m-%d %H:%M:}"
        return f"{prefix}{second:02d}"

    def instants(self, local: float) -> tuple[float, float]:
        """Return the first and last instant a wall-clock second may mean (two in autumn)."""
        wall = datetime.fromtimestamp(local, UTC).replace(tzinfo=self.zone)
        both = (wall.timestamp(), wall.replace(fold=1).timestamp())
        return min(both), max(both)

    def parse(self, text: str) -> float | None:
        """Return wall-clock seconds of `YYYYmmddHHMMSS` or `YYYY-MM-DD HH:MM:SS`; None if bad."""
        digits = re.sub(r"[-: T]", "", text)
        if re.fullmatch(r"[0-9]{14}", digits) is None:
            return None
        try:
            return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            return None

    def moment(self, value: float | str | datetime) -> float:
        """Return the instant a caller means: epoch seconds, ISO text or datetime, naive = local."""
        if isinstance(value, int | float):
            return float(value)
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
        return (when if when.tzinfo else when.replace(tzinfo=self.zone)).timestamp()


class Traffic:
    """The generated conversations of a world whose history begins at `start`."""

    def __init__(self, world: World, start: float) -> None:
        self.world = world
        self.time = LocalTime(world.zone)
        self.first = int(start // MINUTE)
        self.last = int(world.end.timestamp() // MINUTE) if world.end else None
        self.lookback = world.duration + world.close_after + 2 * world.max_messages + 1
        self._wide = math.ceil(world.rate / MINUTE) + 1
        self._made: OrderedDict[tuple[bool, int], list[Conversation]] = OrderedDict()
        self._held = 0

    def between(
        self, first: float, last: float, hypothesis: Hypothesis = "H2"
    ) -> Iterator[Conversation]:
        """Yield at least all whose filter column may lie in [first, last], by minute of opening."""
        if self.world.rate <= 0:
            return
        back = 0 if hypothesis == "H3" else self.lookback
        yield from self._opened(first - back, last, abandoned=False)
        if self.world.abandoned > 0:
            away = self.world.abandoned_after if hypothesis == "H1" else 0
            yield from self._opened(first - back - away, last - away, abandoned=True)

    def _opened(self, first: float, last: float, *, abandoned: bool) -> Iterator[Conversation]:
        begin = max(self.first, int(first // MINUTE))
        end = int(last // MINUTE) + 1
        for minute in range(begin, end if self.last is None else min(end, self.last)):
            yield from self._slot(minute, abandoned=abandoned)

    def _slot(self, minute: int, *, abandoned: bool) -> list[Conversation]:
        key = (abandoned, minute)
        made = self._made.get(key)
        if made is not None:
            self._made.move_to_end(key)
            return made
        made = self._made[key] = self._make(minute, abandoned=abandoned)
        self._held += sum(len(conversation.rows) for conversation in made)
        while self._held > CACHED_MESSAGES and len(self._made) > 1:
            _, dropped = self._made.popitem(last=False)
            self._held -= sum(len(conversation.rows) for conversation in dropped)
        return made

    def _make(self, minute: int, *, abandoned: bool) -> list[Conversation]:
        world = self.world
        rng = Random(f"{world.seed}/{minute}/{'abandoned' if abandoned else 'closed'}")
        share = world.abandoned if abandoned else 1 - world.abandoned
        made = []
        number = 100_000_000 + (minute - FIRST_MINUTE) * 2 * self._wide + abandoned * self._wide
        for index in range(int(world.rate / MINUTE * share + rng.random())):
            made += self._conversation(rng, minute, number + index, abandoned=abandoned)
        return made

    def _conversation(
        self, rng: Random, minute: int, number: int, *, abandoned: bool
    ) -> list[Conversation]:
        """Make one conversation; with a placeholder conn_id, two that differ in one field only."""
        world, r = self.world, rng.random
        customer = texts.CUSTOMERS[int(r() * len(texts.CUSTOMERS))]
        agent = texts.AGENTS[int(r() * len(texts.AGENTS))]
        head: Fields = {
            "conn_id": str(number), "agent_name": agent, "customer_name": customer
        }  # fmt: skip
        shared: Fields = {
            "channel": texts.CHANNELS[int(r() * len(texts.CHANNELS))],
            "customer_id": str(10_000_000 + number % 89_999_999),
        }
        if r() < world.phone:
            shared["customer_phone"] = f"57300{number % 10_000_000:07d}"
        if r() < world.feeling:
            shared["feeling"] = texts.FEELINGS[int(r() * 5)]
        if r() < world.unknown_fields:
            head["queue"] = "soporte_2"
            shared["campaign"] = {"id": number % 9, "tags": ["vip", None]}
        opened = minute * MINUTE + int(r() * MINUTE)
        rows = self._rows(rng, opened, number, (agent, customer), shared)
        wait = r() * world.close_after + world.abandoned_after * abandoned
        chat = Conversation(head, rows, opened, rows[-1].at + int(wait), lot=r())
        if r() < world.listed_twice:
            chat.listings = 2
        if r() < world.corrected:
            chat.later_head = {"agent_name": texts.AGENTS[int(r() * len(texts.AGENTS))]}
            chat.later_from = chat.closed + int(r() * world.corrected_after)
        if r() < world.placeholders:
            head["conn_id"] = texts.PLACEHOLDERS[int(r() * len(texts.PLACEHOLDERS))]
            return [chat, _companion(chat, int(r() * 3), number)]
        return [chat]

    def _rows(
        self, rng: Random, opened: float, number: int, names: tuple[str, str], shared: Fields
    ) -> list[Row]:
        world, r = self.world, rng.random
        count = world.min_messages + int(r() * (world.max_messages - world.min_messages + 1))
        step = world.duration * r() / count
        bot = 2 if r() < 0.5 else 0
        local, text = self.time.local, self.time.text
        at, rows = opened, []
        for index in range(count):
            if index and r() >= world.same_second:
                at += 1 + int(step * r())
            wall = local(at)
            name = texts.BOT if index < bot else names[0]
            speaks = r() < 0.5
            fields: Fields = {
                "channel": shared["channel"],
                "from": "AGENT" if speaks else "CUSTOMER",
                "from_name": name if speaks else names[1],
                "to_name": names[1] if speaks else name,
                "date": text(wall),
                "message": self._message(r, number + index),
            }
            fields.update(shared)
            row = Row(at, wall, fields)
            if "feeling" in fields and r() < world.corrected:
                row.later = {"feeling": fields["feeling"]}
                fields["feeling"] = ""
                row.later_from = at + int(r() * world.corrected_after)
            if r() < world.late:
                # The cube makes most delays short and some as long as they get.
                row.delay = max(1.0, world.latest * r() ** 3)
            rows.append(row)
            if r() < world.twins:
                rows.append(Row(at, wall, dict(fields), row.delay, None, row.later, row.later_from))
        return rows

    def _message(self, r: Any, number: int) -> str:
        lot = r()
        if lot < self.world.inline_media:
            return texts.INLINE_MEDIA[number % len(texts.INLINE_MEDIA)]
        if lot < self.world.inline_media + self.world.long_texts:
            return texts.LONG[number % len(texts.LONG)]
        if lot < 0.7:
            return texts.PLAIN[int(r() * len(texts.PLAIN))]
        return texts.NUMBERED[number % len(texts.NUMBERED)].format(n=number)


def _companion(chat: Conversation, difference: int, number: int) -> Conversation:
    """Return another chat with the same conn_id, dates and texts: only one field tells them apart.

    The field is channel, customer_id or customer_phone, by `difference`.
    """
    name = ("channel", "customer_id", "customer_phone")[difference]
    value = ("sms", str(number), f"57301{number % 10_000_000:07d}")[difference]

    def other(fields: Fields) -> Fields:
        return {**fields, name: value}

    rows = [
        Row(row.at, row.local, other(row.fields), row.delay, None, row.later, row.later_from)
        for row in chat.rows
    ]
    head = {**chat.head, "customer_name": texts.CUSTOMERS[number % len(texts.CUSTOMERS)]}
    return Conversation(head, rows, chat.opened, chat.closed, chat.lot, chat.listings)


def explicit(told: Mapping[str, Any], time: LocalTime, now: float) -> Conversation:
    """Return a conversation given in the report's own shape.

    Its rows may carry `visible_from` and, for rows whose `date` cannot be read, `at`; itself it may
    carry `opened`, `closed` (default: first and last row) and a `visible_from` for all rows.
    Instants are epoch seconds, ISO text or datetimes; naive ones are the operation's wall clock.
    Nothing else is looked at, let alone corrected: odd values are shown as given.
    """
    own = ("conversation", "opened", "closed", "visible_from")
    head = {name: value for name, value in told.items() if name not in own}
    rows = []
    for given in told["conversation"]:
        fields = {
            name: value for name, value in given.items() if name not in ("visible_from", "at")
        }
        wall = time.parse(str(fields.get("date", "")))
        if "at" in given:
            at = time.moment(given["at"])
            wall = time.local(at)
        elif wall is not None:
            at = time.instants(wall)[0]
        else:
            at = time.moment(told.get("opened", now))
            wall = time.local(at)
        seen = given.get("visible_from", told.get("visible_from"))
        visible = None if seen is None else time.moment(seen)
        rows.append(Row(at, wall, fields, visible_from=visible))
    moments = [row.at for row in rows] or [now]
    return Conversation(
        head,
        rows,
        opened=time.moment(told.get("opened", min(moments))),
        closed=time.moment(told.get("closed", max(moments))),
        explicit=True,
    )

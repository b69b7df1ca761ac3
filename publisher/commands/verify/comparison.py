"""Compares the rows that the report shows for a range with the events that the topic holds.

Rules of this file:
- The comparison keeps digests and no rows: some 500 bytes a message, and no personal text.
- The `date` of a message decides whether it belongs to the range, and not the window that shows
  it: it is unknown by which column the report filters.
- Events that were published after the report was read are not judged: the report may not have
  shown them yet.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from publisher.events.encode import EVENT_FIELDS
from publisher.events.identity import unsigned
from publisher.model import Instant, Window, iso


class Finding(NamedTuple):
    """A difference between report and topic. It holds no text, name or number of a person."""

    kind: str
    """`missing`, `doubled`, `extra` or `changed`."""
    conn_id: str
    date: str
    event_id: str
    fields: tuple[str, ...] = ()
    """The names of the fields that differ."""


class _Shown(NamedTuple):
    """A row that the report shows."""

    digests: bytes
    date: str
    conn_id: str
    window: int
    """The place in `Comparison.windows` of the window that shows it."""


@dataclass(slots=True)
class _Revised:
    """The revisions of a message, as digests."""

    last: bytes | None = None
    """The last revision before the report was read; None = there is none."""
    later: set[bytes] = field(default_factory=set)
    """The revisions after that."""


@dataclass(slots=True)
class Comparison:
    """The comparison of the report with the topic over the range from `start` to `end`.

    Call `shown` for all rows, then `revised` for all revisions, then `published` for all events.
    Rows of a wider window may come after that.
    """

    start: Instant
    end: Instant
    settled: Instant
    """How far live has read the report for good."""
    rows: int = 0
    """How many rows of the range the report shows."""
    events: int = 0
    """How many events of the range were judged."""
    windows: list[Window] = field(default_factory=list)
    """The windows that were the first to show a row of the range."""
    changed: list[Finding] = field(default_factory=list)
    doubled: list[Finding] = field(default_factory=list)
    """A finding for every repetition of an event in the topic."""
    _shown: dict[bytes, _Shown] = field(default_factory=dict)
    """The rows without an event so far, by event id."""
    _extra: dict[bytes, tuple[bytes, Finding]] = field(default_factory=dict)
    """The events without a row so far, by event id: their digests and findings."""
    _held: set[bytes] = field(default_factory=set)
    """The ids of the events that the topic holds."""
    _revised: dict[bytes, _Revised] = field(default_factory=dict)
    _first: str = field(init=False)
    _last: str = field(init=False)

    def __post_init__(self) -> None:
        """Write the bounds in whole seconds, as the dates are: then texts compare like instants."""
        self._first, self._last = (
            iso(instant.replace(microsecond=0)) for instant in (self.start, self.end)
        )

    def shown(self, value: bytes, window: Window) -> None:
        """Add a row that the report shows, as the event that the service would publish.

        A window that live has not settled yet may show a row of the range that could not have
        been published yet. Such a row only explains an event in the topic; it is never missing.
        """
        event = orjson.loads(value)
        if not self._within(event):
            return
        id_ = UUID(event["event_id"]).bytes
        digests = _digests(event)
        if (extra := self._extra.pop(id_, None)) is not None:
            # A wider window shows the row of this event after all.
            self.rows += 1
            if extra[0] != digests:
                self.changed.append(_changed(extra[1], extra[0], digests))
            return
        if id_ in self._shown or id_ in self._held or window.end > self.settled:
            return
        self.rows += 1
        if not self.windows or self.windows[-1] != window:
            self.windows.append(window)
        place = len(self.windows) - 1
        self._shown[id_] = _Shown(digests, event["date"], _conn_id(event), place)

    def revised(self, event: dict[str, Any], *, later: bool) -> None:
        """Add a revision, which replaces its event.

        `later` is that of `published`. The report may show the message before or after a later
        revision, so both are right.
        """
        if self._within(event):
            revised = self._revised.setdefault(UUID(event["event_id"]).bytes, _Revised())
            if later:
                revised.later.add(_digests(event))
            else:
                revised.last = _digests(event)

    def published(self, event: dict[str, Any], *, later: bool) -> None:
        """Add an event of the topic. `later` = it was committed after the report was read."""
        if not self._within(event):
            return
        id_ = UUID(event["event_id"]).bytes
        finding = Finding("extra", _conn_id(event), event["date"], event["event_id"])
        if id_ in self._held:
            self.doubled.append(finding._replace(kind="doubled"))
            return
        self._held.add(id_)
        shown = self._shown.pop(id_, None)
        if shown is None and later:
            return
        self.events += 1
        revised = self._revised.get(id_, _Revised())
        digests = revised.last or _digests(event)
        if shown is None:
            self._extra[id_] = digests, finding
            return
        if shown.digests not in {digests, *revised.later}:
            self.changed.append(_changed(finding, digests, shown.digests))

    @property
    def missing(self) -> list[Finding]:
        """The rows without an event."""
        return [
            Finding("missing", shown.conn_id, shown.date, str(UUID(bytes=id_)))
            for id_, shown in self._shown.items()
        ]

    def missing_by_window(self) -> dict[Window, set[bytes]]:
        """The ids of the missing events, as text, by the window that has shown them."""
        by_window: dict[int, set[bytes]] = {}
        for id_, shown in self._shown.items():
            by_window.setdefault(shown.window, set()).add(str(UUID(bytes=id_)).encode())
        return {self.windows[place]: by_window[place] for place in sorted(by_window)}

    @property
    def extra(self) -> list[Finding]:
        """The events without a row."""
        return [finding for _, finding in self._extra.values()]

    @property
    def findings(self) -> list[Finding]:
        """All differences, sorted by date."""
        findings = [*self.missing, *self.doubled, *self.extra, *self.changed]
        return sorted(findings, key=lambda finding: finding[2:])

    def _within(self, event: dict[str, Any]) -> bool:
        """Whether the event belongs to the range."""
        occurred_at: str = event["occurred_at"]
        return self._first <= occurred_at < self._last


def _conn_id(event: dict[str, Any]) -> str:
    conn_id = event.get("conn_id")
    return "" if conn_id is None else str(conn_id)


_FIELDS: Final = [name for name in EVENT_FIELDS if name not in ("event_id", "source")]
_SIZE: Final = 5
"""The bytes of a field's digest."""


def _digests(event: dict[str, Any]) -> bytes:
    """The digests of all fields, in order; zeros for a field that the event leaves out.

    The message is taken without the signatures of its links, as for the id of an event.
    """
    if isinstance(event.get("message"), str):
        event = event | {"message": unsigned(event["message"])}
    return b"".join(
        blake2b(orjson.dumps(event[name], option=orjson.OPT_SORT_KEYS), digest_size=_SIZE).digest()
        if name in event
        else bytes(_SIZE)
        for name in _FIELDS
    )


def _changed(finding: Finding, ours: bytes, other: bytes) -> Finding:
    """The finding that the fields with different digests have changed."""
    fields = tuple(
        name
        for place, name in enumerate(_FIELDS)
        if ours[place * _SIZE : (place + 1) * _SIZE] != other[place * _SIZE : (place + 1) * _SIZE]
    )
    return finding._replace(kind="changed", fields=fields)

"""Whether the topic holds what the report shows for a range.

Rules of this file:
- Digests are remembered and not rows: some 500 bytes a message, no text of anybody.
- A message belongs to the range by its `date`, whichever window shows it: nobody knows by which
  column the report filters.
- What was published after the report was read is not judged: it may be younger than that.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from publisher.events.identity import unsigned
from publisher.model import Instant, Window, iso


class Finding(NamedTuple):
    """One difference; no text, no name, no number of a person."""

    kind: str
    """`missing`, `doubled`, `extra` or `changed`."""
    conn_id: str
    date: str
    event_id: str
    fields: tuple[str, ...] = ()
    """Names of the fields that differ."""


class _Shown(NamedTuple):
    digests: bytes
    date: str
    conn_id: str
    window: int


@dataclass(slots=True)
class _Revised:
    """What was told of a message after its event."""

    last: bytes | None = None
    """Before the report was read; None = nothing."""
    later: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Comparison:
    """The report and the topic over one range: all of `shown`, then `revised`, then `published`."""

    start: Instant
    end: Instant
    settled: Instant
    """How far live has come."""
    rows: int = 0
    events: int = 0
    windows: list[Window] = field(default_factory=list)
    """The windows that have shown something that is missing so far."""
    changed: list[Finding] = field(default_factory=list)
    doubled: list[Finding] = field(default_factory=list)
    """One for each time that the topic holds an event once more."""
    _shown: dict[bytes, _Shown] = field(default_factory=dict)
    _extra: dict[bytes, tuple[bytes, Finding]] = field(default_factory=dict)
    _held: set[bytes] = field(default_factory=set)
    """What the topic holds."""
    _revised: dict[bytes, _Revised] = field(default_factory=dict)
    _first: str = field(init=False)
    _last: str = field(init=False)

    def __post_init__(self) -> None:
        """Whole seconds, as dates have them: a text compares as its instant."""
        self._first, self._last = (
            iso(instant.replace(microsecond=0)) for instant in (self.start, self.end)
        )

    def shown(self, value: bytes, window: Window) -> None:
        """The report shows this row, as the event that it is.

        A window that live has not settled yet may show a row of the range that nobody could
        have published: it only explains what the topic holds.
        """
        event = orjson.loads(value)
        if not self._within(event):
            return
        id_ = UUID(event["event_id"]).bytes
        digests = _digests(event)
        if (extra := self._extra.pop(id_, None)) is not None:
            # A wider window shows it after all.
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
        """A revision stands for its event; `later` as below: either may be what was shown."""
        if self._within(event):
            revised = self._revised.setdefault(UUID(event["event_id"]).bytes, _Revised())
            if later:
                revised.later.add(_digests(event))
            else:
                revised.last = _digests(event)

    def published(self, event: dict[str, Any], *, later: bool) -> None:
        """The topic holds this event; `later` = it was committed after the report was read."""
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
        return [
            Finding("missing", shown.conn_id, shown.date, str(UUID(bytes=id_)))
            for id_, shown in self._shown.items()
        ]

    def missing_by_window(self) -> dict[Window, set[bytes]]:
        """The ids (text) of what is missing, by the window that has shown it."""
        by_window: dict[int, set[bytes]] = {}
        for id_, shown in self._shown.items():
            by_window.setdefault(shown.window, set()).add(str(UUID(bytes=id_)).encode())
        return {self.windows[place]: by_window[place] for place in sorted(by_window)}

    @property
    def extra(self) -> list[Finding]:
        return [finding for _, finding in self._extra.values()]

    @property
    def findings(self) -> list[Finding]:
        findings = [*self.missing, *self.doubled, *self.extra, *self.changed]
        return sorted(findings, key=lambda finding: finding[2:])

    def _within(self, event: dict[str, Any]) -> bool:
        occurred: str = event["occurred_at"]
        return self._first <= occurred < self._last


def _conn_id(event: dict[str, Any]) -> str:
    conn_id = event.get("conn_id")
    return "" if conn_id is None else str(conn_id)


_FIELDS: Final = (
    "conn_id", "date", "occurred_at", "occurred_at_ambiguous", "channel", "from", "from_name",
    "to_name", "message", "message_bytes", "message_sha256", "customer_id", "customer_phone",
    "feeling", "agent_name", "customer_name", "extra",
)  # fmt: skip
_SIZE: Final = 5
"""Bytes of one field's digest."""


def _digests(event: dict[str, Any]) -> bytes:
    """A digest of each field; zeros for one that is left out. Links as identity has them."""
    if isinstance(event.get("message"), str):
        event = event | {"message": unsigned(event["message"])}
    return b"".join(
        blake2b(orjson.dumps(event[name], option=orjson.OPT_SORT_KEYS), digest_size=_SIZE).digest()
        if name in event
        else bytes(_SIZE)
        for name in _FIELDS
    )


def _changed(finding: Finding, ours: bytes, other: bytes) -> Finding:
    fields = tuple(
        name
        for place, name in enumerate(_FIELDS)
        if ours[place * _SIZE : (place + 1) * _SIZE] != other[place * _SIZE : (place + 1) * _SIZE]
    )
    return finding._replace(kind="changed", fields=fields)

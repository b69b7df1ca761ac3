"""Which rows a window shows, and the envelope around them. Pure: `now` is an argument.

Which column the real report filters by is unknown (wolkvox-api.md, section 4); all three
possibilities are here, chosen by `World.hypothesis`. Envelopes follow section 2 there and the
vendor's page.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import orjson

from sandbox.wolkvox.world import Conversation, Fields, Gap, LocalTime, Row, World

PLACEHOLDER_IDS = ("0", "-", "", None)
ELEMENTS_PER_PIECE = 200
"""Elements of `data` encoded and sent at a time."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was asked for, in wall-clock seconds of the operation."""

    ini: float
    end: float

    def holds(self, local: float, ends: str) -> bool:
        """Say whether the window contains a wall-clock second; `ends` as in `World.ends`."""
        after = local >= self.ini if ends[0] == "[" else local > self.ini
        before = local <= self.end if ends[1] == "]" else local < self.end
        return after and before


def visible_at(chat: Conversation, row: Row, world: World, gaps: Iterable[Gap] = ()) -> float:
    """Return the instant from which some window shows a row.

    A closed chat's rows exist for the report when it closes (H1), otherwise when they are said;
    late rows some time after that, and not before the report is rebuilt.
    """
    if row.visible_from is not None:
        moment = row.visible_from
    else:
        moment = (chat.closed if world.hypothesis == "H1" else row.at) + row.delay
        if world.rebuild > 0:
            moment = math.ceil(moment / world.rebuild) * world.rebuild
    for gap in gaps:
        if gap.start <= row.at < gap.end and chat.lot < gap.share and moment >= gap.since:
            moment = max(moment, gap.until)
    return moment


def _hidden(chat: Conversation, row: Row, gap: Gap, now: float) -> bool:
    return gap.start <= row.at < gap.end and chat.lot < gap.share and gap.since <= now < gap.until


@dataclass(frozen=True, slots=True)
class View:
    """The report at one moment: `now` in epoch seconds, `gaps` those of the world and more."""

    world: World
    time: LocalTime
    now: float
    gaps: Sequence[Gap] = ()


def shown(chat: Conversation, window: Window, view: View) -> list[Row]:
    """Return the rows of a chat that this window shows."""
    world, now, gaps = view.world, view.now, view.gaps
    whole = world.hypothesis != "H2"
    if whole:
        filed = chat.closed if world.hypothesis == "H1" else chat.opened
        if not window.holds(view.time.local(filed), world.ends):
            return []
    return [
        row
        for row in chat.rows
        if (whole or window.holds(row.local, world.ends))
        and visible_at(chat, row, world) <= now
        and not any(_hidden(chat, row, gap, now) for gap in gaps)
    ]


def element(chat: Conversation, rows: Sequence[Row], now: float) -> Fields:
    """Return one element of `data`, with the corrections made by now."""
    head = chat.head
    if chat.later_head is not None and now >= chat.later_from:
        head = {**head, **chat.later_head}
    said = [
        row.fields if row.later is None or now < row.later_from else {**row.fields, **row.later}
        for row in rows
    ]
    return {**head, "conversation": said}


def count(elements: Sequence[Fields], world: World) -> int:
    """Return the number of records, in the unit of the cap."""
    if world.records == "conversations":
        return len(elements)
    return sum(len(one["conversation"]) for one in elements)


def capped(elements: Sequence[Fields], world: World) -> list[Fields]:
    """Return what fits below the row cap; a conversation may be cut in its middle."""
    if world.records == "conversations":
        return list(elements[: world.row_cap])
    kept: list[Fields] = []
    room = world.row_cap
    for one in elements:
        if room <= 0:
            break
        said = one["conversation"]
        kept.append(one if len(said) <= room else {**one, "conversation": said[:room]})
        room -= len(said)
    return kept


def shuffle(elements: list[Fields], rng: Random) -> list[Fields]:
    """Return the same in another order, inside conversations too; what is cached stays as it is."""
    mixed = [{**one, "conversation": list(one["conversation"])} for one in elements]
    rng.shuffle(mixed)
    for one in mixed:
        said = one["conversation"]
        if len(said) > 1:
            said.sort(key=lambda _: rng.random())
    return mixed


def encode(elements: Sequence[Fields], found: int, rng: Random, drift: float) -> Iterator[bytes]:
    """Yield the successful answer in pieces; the envelope drifts as wolkvox-api.md 1.9 says."""
    odd = rng.random() < drift
    code = '"200"' if odd and rng.random() < 0.5 else "200"
    error = '"null"' if odd and rng.random() < 0.5 else "null"
    lead = " " if odd and rng.random() < 0.5 else ""
    msg = f'"{lead}{found} records were found"'
    yield f'{{"code":{code},"error":{error},"msg":{msg},"data":['.encode()
    for begin in range(0, len(elements), ELEMENTS_PER_PIECE):
        piece = orjson.dumps(elements[begin : begin + ELEMENTS_PER_PIECE])[1:-1]
        yield b"," + piece if begin else piece
    yield b"]}"


def refusal(code: int, error: str, msg: str) -> bytes:
    """Return the body of an error; the documented one of an empty window holds `data` too."""
    return orjson.dumps({"code": str(code), "error": error, "msg": msg, "data": []})


def truth_of(chat: Conversation, world: World, now: float, gaps: Sequence[Gap]) -> Iterator[Fields]:
    """Yield every row of a chat that some window has shown by `now`, as it is shown now.

    One dict per message, so twins come twice. Besides the report's fields (the chat's and the
    row's): `_at`, `_visible_at`, `_opened`, `_closed` (epoch seconds), `_number` (from 1) among
    `_of` equal rows of the chat, and `_earlier`: values the row's fields had before a correction.
    """
    rows = [(row, visible_at(chat, row, world, gaps)) for row in chat.rows]
    rows = [(row, moment) for row, moment in rows if moment <= now]
    if not rows:
        return
    keys = [identity(chat.head, row.fields) for row, _ in rows]
    total, number = Counter(keys), Counter[bytes]()
    new_head = chat.later_head if chat.later_head and now >= chat.later_from else {}
    for (row, moment), key in zip(rows, keys, strict=True):
        number[key] += 1
        new_row = row.later if row.later and now >= row.later_from else {}
        yield {
            **chat.head,
            **new_head,
            **row.fields,
            **new_row,
            "_at": row.at,
            "_visible_at": moment,
            "_opened": chat.opened,
            "_closed": chat.closed,
            "_number": number[key],
            "_of": total[key],
            "_earlier": {name: chat.head.get(name) for name in new_head}
            | {name: row.fields.get(name) for name in new_row},
        }


def identity(head: Fields, fields: Fields) -> bytes:
    """Return what tells messages apart: for placeholder conn_ids also who the customer is."""
    own = [fields.get(name) for name in ("date", "from", "message")]
    if head.get("conn_id") in PLACEHOLDER_IDS:
        own += [fields.get(name) or "" for name in ("channel", "customer_id", "customer_phone")]
    return orjson.dumps([head.get("conn_id"), *own])

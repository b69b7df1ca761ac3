"""A revision for each change that an answer shows, and never for the way it shows it."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.commands.dead_letters import replay_batch
from publisher.commands.state.rebuilt_state import Rebuilt
from publisher.commands.verify.comparison import Comparison
from publisher.events import dead_letter
from publisher.events.publication import Limits, Publication, prepare
from publisher.events.published_event import PublishedEvent
from publisher.events.revisions import fingerprints_of
from publisher.events.rows import RejectReason, digest_of, read_rows
from publisher.model import Answer, Window
from publisher.schedule.passes import Read, passes_of
from publisher.settings import PublisherSettings
from publisher.state import state
from publisher.state.fingerprints import MOST_REVISIONS, version
from publisher.state.ledger import Ledger
from publisher.state.state import State
from publisher.wolkvox.responses import Classification, classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import Seen, seen
from tests.test_replay import read_back

ZONE: Final = Zone("America/Bogota")
START: Final = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
DATE: Final = "2026-11-20 10:00:01"
WINDOW: Final = Window(START, START + timedelta(minutes=5))
PASS: Final = passes_of(PublisherSettings())[0]
NAMES: Final = [pass_.name for pass_ in passes_of(PublisherSettings())]
ON: Final = Limits(timedelta(days=31), 1_000_000, revisions=True)
OFF: Final = Limits(timedelta(days=31), 1_000_000)

Fields = dict[str, Any]


def chat(*rows: Fields, **fields: Any) -> Fields:
    return {"conn_id": "186067512", "agent_name": "Luis", **fields, "conversation": list(rows)}


def row(message: Any = "Hola", **fields: Any) -> Fields:
    return {"date": DATE, "from": "CUSTOMER", "message": message, "feeling": "neutral", **fields}


class Service:
    """One operation that reads answers; its memory can be lost, its topics cannot."""

    def __init__(self, limits: Limits = ON, chunk: int = 1000) -> None:
        self.limits = limits
        self.chunk = chunk
        """Rows that are worked off at once."""
        self.topic: dict[bytes, bytes] = {}
        self.events: list[Seen] = []
        self.revisions: list[Seen] = []
        self.letters: list[Seen] = []
        self.state, record = state.first("wv0010", ZONE.name, START, "now", NAMES)
        self._write([record])

    def _write(self, records: Iterable[Any]) -> None:
        for key, value in records:
            if value is None:
                del self.topic[key]
            else:
                self.topic[key] = value

    def restart(self, limits: Limits | None = None) -> None:
        self.limits = limits or self.limits
        self.state = restored(self.topic, revisions=self.limits.revisions)

    def prepare(self, data: list[Any], classification: Classification | None = None) -> Publication:
        body = orjson.dumps({"code": 200, "error": None, "msg": "", "data": data})
        answer = Answer(200, {}, body, WINDOW.end, WINDOW.end, 0.1)
        step = Read(PASS, WINDOW, ends_round=True)
        with patch("publisher.events.rows.CHUNK", self.chunk):
            return prepare(
                self.state, step, answer, classification or classify(answer), ZONE, self.limits,
                now=WINDOW.end, covered_until=WINDOW.end, possibly_cut=False,
            )  # fmt: skip

    def read(self, *data: Fields, crash: str = "") -> list[Seen]:
        """Read an answer; the revisions it made. A crash before the commit makes none."""
        return self.commit(self.prepare(list(data)), crash)

    def commit(self, publication: Publication, crash: str = "") -> list[Seen]:
        batch = publication.batch
        events, revisions = [*map(seen, batch.events)], [*map(seen, batch.revisions)]
        letters = [*map(seen, batch.dead_letters)]
        if crash == "before":
            self.restart()
            return []
        self._write(batch.state)
        self.events += events
        self.revisions += revisions
        self.letters += letters
        assert len(revisions) <= publication.revised
        if crash == "after":
            self.restart()
        else:
            self.state.apply(publication.successor, self.limits.horizon)
        return revisions

    @property
    def table(self) -> dict[str, Fields]:
        """What a consumer holds who keeps the last that he heard of each message.

        Checks on the way that numbers count from 1, and that each says something new.
        """
        found = {event["event_id"]: event for event in map(value_of, self.events)}
        assert len(found) == len(self.events)
        numbers: Counter[str] = Counter()
        for record in self.revisions:
            told = value_of(record)
            numbers[told["event_id"]] += 1
            assert told.pop("revision") == numbers[told["event_id"]]
            assert content(found[told["event_id"]]) != content(told)
            found[told["event_id"]] = told
        ids = [record.header["ce_id"] for record in self.revisions]
        assert len(set(ids)) == len(ids)
        return found


def restored(topic: Mapping[bytes, bytes], *, revisions: bool = True) -> State:
    found = state.restore("wv0010", dict(topic), revisions=revisions)
    assert found is not None
    return found


def value_of(record: Seen) -> Fields:
    told: Fields = json.loads(record.value)
    return told


def content(told: Mapping[str, Any]) -> str:
    """All of an event or a row but what identity takes."""
    own = {"event_id", "source", "occurred_at", "conn_id", "date", "from", "message"}
    return json.dumps({n: v for n, v in told.items() if n not in own}, sort_keys=True)


def contents(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], Counter[str]]:
    """The multiset of contents by identity."""
    found: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for told in events:
        found[told["conn_id"], told["date"], told["message"]][content(told)] += 1
    return dict(found)


# --- the rule, whatever the world does ------------------------------------------------------------

FEELINGS: Final = ("", "neutral", "happy", "angry")
CRASHES: Final = ("", "", "", "before", "after")
Line = tuple[int, int, int]
"""Which chat, which text, which second: equal lines are twins."""
LINES: Final = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=7
)
STEPS: Final = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from(FEELINGS)), max_size=3),
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["Luis", "Eva"])), max_size=1),
        st.sampled_from(CRASHES),
        st.integers(0, 2**32),
    ),
    min_size=1,
    max_size=6,
)


CHUNKS: Final = st.sampled_from([1, 2, 1000])


class World:
    """Chats whose rows change their feelings, and whose agents change their names."""

    def __init__(self, lines: list[Line], feelings: list[str]) -> None:
        self.lines = lines
        self.feelings = feelings
        self.agents = ["Luis"] * 3

    def elements(self, only: Iterable[int] | None = None) -> list[Fields]:
        found: dict[int, list[Fields]] = {}
        shown = set(range(len(self.lines)) if only is None else only)
        for place, (which, text, second) in enumerate(self.lines):
            if place in shown:
                date = f"2026-11-20 10:00:0{second}"
                told = row(str(text), date=date, feeling=self.feelings[place])
                found.setdefault(which, []).append(told)
        return [
            chat(*rows, conn_id=str(100 + which), agent_name=self.agents[which])
            for which, rows in found.items()
        ]

    def events(self) -> list[Fields]:
        return [
            {
                **told,
                **{name: field for name, field in element.items() if name != "conversation"},
            }
            for element in self.elements()
            for told in element["conversation"]
        ]


def told_unkindly(elements: list[Fields], rng: random.Random) -> list[Fields]:
    """Shuffled, and some chats listed twice, the second time perhaps not whole."""
    found = []
    for element in elements:
        rng.shuffle(element["conversation"])
        found.append(element)
        if rng.random() < 0.3:
            some = rng.sample(element["conversation"], rng.randint(1, len(element["conversation"])))
            found.append({**element, "conversation": some})
    rng.shuffle(found)
    return found


@settings(max_examples=150, deadline=None)
@given(LINES, STEPS, CHUNKS)
def test_a_consumer_knows_what_the_report_shows(
    lines: list[Line], steps: list[Any], chunk: int
) -> None:
    """After each answer, with as few revisions as tell it, whatever crashes and is shuffled."""
    world, service = World(lines, ["neutral"] * len(lines)), Service(chunk=chunk)
    service.read(*world.elements())
    before = contents(world.events())
    assert contents(service.table.values()) == before
    for changes, renamed, crash, seed in steps:
        for place, feeling in changes:
            if place < len(lines):
                world.feelings[place] = feeling
        for which, name in renamed:
            world.agents[which] = name
        revisions = service.read(*told_unkindly(world.elements(), random.Random(seed)), crash=crash)
        if crash == "before":
            continue
        now = contents(world.events())
        assert contents(service.table.values()) == now
        assert len(revisions) == sum((now[name] - before[name]).total() for name in now)
        before = now
    again = restored(service.topic).fingerprints
    for hour, ids in ledger_of(service.state).items():
        assert again.versions_of(hour, ids) == service.state.fingerprints.versions_of(hour, ids)
        assert again.versions_of(hour, ids).keys() == ids


def ledger_of(known: State) -> dict[str, set[int]]:
    return {hour: {*ids} for hour, bucket in known.ledger._buckets.items() for ids in bucket.runs}


@settings(max_examples=150, deadline=None)
@given(LINES, st.lists(st.sampled_from(FEELINGS), min_size=7, max_size=7), st.randoms(), CHUNKS)
def test_what_does_not_change_is_not_revised(
    lines: list[Line], feelings: list[str], rng: random.Random, chunk: int
) -> None:
    """In whatever order, twice or in pieces: half a pair of twins is no change."""
    world, service = World(lines, feelings), Service(chunk=chunk)
    rng = random.Random(rng.random())
    service.read(*world.elements())
    for _ in range(5):
        some = rng.sample(range(len(lines)), rng.randint(1, len(lines)))
        assert service.read(*told_unkindly(world.elements(some), rng)) == []
    assert len(service.events) == len(lines)


@settings(max_examples=100, deadline=None)
@given(LINES, STEPS)
def test_the_messages_are_the_same_with_revisions_and_without(
    lines: list[Line], steps: list[Any]
) -> None:
    """Not a byte of an event changes by the topic beside them."""
    world, on, off = World(lines, ["neutral"] * len(lines)), Service(), Service(OFF)
    for changes, _, _, seed in steps:
        for place, feeling in changes:
            if place < len(lines):
                world.feelings[place] = feeling
        data = told_unkindly(world.elements(), random.Random(seed))
        on.read(*data)
        off.read(*data)
    assert on.events == off.events
    assert off.revisions == []


@settings(max_examples=100, deadline=None)
@given(LINES, STEPS, CHUNKS)
def test_what_was_published_before_is_remembered_silently(
    lines: list[Line], steps: list[Any], chunk: int
) -> None:
    """Switched on late: the first answer says nothing, from then on each change is told."""
    world, service = World(lines, ["neutral"] * len(lines)), Service(OFF, chunk)
    service.read(*world.elements())
    for place in range(len(lines)):
        world.feelings[place] = FEELINGS[place % 3]
    service.restart(ON)
    assert service.read(*world.elements()) == []
    before = contents(world.events())
    for changes, _, _, seed in steps:
        for place, feeling in changes:
            if place < len(lines):
                world.feelings[place] = feeling
        now = contents(world.events())
        told = service.read(*told_unkindly(world.elements(), random.Random(seed)))
        assert len(told) == sum((now[name] - before[name]).total() for name in now)
        before = now


# --- single truths --------------------------------------------------------------------------------


def test_a_feeling_that_is_filled_in_is_told_once() -> None:
    service = Service()
    assert service.read(chat(row(feeling=""))) == []
    [revision] = service.read(chat(row(feeling="happy")))
    [event] = service.events
    assert value_of(revision) == value_of(event) | {"feeling": "happy", "revision": 1}
    assert [*value_of(revision)][:3] == ["event_id", "revision", "source"]
    assert service.read(chat(row(feeling="happy"))) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (chat(row()), chat(row(), agent_name="Eva")),
        (chat(row()), chat(row(), customer_name="Ana")),
        (chat(row()), chat(row(), queue="sales")),
        (chat(row()), chat(row(customer_phone="573001112233"))),
        (chat(row()), chat(row(brand_new=1))),
        (chat(row(to_name=None)), chat(row())),
        (chat(row(channel="web")), chat(row(channel="Web"))),
    ],
)
def test_every_field_of_an_event_is_content(before: Fields, after: Fields) -> None:
    service = Service()
    service.read(before)
    [revision] = service.read(after)
    told = value_of(revision)
    assert told.pop("revision") == 1
    other = Service()
    other.read(after)
    assert told == value_of(other.events[0])
    assert [value_of(one)["revision"] for one in service.read(before)] == [2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (row(message="1"), row(message=1)),
        (row(message=""), row(message=None)),
        ({**row(), "from": ""}, {**row(), "from": None}),
    ],
)
def test_what_identity_takes_for_equal_is_no_change(before: Fields, after: Fields) -> None:
    service = Service()
    service.read(chat(before), chat(before, conn_id=7))
    assert service.read(chat(after), chat(after, conn_id="7")) == []
    assert len(service.events) == 2


def test_with_a_placeholder_more_is_identity() -> None:
    """A phone that changes makes another message there, and a revision elsewhere."""
    service = Service()
    service.read(chat(row(customer_phone="1"), conn_id="0"), chat(row(customer_phone="1")))
    told = service.read(chat(row(customer_phone="2"), conn_id="0"), chat(row(customer_phone="2")))
    assert [value_of(one)["conn_id"] for one in told] == ["186067512"]
    assert len(service.events) == 3
    [revision] = service.read(chat(row(customer_phone="2", feeling="x"), conn_id="0"))
    assert revision.key is None
    assert value_of(revision)["event_id"] == value_of(service.events[2])["event_id"]
    assert revision.partition_hash == service.events[2].partition_hash


def test_an_edited_text_is_another_message() -> None:
    """Both are in the topic, for nobody can tell an edit from a second message."""
    service = Service()
    service.read(chat(row("data:image/png;base64,AAAA")))
    assert service.read(chat(row("https://media.example/1.png", feeling="happy"))) == []
    before, after = map(value_of, service.events)
    assert before["event_id"] != after["event_id"]
    assert (before["message"], after["message"]) == (
        "data:image/png;base64,AAAA",
        "https://media.example/1.png",
    )
    # Shown again, the old one is still the same message.
    [revision] = service.read(chat(row("data:image/png;base64,AAAA", feeling="sad")))
    assert value_of(revision)["event_id"] == before["event_id"]


def test_flapping_is_a_revision_each_time() -> None:
    service = Service()
    service.read(chat(row(feeling="a")))
    for number in range(1, 9):
        crash = "after" if number % 3 == 0 else ""
        [revision] = service.read(chat(row(feeling="ab"[number % 2])), crash=crash)
        told = value_of(revision)
        assert (told["revision"], told["feeling"]) == (number, "ab"[number % 2])
        assert revision.header["ce_id"] == f"{told['event_id']}/{number}".encode()


def test_of_changed_twins_the_unchanged_keeps_its_id() -> None:
    """The numbers of twins follow their bytes; a change swaps them and confuses nobody."""
    service = Service()
    service.read(chat(row(feeling="b"), row(feeling="c")))
    ids = {value_of(event)["feeling"]: value_of(event)["event_id"] for event in service.events}
    [revision] = service.read(chat(row(feeling="c"), row(feeling="d")))
    assert value_of(revision)["event_id"] == ids["b"]
    assert value_of(revision)["feeling"] == "d"


def test_a_twin_that_comes_late_is_a_message() -> None:
    """Whatever its content does to the numbers, all that the report shows is told."""
    service = Service()
    service.read(chat(row(feeling="b")))
    service.read(chat(row(feeling="b"), row(feeling="a")))
    assert sorted(told["feeling"] for told in service.table.values()) == ["a", "b"]


def test_a_chat_that_is_listed_twice_with_two_agents_is_the_same_in_any_order() -> None:
    service = Service()
    both = [chat(row(), agent_name="Luis"), chat(row(), agent_name="Eva")]
    service.read(*both)
    assert service.read(*reversed(both)) == []
    assert service.read(*both) == []
    others = [chat(row(), agent_name="Mia"), chat(row(), agent_name="Leo")]
    [revision] = service.read(*others)
    other = Service()
    other.read(*both)
    [same] = other.read(*reversed(others))
    assert value_of(revision) == value_of(same)
    assert service.read(*reversed(others)) == []


def test_what_was_published_of_two_listings_is_remembered() -> None:
    """It is the first of them that became the event."""
    both = [chat(row(), agent_name="Luis"), chat(row(), agent_name="Eva")]
    for listing, told in ((both[0], 0), (both[1], 1)):
        service = Service()
        service.read(*both)
        assert value_of(service.events[0])["agent_name"] == "Luis"
        assert len(service.read(listing)) == told


@pytest.mark.parametrize("order", [1, -1])
def test_an_answer_revises_what_it_publishes_where_a_part_was_told_first(
    order: int,
) -> None:
    """Part of a chat stands before the whole: it is the whole that counts, and at once.

    Perhaps no other answer shows it: found by trial 77896272 of the promise.
    """
    service = Service()
    listings = [chat(row(feeling="b")), chat(row(feeling="a"), row(feeling="b"))]
    revisions = service.read(*listings[::order])
    told = {value_of(event)["event_id"]: value_of(event) for event in service.events}
    assert len(told) == 2
    for revision in revisions:
        assert value_of(revision)["revision"] == 1
        told[value_of(revision)["event_id"]] = value_of(revision)
    assert sorted(event["feeling"] for event in told.values()) == ["a", "b"]
    assert len(revisions) == (order == 1)
    assert service.read(listings[1]) == []
    assert service.read(*listings) == []


def test_a_twin_of_which_nothing_is_remembered_may_be_the_one_that_is_shown() -> None:
    """Then nothing need have changed, and nothing is said."""
    service = Service()
    service.read(chat(row(feeling="a")))
    service.restart(OFF)
    service.read(chat(row(feeling="a"), row(feeling="b")))
    service.restart(ON)
    assert service.read(chat(row(feeling="b"))) == []
    assert service.read(chat(row(feeling="a"), row(feeling="b"))) == []
    assert len(service.read(chat(row(feeling="c"), row(feeling="b")))) == 1


def test_damage_is_no_change() -> None:
    """What a forgiving decoder made of a row would come and go as two revisions."""
    service = Service()
    before = [row(from_name="Ana"), row("other"), row("new", from_name="?")]
    service.read(chat(*before[:2]))
    after = [row(from_name="A?a", feeling="x"), row("other", feeling="x"), before[2]]
    body = orjson.dumps({"code": 200, "data": [chat(*after)]}).replace(b"?", b"\xff")
    classification = classify(Answer(200, {}, body, START, START, 0.1), lenient=True)
    assert classification.lenient
    [revision] = service.commit(service.prepare([], classification))
    assert value_of(revision)["message"] == "other"
    assert revision.header["wolkvox_decoding"] == b"lenient"
    assert len(service.events) == 3
    # What went out damaged is put right by the next whole answer.
    [damaged] = service.read(chat(before[0], row("other", feeling="x"), before[2]))
    assert value_of(damaged)["from_name"] == "?"


def test_in_a_whole_answer_such_a_character_is_a_character() -> None:
    service = Service()
    service.read(chat(row(from_name="Ana")))
    [revision] = service.read(chat(row(from_name="A\ufffda")))
    assert "wolkvox_decoding" not in revision.header


def test_switched_off_and_on_again_one_revision_tells_what_changed() -> None:
    service = Service()
    service.read(chat(row(feeling="a")))
    service.read(chat(row(feeling="b")))
    service.restart(OFF)
    assert service.read(chat(row(feeling="c")), chat(row(), conn_id="7")) == []
    assert service.read(chat(row(feeling="d"))) == []
    service.restart(ON)
    [revision] = service.read(chat(row(feeling="d")), chat(row(), conn_id="7"))
    assert (value_of(revision)["revision"], value_of(revision)["feeling"]) == (2, "d")


def test_off_nothing_is_written_and_nothing_remembered() -> None:
    service = Service(OFF)
    for feeling in ("a", "b"):
        assert service.read(chat(row(feeling=feeling))) == []
    assert len(service.state.fingerprints) == 0
    assert not any(b"fingerprints" in value for value in service.topic.values())


def test_what_was_remembered_costs_nothing_when_off() -> None:
    service = Service()
    service.read(chat(row()))
    service.restart(OFF)
    assert len(service.state.fingerprints) == 0
    assert len(service.state.ledger) == 1


def test_the_last_number_is_not_exceeded() -> None:
    """Two bytes of counter: after that the message is left alone."""
    service = Service()
    service.read(chat(row(feeling="a")))
    [(hour, ids)] = ledger_of(service.state).items()
    known = service.state.fingerprints.versions_of(hour, ids)
    told = {id_: version(one >> 16, MOST_REVISIONS - 1) for id_, one in known.items()}
    service.state.fingerprints.remember({hour: told})
    [revision] = service.read(chat(row(feeling="b")))
    assert value_of(revision)["revision"] == MOST_REVISIONS
    assert service.read(chat(row(feeling="c"))) == []
    assert service.read(chat(row(feeling="d"))) == []


def test_too_large_a_revision_goes_out_without_its_text() -> None:
    service = Service(Limits(timedelta(days=31), 1_000, revisions=True))
    text = "x" * 2_000
    service.read(chat(row(text)))
    [revision] = service.read(chat(row(text, feeling="happy")))
    told = value_of(revision)
    assert (told["message"], told["message_bytes"], told["revision"]) == (None, 2_000, 1)
    parts = [letter.header["part"] for letter in service.letters]
    assert parts == [b"0", b"1", b"2"], "its text lies there already"


def test_no_revision_is_larger_than_an_event_may_be() -> None:
    sizes = set()
    for size in range(650, 850):
        service = Service(Limits(timedelta(days=31), 1_000, revisions=True))
        service.read(chat(row("x" * size), conn_id="0"))
        [revision] = service.read(chat(row("x" * size, feeling="happy"), conn_id="0"))
        sizes.add(len(revision.value))
    assert 980 < max(sizes) <= 1_000


def test_a_revision_too_large_even_so_is_a_dead_letter() -> None:
    """The message is out already: the letter says that no replay may publish it."""
    service = Service(Limits(timedelta(days=31), 1_000, revisions=True))
    service.read(chat(row()))
    assert service.read(chat(row(to_name="y" * 2_000))) == []
    for letter in service.letters:
        assert letter.header["reason"] == b"event_too_large"
        assert letter.header["event"] == b"revision"
    whole = b"".join(letter.value for letter in service.letters)
    assert orjson.loads(whole)["to_name"] == "y" * 2_000
    [revision] = service.read(chat(row(to_name="z")))
    assert value_of(revision)["revision"] == 2


def test_revisions_come_in_the_order_of_dates() -> None:
    service = Service()
    dates = [f"2026-11-20 10:00:0{second}" for second in (3, 1, 2)]
    service.read(chat(*(row(date=date) for date in dates)))
    told = service.read(chat(*(row(date=date, feeling="x") for date in dates)))
    assert [value_of(one)["date"] for one in told] == sorted(dates)


def test_key_and_headers_are_those_of_the_message_but_for_four() -> None:
    service = Service()
    service.read(chat(row()))
    [event] = service.events
    [revision] = service.read(chat(row(feeling="x")))
    assert (revision.key, revision.partition_hash) == (event.key, event.partition_hash)
    assert [name for name, _ in revision.headers] == [name for name, _ in event.headers]
    before, after = event.header, revision.header
    assert {name for name in before if before[name] != after[name]} == {
        "ce_id",
        "ce_type",
        "ce_dataschema",
        "wolkvox_sequence",
    }


def test_a_number_among_equals_names_the_row_that_has_it() -> None:
    """Two ways to one identity: rows as they are read, and their numbers counted up."""
    hard = [row("a\0b"), row("a\0b"), row(5), row(None), row(None), row(None)]
    for conn_id in ("1", "0", 7, None, "é\0"):
        rows = read_rows([chat(*map(dict, hard), conn_id=conn_id)], "wv0010", ZONE).rows
        told = {one[1] for one in rows}
        assert len(told) == 6
        counted = {digest_of("wv0010", one, number) for one in rows for number in (1, 2, 3)}
        assert told <= counted
        assert len(counted) == 9


def test_fingerprints_are_what_they_always_were() -> None:
    """Other ones would revise every message that is read again after an upgrade."""
    told = {**row(), "from_name": "Ana", "customer_id": "123", "to_name": None, "new": {"b": 1}}
    element = chat(told, customer_name="Ñandú", queue=7)
    rows = read_rows([element, {**element, "conn_id": "0"}], "wv0010", ZONE).rows
    assert fingerprints_of(rows) == [947436829, 2108410418]


# --- what commands make of it ---------------------------------------------------------------------


def test_a_replayed_dead_letter_is_remembered_as_it_came_out() -> None:
    """So the first re-read that shows it otherwise is a revision; read alike it is none."""
    for limits, told in ((ON, 1), (OFF, 0)):
        service = Service(limits)
        raw, context = orjson.dumps(row()), b'{"conn_id":"186067512","agent_name":"Luis"}'
        place = "data[0].conversation[0]"
        letter = dead_letter.DeadLetter(RejectReason.ROW_INVALID, place, raw, context)
        origin = dead_letter.Origin("wv0010", "live", WINDOW, WINDOW.end)
        letters = read_back(map(seen, dead_letter.records([letter], origin, 1_000_000)))
        found = replay_batch.prepare(service.state, letters, ZONE, limits, WINDOW.end)
        assert found.batch
        assert found.successor
        assert len([*found.batch.events]) == 1
        assert any(b"fingerprints" in (each.value or b"") for each in found.batch.state) == told
        service.state.apply(found.successor, limits.horizon)
        assert service.read(chat(row())) == []
        assert len(service.read(chat(row(feeling="happy")))) == told
        assert service.events == []


def test_a_dead_letter_of_a_revision_is_never_replayed() -> None:
    """Not under any limit: its message is out."""
    small = Limits(timedelta(days=31), 1_000, revisions=True)
    service = Service(small)
    service.read(chat(row()))
    service.read(chat(row(to_name="y" * 2_000)))
    for known in (service.state, Service().state):  # also where nothing is known of it
        found = replay_batch.prepare(known, read_back(service.letters), ZONE, ON, WINDOW.end)
        assert [result.outcome for result in found.results] == [replay_batch.Outcome.DUPLICATE]
        assert found.batch
        assert not [*found.batch.events]


def test_a_rebuilt_state_gives_no_number_twice() -> None:
    """The contents are remembered at the first re-read, the numbers out of the topic."""
    service = Service()
    both = [row(feeling="a"), row("other")]
    service.read(chat(*both))
    for feeling in "bcb":
        service.read(chat(row(feeling=feeling), row("other")))
    rebuilt = Rebuilt("wv0010", ZONE)
    rebuilt.add(PublishedEvent(value_of(event), WINDOW.end, "live") for event in service.events)
    for one in reversed(service.revisions):
        rebuilt.revised([PublishedEvent(value_of(one), WINDOW.end, "live")])
    service.topic = {}
    for _, written in rebuilt.transactions(PublisherSettings(), WINDOW.start):
        service._write(written)
    service.restart()
    assert service.read(chat(row(feeling="z"), row("other"))) == []
    told = service.read(chat(row(feeling="y"), row("other", feeling="y")))
    assert [value_of(one)["revision"] for one in told] == [4, 1]
    assert len(service.events) == 2


def test_a_revised_message_is_compared_as_it_was_told_last() -> None:
    """By `verify`; what was told while it read may be right as well."""
    service = Service()
    for feeling in "abcd":
        service.read(chat(row(feeling=feeling)))
    [event] = map(value_of, service.events)
    first, second, third = map(value_of, service.revisions)
    minute = timedelta(minutes=5)
    for shown, changed in ((event, 1), (first, 1), (second, 0), (third, 0)):
        compared = Comparison(START - minute, START + minute, settled=START + minute)
        told = {name: field for name, field in shown.items() if name != "revision"}
        compared.shown(orjson.dumps(told), WINDOW)
        compared.revised(first, later=False)
        compared.revised(second, later=False)
        compared.revised(third, later=True)
        compared.published(event, later=False)
        assert [each.kind for each in compared.findings] == ["changed"] * changed


def test_published_again_a_message_is_remembered_as_it_is_then() -> None:
    """By `backfill --again`: its event tells what it is now, and numbers go on."""
    service = Service()
    service.read(chat(row(feeling="a")))
    service.read(chat(row(feeling="b")))
    service.state.ledger = Ledger()
    assert service.read(chat(row(feeling="c"))) == []
    assert [value_of(event)["feeling"] for event in service.events] == ["a", "c"]
    assert service.read(chat(row(feeling="c"))) == []
    [revision] = service.read(chat(row(feeling="b")))
    assert value_of(revision)["revision"] == 2

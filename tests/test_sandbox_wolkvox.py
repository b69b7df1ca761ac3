"""The simulated Wolkvox API keeps its word: what the other tests rely on is tested here."""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest

from sandbox.wolkvox import Gap, Simulator, World
from sandbox.wolkvox.faults import KINDS, STATES
from sandbox.wolkvox.report import identity

BOGOTA = ZoneInfo("America/Bogota")
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=BOGOTA).timestamp()
CALM: dict[str, Any] = {
    "late": 0, "listed_twice": 0, "corrected": 0, "drift": 0, "shuffled": 0, "inline_media": 0
}  # fmt: skip
HELLO = {
    "conn_id": "186067512",
    "agent_name": "LUIS",
    "customer_name": "Ana",
    "conversation": [
        {"channel": "web", "from": "CUSTOMER", "date": "2026-11-20 11:50:00", "message": "Hola"},
        {"channel": "web", "from": "AGENT", "date": "2026-11-20 11:50:07", "message": "¿Sí? 👋"},
    ],
}
EMPTY = {"code": "404", "error": "NOT FOUND", "msg": "Validate dates entered", "data": []}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def simulator(*conversations: Mapping[str, Any], clock: Any = None, **parameters: Any) -> Simulator:
    """Return one whose rate is 0 unless told, whose clock stands at noon."""
    world = World(**{"rate": 0.0, **CALM, **parameters})
    return Simulator(world, token="t", conversations=conversations, clock=clock or Clock())


def wall(at: float) -> str:
    return datetime.fromtimestamp(at, BOGOTA).strftime("%Y%m%d%H%M%S")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def ask(
    http: aiohttp.ClientSession,
    api: Simulator,
    ini: float | str = NOON - 3600,
    end: float | str = NOON,
    **more: Any,
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Ask for chat_2; instants are written as the operation's wall clock."""
    ini, end = (one if isinstance(one, str) else wall(one) for one in (ini, end))
    query = {"api": "chat_2", "date_ini": ini, "date_end": end}
    async with http.get(
        f"{api.url}/api/v2/reports_manager.php",
        params=more.pop("params", query),
        headers=more.pop("headers", {"wolkvox-token": "t"}),
        **more,
    ) as response:
        return response, await response.read()


async def rows(
    http: aiohttp.ClientSession, api: Simulator, ini: float, end: float
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (conversation, message) pairs that a window shows."""
    _, body = await ask(http, api, ini, end)
    return [(chat, row) for chat in json.loads(body)["data"] for row in chat["conversation"]]


def ids(told: list[tuple[dict[str, Any], dict[str, Any]]]) -> Counter[bytes]:
    return Counter(identity(chat, row) for chat, row in told)


def true_ids(api: Simulator, *between: Any) -> Counter[bytes]:
    return Counter(identity(row, row) for row in api.truth(*between))


# --- the world --------------------------------------------------------------------------------


async def test_same_seed_same_messages(http: aiohttp.ClientSession) -> None:
    """Two servers of one seed answer alike, in whatever order they are asked; another does not."""
    windows = [(NOON - 600 * n, NOON - 600 * (n - 1)) for n in range(1, 5)]
    async with (
        simulator(rate=300) as one,
        simulator(rate=300) as two,
        simulator(rate=300, seed=8) as other,
    ):
        forwards = [await ask(http, one, *window) for window in windows]
        backwards = [await ask(http, two, *window) for window in reversed(windows)]
        different = [await ask(http, other, *window) for window in windows]
    assert [body for _, body in forwards] == [body for _, body in reversed(backwards)]
    assert [body for _, body in forwards] != [body for _, body in different]


@pytest.mark.parametrize("hypothesis", ["H1", "H2", "H3"])
async def test_each_message_is_in_the_windows_of_its_column(
    http: aiohttp.ClientSession, hypothesis: str
) -> None:
    """Half-open windows side by side show every message once, filed under the column in force."""
    column = {"H1": "_closed", "H2": "_at", "H3": "_opened"}[hypothesis]
    start = NOON - 7200
    async with simulator(
        rate=400, history=5400.0, hypothesis=hypothesis, ends="[)", twins=0.1, placeholders=0.1,
        abandoned=0.2, abandoned_after=1800.0,
    ) as api:  # fmt: skip
        truth = api.truth()
        seen: Counter[bytes] = Counter()
        for begin in range(int(start), int(NOON), 600):
            shown = ids(await rows(http, api, begin, begin + 600))
            due = [row for row in truth if begin <= row[column] < begin + 600]
            assert Counter(identity(row, row) for row in due) == shown
            seen += shown
    assert true_ids(api) == seen
    assert len(truth) > 2000
    assert any(row["_of"] == 2 for row in truth)


@pytest.mark.parametrize(("ends", "shown"), [("[]", 2), ("[)", 1), ("(]", 1), ("()", 0)])
async def test_ends(http: aiohttp.ClientSession, ends: str, shown: int) -> None:
    """The ends of a window belong to it as set."""
    async with simulator(HELLO, hypothesis="H2", ends=ends) as api:
        assert shown == len(await rows(http, api, NOON - 600, NOON - 593))


async def test_late_rows_appear_later(http: aiohttp.ClientSession) -> None:
    """A late row is in the same window, from its delay on; truth knows it from then on too."""
    clock = Clock()
    async with simulator(
        rate=600, late=0.5, latest=3600.0, hypothesis="H2", abandoned=0, clock=clock
    ) as api:
        counts = []
        for _ in range(3):
            shown = ids(await rows(http, api, NOON - 1200, NOON - 600))
            assert true_ids(api, NOON - 1200, NOON - 599) == shown
            counts.append(shown.total())
            clock.now += 1800
    assert counts[0] < counts[1] < counts[2]


async def test_silent_gap(http: aiohttp.ClientSession) -> None:
    """Rows of the gap are in no window until it ends; its neighbours are."""
    clock = Clock()
    gap = Gap(NOON - 900, NOON - 600, until=NOON + 60)
    async with simulator(rate=600, gaps=(gap,), hypothesis="H2", ends="[)", clock=clock) as api:
        before = await rows(http, api, NOON - 1200, NOON - 300)
        assert {"11:40", "11:44", "11:50", "11:54"} <= {row["date"][11:16] for _, row in before}
        assert not any("11:45" <= row["date"][11:16] < "11:50" for _, row in before)
        clock.now += 61
        assert len(await rows(http, api, NOON - 1200, NOON - 300)) > len(before)


async def test_switched_gap_hides_and_gives_back(http: aiohttp.ClientSession) -> None:
    """A gap switched on hides all; truth keeps what could be seen before, nothing newer."""
    clock = Clock()
    new = {"conn_id": "2", "conversation": [{"date": "2026-11-20 12:00:30", "message": "Hola"}]}
    async with simulator(HELLO, new, clock=clock) as api:
        api.fault("silent_gap", start=NOON - 3600, end=NOON + 60)
        clock.now += 60
        assert (await ask(http, api, NOON - 900, NOON + 60))[0].status == 404
        assert len(api.truth()) == 2
        api.clear_faults("silent_gap")
        assert len(await rows(http, api, NOON - 900, NOON + 60)) == 3
        assert len(api.truth()) == 3


async def test_specialities(http: aiohttp.ClientSession) -> None:
    """Twins, same seconds, shared placeholders, double listings, corrections, oddities exist."""
    clock = Clock()
    async with simulator(
        rate=600, twins=0.1, placeholders=0.2, listed_twice=0.1, corrected=0.5, inline_media=0.01,
        unknown_fields=0.1, long_texts=0.05, same_second=0.2, shuffled=1, clock=clock,
    ) as api:  # fmt: skip
        told = await rows(http, api, NOON - 3600, NOON)
        again = await rows(http, api, NOON - 3600, NOON)
        clock.now += 3600
        later = await rows(http, api, NOON - 3600, NOON)
        chats = json.loads((await ask(http, api))[1])["data"]
    twins = {row["_of"] for row in api.truth()}
    assert {1, 2} <= twins
    listed = Counter(chat["conn_id"] for chat in chats)
    assert {"0", "-", "", None} <= set(listed)
    assert any(times == 2 for conn_id, times in listed.items() if len(conn_id or "") > 1)
    assert told != again
    assert ids(told) == ids(again) == ids(later)
    empty = [sum(row.get("feeling") == "" for _, row in one) for one in (told, later)]
    assert empty[0] > empty[1] == 0
    texts = [row["message"] for _, row in told]
    assert any(text.startswith("data:image") and len(text) > 100_000 for text in texts)
    assert any(2000 < len(text) < 50_000 for text in texts)
    assert any("campaign" in row for _, row in told)
    assert any("queue" in chat for chat, _ in told)
    seconds = Counter((chat["conn_id"], row["date"]) for chat, row in told)
    assert max(seconds.values()) > 1
    assert {"chat_bot"} < {row["from_name"] for _, row in told}


async def test_placeholder_chats_differ_in_one_field(http: aiohttp.ClientSession) -> None:
    """Chats sharing a placeholder have equal dates and texts, another channel, id or phone."""
    async with simulator(rate=60, placeholders=1, twins=0) as api:
        told = await rows(http, api, NOON - 3600, NOON)
    plain = Counter(
        (chat["conn_id"], row["date"], row["from"], row["message"]) for chat, row in told
    )
    assert min(plain.values()) == 2
    assert set(ids(told).values()) == {1}


async def test_explicit_rows(http: aiohttp.ClientSession) -> None:
    """Given rows are shown as given, from `visible_from` on; the rest of their fields stays."""
    clock = Clock()
    row = {"date": "2026-11-20 11:58:00", "message": 17, "visible_from": NOON + 10, "new": [1]}
    odd = {"conn_id": "1", "conversation": [row, {"at": NOON - 9, "date": "ayer"}]}
    async with simulator(HELLO, clock=clock) as api:
        api.add([odd])
        shown = await rows(http, api, NOON - 3600, NOON)
        assert {"date": "ayer"} in [one for _, one in shown]
        assert len(api.truth()) == len(shown) == 3
        clock.now += 10
        shown = await rows(http, api, NOON - 3600, NOON)
        assert {name: row[name] for name in ("date", "message", "new")} in [one for _, one in shown]
        assert len(api.truth()) == 4


def test_worlds_that_cannot_be() -> None:
    """A misspelt hypothesis is refused, and so is a start without an offset."""
    with pytest.raises(ValueError, match="hypothesis"):
        World(hypothesis="H4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="offset"):
        World(start=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_repeated_hour(http: aiohttp.ClientSession) -> None:
    """Dates without offset: a window in the repeated hour shows both passes through it."""
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    said = [{"at": first + away, "date": "2026-10-25 02:30:00"} for away in (0, 3600)]
    chat = {"conn_id": "1", "conversation": said}
    async with simulator(
        chat, zone="Europe/Madrid", hypothesis="H2", clock=Clock(first + 9999)
    ) as api:
        _, body = await ask(http, api, "20261025022959", "20261025023001")
    assert len(json.loads(body)["data"][0]["conversation"]) == 2


# --- the report -------------------------------------------------------------------------------


async def test_envelope_and_headers(http: aiohttp.ClientSession) -> None:
    """A calm answer is what the vendor's page shows, with the headers seen on the live API."""
    async with simulator(HELLO) as api:
        response, body = await ask(http, api)
        assert json.loads(body) == {
            "code": 200, "error": None, "msg": "2 records were found", "data": [HELLO]
        }  # fmt: skip
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.headers["Keep-Alive"] == "timeout=5, max=100"
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == NOON
        response, body = await ask(http, api, NOON - 9000, NOON - 8000)
        assert (response.status, json.loads(body)) == (404, EMPTY)
        api.change(empty="200", drift=1.0)
        bodies = [(await ask(http, api, NOON - 9000, NOON - 8000))[1] for _ in range(40)]
    for variant in (b'"code":"200"', b'"code":200', b'"error":"null"', b'"msg":" 0 records'):
        assert any(variant in body for body in bodies)


@pytest.mark.parametrize(
    ("records", "cap", "shown"), [("messages", 3, (2, 3)), ("conversations", 1, (1, 2))]
)
async def test_row_cap(
    http: aiohttp.ClientSession, records: str, cap: int, shown: tuple[int, int]
) -> None:
    """Beyond the cap an answer is cut silently, cut with the true N, or refused."""
    other = {**HELLO, "conn_id": "2"}
    async with simulator(HELLO, other, records=records, row_cap=cap) as api:
        told = json.loads((await ask(http, api))[1])
        said = sum(len(chat["conversation"]) for chat in told["data"])
        assert (len(told["data"]), said) == shown
        assert told["msg"] == f"{cap} records were found"
        api.change(cap_tells=True)
        told = json.loads((await ask(http, api))[1])
        assert told["msg"] == f"{2 if records == 'conversations' else 4} records were found"
        api.change(over_cap="refuse")
        assert (await ask(http, api))[0].status == 400


async def test_refusals_that_are_earned(http: aiohttp.ClientSession) -> None:
    """Bad requests meet the documented answers."""
    async with simulator(HELLO) as api:
        full = {"api": "chat_2", "date_ini": wall(NOON), "date_end": wall(NOON)}
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({"headers": {}}, 401, "PLEASE ENTER THE WOLKVOX-TOKEN"),
            ({"headers": {"wolkvox-token": "x"}}, 403, "PLEASE VALIDATE TOKEN"),
            ({"params": {"api": "chat_2"}}, 400, "SOME PARAMETERS ARE REQUIRED"),
            ({"params": {**full, "api": "chat_9"}}, 400, "THE API YOU WANT TO CONSULT"),
            ({"params": {**full, "date_end": wall(NOON - 1)}}, 404, "Validate dates"),
            ({"params": {**full, "date_end": wall(NOON + 32 * 86400)}}, 404, "Validate dates"),
            ({"params": {**full, "date_ini": "20261301000000"}}, 404, "Validate dates"),
        ]
        for request, status, msg in cases:
            response, body = await ask(http, api, **request)
            assert (status, str(status)) == (response.status, json.loads(body)["code"])
            assert msg in json.loads(body)["msg"]


async def test_quota(http: aiohttp.ClientSession) -> None:
    """Requests are counted, told by token_info (which costs one), refused beyond, new next day."""
    clock = Clock()
    async with simulator(HELLO, quota=3, clock=clock) as api:
        await ask(http, api)
        url = f"{api.url}/api/v2/information.php?api=token_info"
        async with http.get(url, headers={"wolkvox-token": "t"}) as response:
            (told,) = (await response.json())["data"]
        assert told == {"token_limit": "3", "token_use_today": "2", "all_token_today": "2"}
        statuses = [(await ask(http, api))[0].status for _ in range(2)]
        clock.now += 86_400
        statuses.append((await ask(http, api, NOON - 900))[0].status)
    assert statuses == [200, 403, 200]


async def test_simultaneity_is_enforced_and_recorded(http: aiohttp.ClientSession) -> None:
    """Of three requests at once one is refused; the largest number in flight is remembered."""
    async with simulator(HELLO, latency=0.2) as api:
        answers = await asyncio.gather(*(ask(http, api) for _ in range(3)))
        assert sorted(response.status for response, _ in answers) == [200, 200, 403]
        assert api.stats.max_in_flight == 3
        assert api.stats.in_flight == 0
        assert api.stats.kinds == {"rows": 2, "simultaneous": 1}
        assert (await ask(http, api))[0].status == 200
    assert {record.ini for record in api.stats.requests} == {
        datetime.fromtimestamp(NOON - 3600, UTC)
    }


# --- faults -----------------------------------------------------------------------------------

Check = Callable[[bytes], bool]


def has(text: str) -> Check:
    return lambda body: text in body.decode()


def said(check: Callable[[Any], Any]) -> Check:
    return lambda body: bool(check(json.loads(body)))


def strict_fails(body: bytes) -> bool:
    """Say whether a strict decoder refuses what a lenient one takes."""
    import orjson

    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)
    return bool(json.loads(body.decode("utf-8-sig", "replace"), strict=False)["data"])


def broken_json(body: bytes) -> bool:
    with pytest.raises(ValueError, match=r"."):
        json.loads(body)
    return True


def first_rows(told: Any) -> list[Any]:
    listed: list[Any] = told["data"][0]["conversation"]
    return listed


ANSWERS: dict[str, tuple[int, Check]] = {
    "not_found": (404, has("Validate dates entered")),
    "no_token": (401, has("PLEASE ENTER")),
    "wrong_token": (403, has("PLEASE VALIDATE TOKEN")),
    "simultaneous": (403, has("EXCEEDS THE LIMIT OF SIMULTANEOUS")),
    "quota_spent": (403, has("TOKEN LIMIT EXCEEDED")),
    "maintenance": (403, has("FORBIDDEN")),
    "missing_parameters": (400, has("SOME PARAMETERS")),
    "unknown_api": (400, has("DOES NOT EXIST")),
    "rate_limited": (429, has("429")),
    "unavailable": (503, has("503")),
    "server_error": (500, has("500")),
    "html": (200, has("<html>")),
    "php_warning": (200, lambda body: body.startswith(b"<br />") and b'"data":[{' in body),
    "cut_body": (200, broken_json),
    "empty_body": (200, lambda body: body == b""),
    "empty_list": (200, said(lambda told: told["data"] == [])),
    "code_in_body": (200, said(lambda told: told["code"] == 500 and told["data"] == [])),
    "found_more": (200, has("1002 records")),
    "data_null": (200, said(lambda told: told["data"] is None)),
    "data_absent": (200, said(lambda told: "data" not in told)),
    "data_object": (200, said(lambda told: told["data"] == {"0": HELLO})),
    "bom": (200, strict_fails),
    "mutate": (200, lambda body: HELLO not in json_or_nothing(body)),
    "invalid_utf8": (200, strict_fails),
    "lone_surrogate": (200, strict_fails),
    "control_characters": (200, strict_fails),
    "nan": (200, strict_fails),
    "wrong_types": (200, said(lambda told: first_rows(told)[0]["message"] == 17)),
    "missing_date": (200, said(lambda told: "date" not in first_rows(told)[0])),
    "bad_date": (200, said(lambda told: "-30" in first_rows(told)[0]["date"])),
    "numeric_date": (200, said(lambda told: isinstance(first_rows(told)[0]["date"], int))),
    "broken_row": (200, said(lambda told: len(first_rows(told)) == 8)),
    "broken_conversation": (200, said(lambda told: told["data"] == [None, HELLO])),
    "conversation_missing": (200, said(lambda told: told["data"][0] == {"conn_id": "fault-0"})),
    "format_changed": (200, said(lambda told: "fecha" in first_rows(told)[1])),
    "gzip": (200, has('"conn_id":"186067512"')),
}
ELSEWHERE = {
    *("broken_transfer", "gzip_bomb", "redirect", "slow_headers", "slow_body", "reset", "closed"),
    *STATES,
}


def json_or_nothing(body: bytes) -> list[Any]:
    try:
        listed: list[Any] = json.loads(body)["data"]
    except (ValueError, KeyError):
        return []
    return listed


def test_every_fault_is_tested() -> None:
    """A new fault needs a test here."""
    assert set(KINDS) == set(ANSWERS) | ELSEWHERE


@pytest.mark.parametrize("kind", ANSWERS)
async def test_fault_answers_as_named(http: aiohttp.ClientSession, kind: str) -> None:
    """Switched on for one answer, a fault shows once, is noted, and is gone; rows or none."""
    status, check = ANSWERS[kind]
    async with simulator(HELLO) as api:
        api.fault(kind, count=1)
        response, body = await ask(http, api)
        assert (status, True) == (response.status, check(body))
        response, body = await ask(http, api)
        assert (response.status, has("Hola")(body)) == (200, True)
        api.fault(kind, count=1)
        response, _ = await ask(http, api, NOON - 9000, NOON - 8000)
        assert response.status == (404 if kind == "gzip" else status)
        assert [record.kind for record in api.stats.requests] == [kind, "rows", kind]


async def test_connection_faults(
    http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that never come whole are the client's errors, and leave the server well."""
    errors = {
        "reset": aiohttp.ClientOSError,
        "closed": aiohttp.ServerDisconnectedError,
        "broken_transfer": aiohttp.ClientPayloadError,
    }
    async with simulator(HELLO) as api:
        for kind, error in errors.items():
            # Until cleared: aiohttp sends a GET again by itself when the connection goes.
            api.fault(kind)
            with pytest.raises(error):
                await ask(http, api)
            api.clear_faults()
        assert (await ask(http, api))[0].status == 200
        assert api.stats.in_flight == 0
    assert set(api.stats.kinds) == {*errors, "rows"}
    assert not caplog.records


async def test_slow_answers(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """Slow ones take their time and stay in flight after the client went; the end cuts them."""
    async with simulator(HELLO) as api:
        for kind in ("slow_headers", "slow_body"):
            api.fault(kind, count=1, delay=0.2)
            began = time.monotonic()
            response, body = await ask(http, api)
            assert (response.status, has("Hola")(body)) == (200, True)
            assert time.monotonic() - began >= 0.19
        api.fault("slow_headers", delay=60.0)
        with pytest.raises(TimeoutError):
            await ask(http, api, timeout=aiohttp.ClientTimeout(total=0.1))
        assert api.stats.in_flight == 1
        api.clear_faults()
        api.fault("slow_body", delay=1.0)
        with pytest.raises(TimeoutError):
            await ask(http, api, timeout=aiohttp.ClientTimeout(total=0.1))
        await asyncio.sleep(0.2)  # the server notices at its next write
        assert api.stats.in_flight == 1
        assert not caplog.records
        began = time.monotonic()
    assert time.monotonic() - began < 2


async def test_gzip_bomb(http: aiohttp.ClientSession) -> None:
    """Some kB unfold to the megabytes asked for, and are valid JSON."""
    async with simulator(HELLO) as api:
        api.fault("gzip_bomb", megabytes=20)
        response, body = await ask(http, api)
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(body) > 20_000_000
    assert json.loads(body)["data"] == []


async def test_redirect(http: aiohttp.ClientSession) -> None:
    """The other port notes who brings the token along."""
    async with simulator(HELLO) as api:
        api.fault("redirect")
        response, _ = await ask(http, api, allow_redirects=False)
        assert response.status == 302
        assert response.headers["Location"].startswith(api.other_url)
        assert api.stats.redirected == []
        await ask(http, api)
        assert api.stats.redirected == [True]


async def test_retry_after(http: aiohttp.ClientSession) -> None:
    """The header comes in seconds, as a date by the server's clock, or not at all."""
    async with simulator(HELLO) as api:
        found = []
        for form in ("seconds", "date", "none"):
            api.fault("rate_limited", count=1, retry_after=90, form=form)
            found.append((await ask(http, api))[0].headers.get("Retry-After"))
    assert found[0] == "90"
    assert parsedate_to_datetime(found[1] or "").timestamp() == NOON + 90
    assert found[2] is None


async def test_clock_off(http: aiohttp.ClientSession) -> None:
    """The Date header and the server's now move together."""
    async with simulator(HELLO, clock_offset=-5.0) as api:
        api.fault("clock_off", offset=-600.0)
        response, _ = await ask(http, api)
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == NOON - 605
        assert response.status == 404


async def test_faults_can_be_aimed(http: aiohttp.ClientSession) -> None:
    """A fault may strike only windows that hold an instant, or wide ones; or for some seconds."""
    async with simulator(HELLO) as api:
        api.fault("server_error", touching=datetime.fromtimestamp(NOON - 1000, UTC))
        api.fault("unavailable", wider_than=1800)
        api.fault("html", seconds=0)
        statuses = [(await ask(http, api, NOON - far))[0].status for far in (1000, 999, 1800)]
        assert statuses == [500, 200, 500]
        assert (await ask(http, api, NOON - 9000, NOON - 1001))[0].status == 503
        with pytest.raises(ValueError, match="no such fault"):
            api.fault("flood")
        with pytest.raises(ValueError, match="no option"):
            api.fault("html", colour="red")


# --- from outside -----------------------------------------------------------------------------


async def test_side_door(http: aiohttp.ClientSession) -> None:
    """Another process can add messages, switch faults, change the world, read stats and truth."""
    async with simulator() as api:
        async with http.post(f"{api.url}/_sim/messages", json=[HELLO]) as response:
            assert await response.json() == {"added": 1}
        async with http.post(
            f"{api.url}/_sim/faults", json={"kind": "html", "count": 2}
        ) as response:
            assert response.status == 200
        async with http.post(f"{api.url}/_sim/faults", json={"kind": "x"}) as response:
            assert response.status == 400
        assert b"html" in (await ask(http, api))[1]
        async with http.delete(f"{api.url}/_sim/faults") as response:
            assert (await response.json())["on"] == []
        async with http.post(f"{api.url}/_sim/world", json={"hypothesis": "H2"}) as response:
            assert response.status == 200
        assert len(await rows(http, api, NOON - 600, NOON - 595)) == 1
        async with http.get(f"{api.url}/_sim/stats") as response:
            stats = await response.json()
        assert stats["kinds"] == {"html": 1, "rows": 1}
        query = {"from": "2026-11-20T11:50:01-05:00", "to": str(NOON)}
        async with http.get(f"{api.url}/_sim/truth", params=query) as response:
            assert [row["message"] for row in await response.json()] == ["¿Sí? 👋"]
        async with http.get(f"{api.url}/_sim/truth", params={"from": str(NOON)}) as response:
            assert await response.json() == []


async def test_a_million_messages(http: aiohttp.ClientSession) -> None:
    """A window of some 10,000 messages of a history of a million is answered at once."""
    async with simulator(rate=6000, history=86_400.0, hypothesis="H1", inline_media=0) as api:
        took = []
        for hour in (20, 3, 3):
            began = time.monotonic()
            shown = await rows(http, api, NOON - hour * 3600, NOON - hour * 3600 + 870)
            took.append(time.monotonic() - began)
            assert 9_000 < len(shown) < 12_000
    assert max(took) < 2


async def test_command() -> None:
    """The command says where it is ready, serves, and ends at once and quietly when told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox.wolkvox", "--port", "0", "--history", "1h", "--rate", "60",
        "--hypothesis", "H2", "--token", "SECRET", stdout=-1, stderr=-1,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("Simulated Wolkvox API ready at http://127.0.0.1:")
    assert line.endswith(" (token SECRET)\n")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert time.monotonic() - began < 2

"""What the service tells over HTTP about itself."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from publisher.errors import Reason, SettingsError, Stage
from publisher.model import Backfill, Progress, Standing, Window, iso
from publisher.signals import (
    BackfillRequestsApplied,
    HintGiven,
    RequestAnswered,
    Signal,
    StateRestored,
    StepFailed,
    StopRequested,
    TransactionEnded,
    WindowPublished,
)
from publisher.telemetry import page
from publisher.telemetry.current_status import Status
from publisher.telemetry.health import Liveness
from publisher.telemetry.http_server import serve
from publisher.telemetry.metrics import Metrics

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NAMES = ("wv0010", "wv0041")
REFUSED = StepFailed(
    "wv0010", Stage.READ, Reason.TOKEN_REFUSED, "the token is <wrong>",
    needs_person=True, retry_in_seconds=600, attempt=12,
)  # fmt: skip
AWAY = StepFailed(
    "wv0010", Stage.COMMIT, Reason.KAFKA_UNREACHABLE, "no broker answers",
    needs_person=False, retry_in_seconds=5, attempt=1,
)  # fmt: skip
RESTORE_FAILED = replace(AWAY, stage=Stage.RESTORE)


def restored(operation: str) -> StateRestored:
    return StateRestored(
        operation=operation,
        first_start=False,
        cursor=NOON - timedelta(minutes=18),
        covered_until=NOON - timedelta(minutes=3),
        passes={"live": Progress(NOON - timedelta(minutes=18), NOON - timedelta(minutes=3))},
        gaps=(),
        journal_entries=300,
        ledger_ids=1_234_567,
        took_seconds=0.5,
    )


PUBLISHED = WindowPublished(
    operation="wv0010",
    pass_label="live",
    window=Window(NOON - timedelta(minutes=20), NOON),
    rows=412,
    new=398,
    duplicate=14,
    rejected={"row_invalid": 2},
    possibly_cut=False,
    lenient=False,
    committed_at=NOON,
    occurred={"2026-11-20T11:58:00Z": 398},
    cursor=NOON - timedelta(minutes=15),
    covered_until=NOON,
    passes={"live": Progress(NOON - timedelta(minutes=15), NOON)},
    gaps=(),
    ledger_ids=1_234_965,
    next_width=timedelta(minutes=5),
    request_seconds=1.0,
    commit_seconds=0.1,
)


class Service:
    """The parts that stand behind the server, and a clock to move."""

    def __init__(self) -> None:
        self.now = NOON
        self.liveness = Liveness(self.elapsed)
        self.status = Status(NAMES, "1.2.3", lambda: self.now)
        self.metrics = Metrics(self.status)
        self.beats = {name: self.liveness.beat(name) for name in NAMES}
        for beat in self.beats.values():
            beat(86_400)
        self.port = 0

    def elapsed(self) -> float:
        return self.now.timestamp()

    def tell(self, *signals: Signal) -> None:
        for signal in signals:
            self.status(signal)
            self.metrics(signal)

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text(), response.headers["Content-Type"]

    async def page(self) -> str:
        status, text, _ = await self.get("/")
        assert status == 200
        return text.replace("\N{NO-BREAK SPACE}", " ")


@asynccontextmanager
async def serving(service: Service, port: int = 0) -> AsyncIterator[Service]:
    async with serve(
        port,
        registry=service.metrics.registry,
        liveness=service.liveness,
        status=service.status,
        now=lambda: service.now,
    ) as service.port:
        yield service


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving(Service()) as it:
        yield it


# --- /healthz


async def test_healthz_is_ok_while_the_loops_breathe(service: Service) -> None:
    assert await service.get("/healthz") == (200, "ok\n", "text/plain; charset=utf-8")


async def test_healthz_stays_ok_while_kafka_and_the_api_are_away(service: Service) -> None:
    service.tell(RESTORE_FAILED, REFUSED)
    assert (await service.get("/healthz"))[0] == 200


async def test_healthz_names_the_loop_that_hangs(service: Service) -> None:
    service.beats["wv0010"](60)
    service.now += timedelta(seconds=100)
    status, text, _ = await service.get("/healthz")
    assert status == 503
    assert text == "wv0010: its loop hangs, 40 s beyond its limit\n"


async def test_healthz_names_the_loop_that_died(service: Service) -> None:
    service.liveness.died("wv0041")
    status, text, _ = await service.get("/healthz")
    assert (status, text) == (503, "wv0041: its loop has died\n")


# --- /readyz


async def test_readyz_waits_for_every_operation(service: Service) -> None:
    assert (await service.get("/readyz"))[:2] == (
        503,
        "wv0010: state not restored yet\nwv0041: state not restored yet\n",
    )
    service.tell(restored("wv0010"))
    assert (await service.get("/readyz"))[:2] == (503, "wv0041: state not restored yet\n")
    service.tell(restored("wv0041"))
    assert (await service.get("/readyz"))[:2] == (200, "ok\n")


async def test_readyz_tells_why_a_restore_fails(service: Service) -> None:
    service.tell(restored("wv0010"), restored("wv0041"), RESTORE_FAILED)
    status, text, _ = await service.get("/readyz")
    assert (status, text) == (503, "wv0010: state not restored: no broker answers\n")


@pytest.mark.parametrize(
    "proof", [TransactionEnded("wv0010", "committed", 0.1), restored("wv0010")], ids=type
)
async def test_readyz_believes_kafka_again_when_it_took_something(
    service: Service, proof: Signal
) -> None:
    service.tell(restored("wv0010"), restored("wv0041"), AWAY)
    assert (await service.get("/readyz"))[:2] == (503, "wv0010: no broker answers\n")
    service.tell(TransactionEnded("wv0010", "failed", 0.1))
    assert (await service.get("/readyz"))[0] == 503
    service.tell(proof)
    assert (await service.get("/readyz"))[0] == 200


async def test_readyz_does_not_mind_the_api(service: Service) -> None:
    service.tell(restored("wv0010"), restored("wv0041"), REFUSED)
    assert (await service.get("/readyz"))[0] == 200


async def test_readyz_ends_with_a_stop(service: Service) -> None:
    service.tell(restored("wv0010"), restored("wv0041"), StopRequested("SIGTERM"))
    assert (await service.get("/readyz"))[:2] == (503, "the service is stopping\n")


# --- /metrics


async def test_metrics_are_in_the_text_format_of_prometheus(service: Service) -> None:
    service.tell(restored("wv0010"), PUBLISHED)
    status, text, content_type = await service.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(text)
    names = {family.name for family in families}
    assert "wolkvox_publisher_lag_seconds" in names
    assert "process_resident_memory_bytes" in names


async def test_metrics_are_in_openmetrics_for_who_prefers_it(service: Service) -> None:
    service.tell(restored("wv0010"), PUBLISHED)
    accept = "application/openmetrics-text; version=1.0.0"
    status, text, content_type = await service.get("/metrics", Accept=accept)
    assert status == 200
    assert content_type.startswith(accept)
    families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    names = {family.name for family in families}
    assert "wolkvox_publisher_message_delay_seconds" in names


# --- /status


async def test_status_tells_where_each_operation_stands_for_programs(service: Service) -> None:
    service.tell(restored("wv0010"), RequestAnswered("wv0010", "use", 1.0, 9, 0.0), PUBLISHED)
    service.now += timedelta(seconds=83)
    status, text, content_type = await service.get("/status")
    assert (status, content_type) == (200, "application/json")
    told = json.loads(text)
    assert (told["answered_by"], told["version"], told["at"]) == (
        "service", "1.2.3", "2026-11-20T12:01:23Z",
    )  # fmt: skip
    first, second = told["operations"]
    assert first["standing"] == "publishing"
    assert (first["lag_seconds"], first["ids"], first["published"]) == (83, 1_234_965, 398)
    assert first["passes"]["live"]["covered_until"] == first["covered_until"] == iso(NOON)
    assert first["last_window"]["committed_at"] == first["last_window"]["to"] == iso(NOON)
    assert first["last_error"] is None
    assert (second["standing"], second["cursor"], second["ids"]) == ("restoring", None, None)


async def test_status_tells_the_last_error_and_whether_it_is_solved(service: Service) -> None:
    service.tell(restored("wv0010"), HintGiven("a hint"), REFUSED)
    service.now += timedelta(seconds=30)
    told = json.loads((await service.get("/status"))[1])
    assert told["hints"] == ["a hint"]
    assert told["operations"][0]["standing"] == "needs_person"
    assert told["operations"][0]["last_error"] == {
        "stage": "read",
        "reason": "token_refused",
        "problem": "the token is <wrong>",
        "needs_person": True,
        "solved": False,
        "at": iso(NOON),
        "attempt": 12,
        "retry_in_seconds": 570,
    }
    service.tell(PUBLISHED)
    told = json.loads((await service.get("/status"))[1])
    assert told["operations"][0]["last_error"]["solved"]
    assert told["operations"][0]["last_error"]["retry_in_seconds"] == 0
    service.liveness.died("wv0010")
    assert json.loads((await service.get("/status"))[1])["operations"][0]["standing"] == "hanging"


# --- the page


async def test_the_page_shows_how_far_each_operation_is(service: Service) -> None:
    service.tell(restored("wv0010"), RequestAnswered("wv0010", "use", 1.0, 9, 0.0), PUBLISHED)
    service.now += timedelta(seconds=83)
    text = await service.page()
    for shown in (
        "wv0010", "wv0041", "1.2.3", "1 min 23 s", "2026-11-20 12:00:00", "2026-11-20 11:45:00",
        "2026-11-20 11:40:00 &ndash; 12:00:00", "live, 1 min 23 s ago", "412 rows: 398 new",
        "14 known before", "2 to the dead letters", "1,234,965", ">Publishing<",
        ">Restoring its state<", 'href="/metrics"', 'href="/healthz"', 'href="/readyz"',
        'http-equiv="refresh" content="5"',
    ):  # fmt: skip
        assert shown in text


async def test_the_page_shows_backfills_until_they_have_ended(service: Service) -> None:
    one = Backfill(
        "2026<1>", NOON - timedelta(hours=9), NOON - timedelta(hours=3), again=False,
        cursor=NOON - timedelta(hours=8), standing=Standing.PAUSED, since=7, rows=1_500, new=1_400,
    )  # fmt: skip
    assert "Backfills" not in await service.page()
    service.tell(restored("wv0010"), replace(PUBLISHED, backfills=(one,)))
    text = await service.page()
    assert "2026&lt;1&gt;: 2026-11-20 03:00:00 &ndash; 2026-11-20 09:00:00" in text
    assert "paused, read until 2026-11-20 04:00:00; 1,500 rows, 1,400 new" in text
    _, body, _ = await service.get("/status")
    [told, _] = json.loads(body)["operations"]
    assert [each["id"] for each in told["backfills"]] == ["2026<1>"]
    done = replace(one, standing=Standing.DONE, cursor=one.end)
    service.tell(BackfillRequestsApplied("wv0010", (done,)))
    assert "Backfills" not in await service.page()
    _, body, _ = await service.get("/status")
    assert json.loads(body)["operations"][0]["backfills"] == []


async def test_the_page_counts_behind_by_the_servers_clock(service: Service) -> None:
    service.tell(restored("wv0010"), RequestAnswered("wv0010", "use", 1.0, 9, 60.0))
    assert "4 min" in await service.page()


async def test_the_page_shows_a_problem_in_full_and_escaped(service: Service) -> None:
    service.tell(restored("wv0010"), REFUSED)
    service.now += timedelta(seconds=30)
    text = await service.page()
    assert ">Needs a person<" in text
    assert "The token is &lt;wrong&gt;" in text
    assert "read / token_refused, failed 12 times, next attempt in 9 min 30 s" in text


async def test_the_page_keeps_a_solved_problem_for_whoever_asks(service: Service) -> None:
    service.tell(restored("wv0010"), AWAY)
    assert ">Trying again<" in await service.page()
    service.tell(PUBLISHED)
    service.now += timedelta(hours=2)
    text = await service.page()
    assert ">Publishing<" in text
    assert "Last problem, 2 h ago, solved: no broker answers" in text


async def test_the_page_shows_what_hangs_and_what_stops_and_hints(service: Service) -> None:
    service.tell(restored("wv0010"), HintGiven("a <hint>"), HintGiven("a <hint>"))
    service.liveness.died("wv0010")
    text = await service.page()
    assert ">Hangs<" in text
    assert text.count("a &lt;hint&gt;") == 1
    service.tell(StopRequested("SIGTERM"))
    assert ">Stopping<" in await service.page()


async def test_the_page_needs_nothing_from_elsewhere(service: Service) -> None:
    text = await service.page()
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min 59 s"),
        (3_601, "1 h"), (86_400 * 12 + 3_600 * 5 + 9, "12 d 5 h"),
    ],
)  # fmt: skip
def test_lengths_of_time_have_two_units_at_most(seconds: float, text: str) -> None:
    assert page.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


# --- the port


async def test_a_taken_port_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            async with serving(Service(), port):
                pytest.fail("must not start")
    assert caught.value.problems == [
        f"PUBLISHER_HTTP_PORT: port {port} is taken (address in use): choose another one"
    ]


async def test_a_port_is_free_again_after_the_end() -> None:
    async with serving(Service()) as service:
        port = service.port
        assert (await service.get("/healthz"))[0] == 200
    async with serving(Service(), port) as service:
        assert (await service.get("/healthz"))[0] == 200

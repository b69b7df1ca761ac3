"""The simulated API as a server: requests in, answers out, everything noted.

`Simulator` lives in the caller's event loop; `python -m sandbox.wolkvox` gives it a process.
An answer is made in this order: token, simultaneity, quota (wolkvox-api.md, section 2), then the
fault that is switched on, if any, then what the world holds.
"""

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from random import Random
from typing import Any, Self

import orjson
from aiohttp import web

from sandbox.wolkvox import faults as trouble
from sandbox.wolkvox import report, wire
from sandbox.wolkvox.faults import Fault, Faults
from sandbox.wolkvox.report import Window
from sandbox.wolkvox.stats import RequestRecord, Stats
from sandbox.wolkvox.wire import Answer
from sandbox.wolkvox.world import (
    Conversation,
    Fields,
    Gap,
    LocalTime,
    Traffic,
    World,
    explicit,
)

DEFAULT_TOKEN = "demo-token"
AT_ONCE = 200
"""Conversations looked at, or truths told, before others in this event loop get a turn."""


class Simulator:
    """A Wolkvox reports API for one operation; an async context manager.

    `port` 0 takes a free one. `conversations`: explicit ones, as for `add`. `clock` gives seconds
    since the epoch; `World.clock_offset` and the fault `clock_off` come on top.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        port: int = 0,
        token: str = DEFAULT_TOKEN,
        host: str = "127.0.0.1",
        conversations: Iterable[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.world = world or World()
        self.token = token
        self.stats = Stats()
        self.faults = Faults()
        self.time = LocalTime(self.world.zone)
        self._clock = clock
        self._host, self._port = host, port
        self._born = clock()
        self._latest = 0.0
        self._traffic = self._new_traffic()
        self._explicit: list[Conversation] = []
        self._draw = Random(f"{self.world.seed}/answers")
        self._runners: list[web.AppRunner] = []
        self.url = self.other_url = ""
        self.add(conversations)

    async def __aenter__(self) -> Self:
        self.url = await self._serve(self._routes(), self._port)
        self.other_url = await self._serve([web.get("/{any:.*}", self._elsewhere)], 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    # --- what a test may do -----------------------------------------------------------------------

    def now(self) -> float:
        """Return the server's idea of now, in seconds since the epoch."""
        off = sum(fault.options["offset"] for fault in self.faults.states("clock_off"))
        return self._clock() + self.world.clock_offset + float(off)

    def change(self, **parameters: Any) -> None:
        """Change parameters of the world while it is served."""
        self.world = dataclasses.replace(self.world, **parameters)
        self.time = LocalTime(self.world.zone)
        self._traffic = self._new_traffic()

    def add(self, conversations: Iterable[Mapping[str, Any]]) -> None:
        """Add explicit conversations; see `world.explicit` for their shape."""
        now = self.now()
        self._explicit += [explicit(told, self.time, now) for told in conversations]

    def fault(
        self, kind: str, count: int | None = None, seconds: float | None = None, **options: Any
    ) -> Fault:
        """Switch a fault on for `count` answers or so many seconds; by default until cleared.

        Kinds and options: `faults.KINDS` and `faults.COMMON`. Instants are epoch seconds, ISO
        text or datetimes; naive ones are the operation's wall clock.
        """
        if options.get("touching") is not None:
            options["touching"] = self.time.local(self.time.moment(options["touching"]))
        for name in ("start", "end"):
            if name in options:
                options[name] = self.time.moment(options[name])
        fault = self.faults.add(kind, count, seconds, options)
        fault.options["since"] = self.now()
        return fault

    def clear_faults(self, kind: str | None = None) -> None:
        """Switch off all faults, or those of one kind."""
        self.faults.clear(kind)

    def truth(self, start: Any = None, end: Any = None) -> list[Fields]:
        """Return every row that some window has shown so far; see `report.truth_of`.

        Of messages said in [start, end), by default of all. Explicit chats given several times
        count as one listed several times. A running silent gap hides what it hid from its start.
        """
        return list(self.iter_truth(start, end))

    def iter_truth(self, start: Any = None, end: Any = None) -> Iterator[Fields]:
        """Yield the same one by one: a million rows are better not held."""
        now = max(self.now(), self._latest)
        first = self._start if start is None else self.time.moment(start)
        last = now if end is None else self.time.moment(end)
        gaps = self._gaps()
        for chat in self._traffic.between(first, last):
            for row in report.truth_of(chat, self.world, now, gaps):
                if first <= row["_at"] and (end is None or row["_at"] < last):
                    yield row
        told: Counter[bytes] = Counter()
        for chat in self._explicit:
            mine: Counter[bytes] = Counter()
            for row in report.truth_of(chat, self.world, now, gaps):
                if (start is None or first <= row["_at"]) and (end is None or row["_at"] < last):
                    key = report.identity(chat.head, row)
                    mine[key] += 1
                    if mine[key] > told[key]:
                        yield row
            told |= mine

    # --- the API ----------------------------------------------------------------------------------

    async def _reports(self, request: web.Request) -> web.StreamResponse:
        """Answer reports_manager.php and information.php, and note what was asked and said."""
        began = time.monotonic()
        if known := request.headers.get("wolkvox-token") == self.token:
            self.stats.in_flight += 1
            self.stats.max_in_flight = max(self.stats.max_in_flight, self.stats.in_flight)
        record = self.stats.arrive(datetime.now(UTC), dict(request.query))
        window = self._window(record)
        try:
            if self.world.latency:
                await asyncio.sleep(self.world.latency)
            answer, fault = await self._answer(request, record, window)
            record.kind, record.status, record.rows = answer.kind, answer.status, answer.rows
            alive = f"timeout={self.world.keep_alive:g}, max=100"
            headers = {"Date": formatdate(self.now(), usegmt=True), "Keep-Alive": alive}
            return await wire.send(request, answer, headers, fault)
        finally:
            record.took = time.monotonic() - began
            self.stats.in_flight -= known

    def _window(self, record: RequestRecord) -> Window | None:
        ini = self.time.parse(record.query.get("date_ini", ""))
        end = self.time.parse(record.query.get("date_end", ""))
        if ini is not None:
            record.ini = datetime.fromtimestamp(self.time.instants(ini)[0], UTC)
        if end is not None:
            record.end = datetime.fromtimestamp(self.time.instants(end)[0], UTC)
        return None if ini is None or end is None else Window(ini, end)

    async def _answer(
        self, request: web.Request, record: RequestRecord, window: Window | None
    ) -> tuple[Answer, Fault | None]:
        refused = self._refused(request, record)
        if refused:
            return _refusal(refused), None
        if request.path.endswith("information.php"):
            return self._information(record), None
        fault = self.faults.pick(window)
        if fault and fault.kind in trouble.REFUSALS:
            return _refusal(fault.kind, _retry_after(fault, self.now())), fault
        if fault and fault.kind == "redirect":
            target = {"Location": f"{self.other_url}{request.path_qs}"}
            return Answer("redirect", 302, [], target), fault
        api = record.query.get("api")
        if api is None or {"date_ini", "date_end"} - record.query.keys():
            return _refusal("missing_parameters"), None
        if api != "chat_2":
            return _refusal("unknown_api"), None
        # Reversed and too wide windows: likely the same 404 as an empty one (section 2).
        if window is None or not 0 <= window.end - window.ini <= self.world.max_days * 86_400:
            answer = _refusal("not_found", kind="bad_window")
        else:
            answer = await self._chats(window, fault)
        if fault:
            answer.kind = fault.kind
        return answer, fault

    def _refused(self, request: web.Request, record: RequestRecord) -> str:
        """Return the kind of refusal a request earns by itself, "" for none; counts the quota."""
        token = request.headers.get("wolkvox-token")
        if token != self.token:
            return "wrong_token" if token else "no_token"
        if record.in_flight > self.world.simultaneous:
            return "simultaneous"
        day = self.time.text(self.time.local(self.now()))[:10]
        if day != self.stats.day:
            # When the real day ends is unknown (section 5).
            self.stats.day, self.stats.used_today = day, 0
        if self.stats.used_today >= self.world.quota:
            return "quota_spent"
        self.stats.used_today += 1
        return ""

    def _information(self, record: RequestRecord) -> Answer:
        if record.query.get("api") != "token_info":
            return _refusal("unknown_api")
        used = str(self.stats.used_today)
        told = {
            "token_limit": str(self.world.quota),
            "token_use_today": used,
            "all_token_today": used,
        }
        envelope = {"code": 200, "error": None, "msg": "1 records were found", "data": [told]}
        return Answer("token_info", 200, [orjson.dumps(envelope)])

    async def _chats(self, window: Window, fault: Fault | None) -> Answer:
        """Return the report: what the window shows, as a fault wants it."""
        world, draw = self.world, self._draw
        elements = [one async for one in self._elements(window)]
        found = report.count(elements, world)
        if found > world.row_cap:
            if world.over_cap == "refuse":
                return _refusal("too_many_rows")
            elements = report.capped(elements, world)
            if not world.cap_tells:
                found = world.row_cap
        if draw.random() < world.shuffled:
            elements = report.shuffle(elements, draw)
        rows = sum(len(one["conversation"]) for one in elements)
        if fault is None or fault.kind in ("slow_headers", "slow_body", "gzip", "broken_transfer"):
            if not elements and world.empty == "404":
                return _refusal("not_found", kind="empty")
            kind = "rows" if elements else "empty"
            pieces = []
            for piece in report.encode(elements, found, draw, world.drift):
                pieces.append(piece)
                await asyncio.sleep(0)
            return Answer(kind, 200, pieces, rows=rows)
        elements = trouble.mark(trouble.change(elements, fault), fault)
        found += fault.options.get("more", 0)
        body = b"".join(report.encode(elements, found, draw, world.drift))
        page = {"Content-Type": "text/html; charset=UTF-8"} if fault.kind == "html" else {}
        return Answer(fault.kind, 200, [trouble.spoil(body, fault)], page, rows)

    async def _elements(self, window: Window) -> AsyncIterator[Fields]:
        """Yield what the window shows, giving way to others in this event loop in between."""
        world, now = self.world, self.now()
        self._latest = max(self._latest, now)
        view = report.View(world, self.time, now, self._gaps())
        first = self.time.instants(window.ini)[0]
        last = min(self.time.instants(window.end)[1], now)
        enough = None if world.cap_tells else world.row_cap + 1
        records = 0
        for index, chat in enumerate(self._candidates(first, last)):
            if index % AT_ONCE == 0:
                await asyncio.sleep(0)
            rows = report.shown(chat, window, view)
            if not rows:
                continue
            for _ in range(chat.listings):
                yield report.element(chat, rows, now)
            records += chat.listings * (1 if world.records == "conversations" else len(rows))
            if enough is not None and records >= enough:
                return

    def _candidates(self, first: float, last: float) -> Iterator[Conversation]:
        yield from self._traffic.between(first, last, self.world.hypothesis)
        yield from self._explicit

    def _gaps(self) -> list[Gap]:
        """Return the world's silent gaps and those switched on."""
        names = ("start", "end", "share", "since")
        switched = [
            Gap(until=float("inf"), **{name: fault.options[name] for name in names})
            for fault in self.faults.states("silent_gap")
        ]
        return [*self.world.gaps, *switched]

    # --- the tests' side door ---------------------------------------------------------------------

    async def _sim_messages(self, request: web.Request) -> web.Response:
        told = orjson.loads(await request.read())
        self.add(told)
        return _json({"added": len(told)})

    async def _sim_faults(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.clear_faults(request.query.get("kind"))
        elif request.method == "POST":
            try:
                fault = self.fault(**orjson.loads(await request.read()))
            except (TypeError, ValueError) as error:
                return _json({"error": str(error)}, status=400)
            return _json({"kind": fault.kind})
        kinds = {kind: {"about": about, "options": known} for kind, (about, known)
                 in trouble.KINDS.items()}  # fmt: skip
        on = [{"kind": one.kind, "used": one.used, "count": one.count} for one in self.faults.on]
        return _json({"on": on, "kinds": kinds, "common": trouble.COMMON})

    async def _sim_world(self, request: web.Request) -> web.Response:
        try:
            self.change(**orjson.loads(await request.read()))
        except (TypeError, ValueError) as error:
            return _json({"error": str(error)}, status=400)
        return _json({"changed": True})

    async def _sim_stats(self, request: web.Request) -> web.Response:
        return _json(self.stats.told(int(request.query.get("last", "1000"))))

    async def _sim_truth(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        moments = [_moment(request.query.get(name)) for name in ("from", "to")]
        batch: list[Fields] = []
        lead = b"["
        for row in self.iter_truth(*moments):
            batch.append(row)
            if len(batch) == AT_ONCE:
                await response.write(lead + orjson.dumps(batch)[1:-1])
                lead = b","
                batch = []
        rest = orjson.dumps(batch)[1:-1]
        await response.write((lead + rest if rest or lead == b"[" else b"") + b"]")
        return response

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Play the foreign host a redirect leads to: tempting, and noting who shows the token."""
        self.stats.redirected.append("wolkvox-token" in request.headers)
        return _json({"code": 200, "error": None, "msg": "0 records were found", "data": []})

    # --- plumbing ---------------------------------------------------------------------------------

    @property
    def _start(self) -> float:
        """When the history begins."""
        start = self.world.start
        return start.timestamp() if start else self._born - self.world.history

    def _new_traffic(self) -> Traffic:
        return Traffic(self.world, self._start)

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v2/reports_manager.php", self._reports),
            web.get("/api/v2/information.php", self._reports),
            web.post("/_sim/messages", self._sim_messages),
            web.get("/_sim/faults", self._sim_faults),
            web.post("/_sim/faults", self._sim_faults),
            web.delete("/_sim/faults", self._sim_faults),
            web.post("/_sim/world", self._sim_world),
            web.get("/_sim/stats", self._sim_stats),
            web.get("/_sim/truth", self._sim_truth),
        ]

    async def _serve(self, routes: Iterable[web.RouteDef], port: int) -> str:
        """Listen and return the base URL."""
        app = web.Application(client_max_size=1 << 28)
        app.add_routes(routes)
        # Nobody waits for an answer that takes its time when the simulator ends.
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self.world.keep_alive, shutdown_timeout=0.01
        )
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, self._host, port, backlog=512).start()
        return f"http://{self._host}:{runner.addresses[0][1]}"


def _refusal(cause: str, headers: dict[str, str] | None = None, *, kind: str = "") -> Answer:
    code, error, msg = trouble.REFUSALS[cause]
    return Answer(kind or cause, code, [report.refusal(code, error, msg)], headers or {})


def _retry_after(fault: Fault, now: float) -> dict[str, str]:
    """Return the header in the fault's form; the date is by the server's clock, as a real one's."""
    secs = fault.options.get("retry_after", 0)
    match fault.options.get("form"):
        case "seconds":
            return {"Retry-After": str(secs)}
        case "date":
            return {"Retry-After": formatdate(now + secs, usegmt=True)}
        case _:
            return {}


def _moment(text: str | None) -> float | str | None:
    """Return epoch seconds where a query holds a number; ISO text stays."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _json(told: Any, status: int = 200) -> web.Response:
    body = orjson.dumps(told)
    return web.Response(body=body, status=status, content_type="application/json")

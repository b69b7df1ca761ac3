"""Checks whether the API answers, accepts the token, and shows rows that fit the time zone.

The first request asks for the time from an hour ago to 26 hours ahead: it shows the newest rows
in whatever zone they are dated. If it shows no rows, a second request asks for the last 26 hours.
Every request costs one of the operation's quota. While somebody else uses the token, such as the
running service, a request is sent up to three times.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from publisher import network_probe
from publisher.clock import MachineClock
from publisher.commands.check.checklist import Check, Checklist, GiveUpError, trying
from publisher.commands.check.newest_row import LOOK_AHEAD, LOOK_BACK, fit, newest
from publisher.errors import Reason, StepError
from publisher.model import Answer, Window
from publisher.settings import Operation, Settings
from publisher.wolkvox import responses, server_clock
from publisher.wolkvox.client import (
    TOTAL_LIMIT,
    HttpSource,
    host_and_port,
    no_connection,
    open_session,
    unknown_name,
)
from publisher.wolkvox.request import request_for
from publisher.wolkvox.responses import Classification, Verdict
from publisher.wolkvox.schema import Chat, Message, chat_of, message_of
from publisher.wolkvox.timezone import Zone

Asked: TypeAlias = tuple[Answer, Classification]
"""An answer of the API, and what it means."""

ANSWER_SECONDS: Final = 9.0
"""Longest wait for an answer."""
CONNECT_SECONDS: Final = 3.0
"""Longest wait for a connection."""
BUSY_PAUSES: Final = (1.0, 2.0)
"""Seconds between two requests while somebody else uses the token."""
SKEW_HINT_ABOVE: Final = timedelta(seconds=60)
"""A larger difference between the clocks gives a hint."""

_MORE: Final = {
    Reason.TOKEN_BUSY: (
        " (if the service is running, that is it: nothing is wrong then; it was asked"
        f" {len(BUSY_PAUSES) + 1} times)"
    ),
    Reason.QUOTA_SPENT: (
        "; all tokens of the operation share it: find out who else uses it; a longer"
        " PUBLISHER_POLL_EVERY or fewer PUBLISHER_REREADS save requests"
    ),
    **dict.fromkeys(
        (Reason.FORBIDDEN, Reason.SERVER_ERROR, Reason.TIMEOUT),
        "; try again in some minutes, and ask the vendor when it lasts",
    ),
    Reason.RATE_LIMITED: "; try again in some minutes: who else asks this server?",
}
"""What to do about a problem. The service itself would simply wait."""
_WAITED: Final = (
    f" ({ANSWER_SECONDS:g} s here; the service waits for {TOTAL_LIMIT:g} s): try again in some"
    " minutes, and ask the vendor when it lasts"
)


async def check(settings: Settings, operation: Operation, checklist: Checklist) -> None:
    """Fill in the checks of an operation's API."""
    secure = operation.url.startswith("https:")
    checks = checklist.add(
        f"API of {operation.name}, {operation.url}",
        "name",
        "connection",
        *(["TLS"] if secure else []),
        "report",
        "clock",
        "newest row",
    )
    try:
        await _reach(operation.url, checks)
        answers = await _ask(settings, operation, checks)
    except GiveUpError:
        return
    _look_at_rows(checks["newest row"], operation, *answers)


async def _reach(url: str, checks: dict[str, Check]) -> None:
    """Check that the host has an address and accepts connections. Raises GiveUpError."""
    where = host_and_port(url)
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    if network_probe.has_proxy(url):
        for name in ("name", "connection"):
            checks[name].ok("left to the proxy of the environment (HTTPS_PROXY)")
        return
    with trying(checks["name"]) as check:
        try:
            addresses = await network_probe.addresses(host)
        except (OSError, UnicodeError):
            raise unknown_name(where) from None
        check.ok(
            f"{host} is {', '.join(addresses[:3])}"
            if addresses != [host]
            else f"{host} is an address already"
        )
    with trying(checks["connection"]) as check:
        try:
            await network_probe.knock(host, int(port))
        except OSError as error:
            raise no_connection(where, error) from None
        check.ok(f"port {port} accepts connections")


async def _ask(
    settings: Settings, operation: Operation, checks: dict[str, Check]
) -> tuple[Asked, Asked | None]:
    """The answer to the first request, and the answer to the second one if it was sent.

    Fills in the checks `TLS`, `report` and `clock`. Raises GiveUpError.
    """
    tls, report = checks.get("TLS"), checks["report"]
    connections: list[None] = []
    session = open_session(
        total_limit=ANSWER_SECONDS,
        connect_limit=CONNECT_SECONDS,
        connected=lambda: connections.append(None),
    )
    (tls or report).trying = True
    problem: StepError | None = None
    async with session:
        source = HttpSource(session, operation.url, operation.token, MachineClock().now)
        try:
            first, second = await ask_for_newest(source, settings, operation)
        except StepError as error:
            problem = error
    if tls:
        with trying(tls):
            if problem and not connections:
                raise problem
            tls.ok("agreed on, and the certificate is trusted")
    with trying(report):
        if problem:
            report.failed(f"{problem}{_WAITED if problem.reason is Reason.TIMEOUT else ''}")
            raise GiveUpError
        # A refusal has a Date header, too.
        _look_at_clock(checks["clock"], first[0])
        _judge(report, *first)
    return first, second


async def ask_for_newest(
    source: HttpSource, settings: Settings, operation: Operation
) -> tuple[Asked, Asked | None]:
    """The answer to the first request, and the answer to the second one if that was needed."""
    first = await _patiently(source, settings, operation, LOOK_BACK, LOOK_AHEAD)
    return first, await _again(source, settings, operation, first)


async def _again(
    source: HttpSource, settings: Settings, operation: Operation, first: Asked
) -> Asked | None:
    """Send the second request, if the first answer has no rows; None = not needed, or it failed.

    If the first answer was empty, it asks for the last 26 hours: nobody writes, the zone lies too
    far east, or the server refuses ends in the future. If it was too large, it asks for the last
    hour.
    """
    verdict = first[1].verdict
    if first[1].data or verdict not in (Verdict.EMPTY, Verdict.TOO_LARGE):
        return None
    back = LOOK_AHEAD if verdict is Verdict.EMPTY else LOOK_BACK
    try:
        return await _patiently(source, settings, operation, back, timedelta())
    except StepError:  # the first answer says what matters
        return None


async def _patiently(
    source: HttpSource, settings: Settings, operation: Operation, back: timedelta, ahead: timedelta
) -> Asked:
    """Ask for the time from `back` before now to `ahead` after it, and return the answer.

    While somebody else uses the token, it asks again.
    """
    zone = Zone(operation.timezone)
    for pause in (*BUSY_PAUSES, None):
        now = datetime.now(UTC)
        window = Window(now - back, now + ahead)
        limit = settings.publisher.max_response_bytes
        answer = await source.read(request_for(window, zone, limit, window.end))
        classification = responses.classify(answer, lenient=True)
        if classification.reason is not Reason.TOKEN_BUSY or pause is None:
            break
        await asyncio.sleep(pause)
    return answer, classification


def _judge(report: Check, answer: Answer, classification: Classification) -> None:
    """Report what the answer says about the token, the rows and the server."""
    took = f"in {answer.took:.1f} s"
    match classification.verdict:
        case Verdict.USE:
            rows = sum(1 for _ in _dates(classification.data))
            report.ok(f"the token is accepted; {rows} rows of the last hour {took}")
        case Verdict.EMPTY if classification.not_found:
            report.ok(
                f"the token is accepted; no rows in the last hour {took} (a 404, which is also"
                " what a server without this report says)"
            )
        case Verdict.EMPTY:
            report.ok(f"the token is accepted; no rows in the last hour {took}")
        case Verdict.TOO_LARGE if answer.status == 200:
            report.ok(
                f"the token is accepted; the last hour holds more rows than one answer may {took}:"
                " the service asks for less at a time"
            )
        case _:
            more = _MORE.get(classification.reason, "") if classification.reason else ""
            report.failed(f"{classification.text}{more}")


def _look_at_clock(check: Check, answer: Answer) -> None:
    """Compare the clock of the server with that of this machine."""
    date = responses.server_time(answer)
    if date is None:
        check.hint("the answer has no Date header: the skew of the clocks is not known")
        return
    skew = server_clock.ServerClock().observe(date, answer.received_at)
    ahead = "ahead of" if skew > timedelta() else "behind"
    seconds = abs(skew.total_seconds())
    if abs(skew) > server_clock.LARGEST:
        check.failed(server_clock.too_large(skew))
    elif abs(skew) > SKEW_HINT_ABOVE:
        check.hint(f"the server is {seconds:.0f} s {ahead} this machine: does NTP run here?")
    else:
        check.ok(f"the server's and ours differ by {max(0.0, seconds - 1):.0f} s")


def _look_at_rows(check: Check, operation: Operation, first: Asked, second: Asked | None) -> None:
    fits, text = newest_row(Zone(operation.timezone), first, second)
    (check.ok if fits else check.hint)(text)


def newest_row(zone: Zone, first: Asked, second: Asked | None) -> tuple[bool, str]:
    """Whether the newest row fits the zone, and what to report about it.

    `first` and `second` are the answers of `ask_for_newest`.
    """
    answer, classification = first if first[1].data or second is None else second
    date = newest(_dates(classification.data), zone)
    if first[1].verdict is Verdict.TOO_LARGE and classification.verdict is not Verdict.TOO_LARGE:
        return False, f"many lie in the future by {zone.name}: is WOLKVOX_TIMEZONE the operation's?"
    if date is None and classification.data:
        return False, "its date is not of the form that the report is known for"
    if date is None:
        return False, (
            f"none in the last day: nothing to compare {zone.name} with; is WOLKVOX_TIMEZONE the"
            " operation's?"
        )
    fitting = fit(date, zone, responses.server_time(answer) or answer.received_at)
    minutes = fitting.age / timedelta(minutes=1)
    if fitting.fits:
        return True, f"{max(0.0, minutes):.0f} minutes old, by {zone.name}"
    if minutes < 0:
        return False, (
            f"lies {-minutes:.0f} minutes in the future by {zone.name}: is WOLKVOX_TIMEZONE the"
            f" operation's? {fitting.doubt}"
        )
    return False, (
        f"{minutes:.0f} minutes old by {zone.name}: either nobody has written since, or"
        f" WOLKVOX_TIMEZONE is not the operation's; {fitting.doubt}"
    )


def _dates(data: list[Any]) -> Iterator[str]:
    """The dates of all rows, unparsed; empty for a row without a readable date."""
    for element in data:
        chat = element if isinstance(element, Chat) else chat_of(element)
        for row in chat.conversation if chat else []:
            message = row if isinstance(row, Message) else message_of(row)
            date = message.date if message else None
            yield date if isinstance(date, str) else ""

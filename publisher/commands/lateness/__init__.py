"""`wolkvox-publisher lateness`: shows how late rows come, and proposes settings for that.

The command only reads the headers of the published messages. `estimate` holds the rules.
"""

from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import orjson

from publisher.commands.dead_letters.header_reader import headers
from publisher.commands.lateness import estimate
from publisher.commands.lateness.estimate import Ages, Measured
from publisher.commands.runner import complain_all, run, span
from publisher.kafka.clients import Clients
from publisher.schedule.passes import rereads_of
from publisher.settings import Settings, duration_text

SHARES: Final = {"50 %": 0.5, "99 %": 0.99, "99.9 %": 0.999, "ALL": 1.0}
"""The shares of the messages that get a column: as many as fit into 80 characters."""
QUOTA: Final = 1000
"""The requests that a licence allows a day."""


def main(last: timedelta, *, as_json: bool) -> int:
    """Print the measured ages of the `last` time, and the proposal. Return the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        together, by_operation = await _measured(settings, last, hidden)
        complain_all(hidden)
        if as_json:
            document = described(together)
            document["hints"] = sorted(hidden)
            document["operations"] = [
                {"operation": operation, **described(by_operation[operation])}
                for operation in by_operation
            ]
            click.echo(orjson.dumps(document))
            return 0
        for line in rendered(together, last):
            click.echo(line)
        for operation in by_operation if len(by_operation) > 1 else ():
            click.echo("\n" + click.style(f"Operation {operation} by itself", bold=True))
            for line in rendered(by_operation[operation], last):
                click.echo(line)
        return 0

    return run(doing, what="the messages")


async def _measured(
    settings: Settings, last: timedelta, hidden: set[str]
) -> tuple[Measured, dict[str, Measured]]:
    """The ages of all operations together, and of every operation by its name.

    The proposal uses them together, because the operations share the settings.
    """
    together = Measured(settings.publisher)
    by_operation = {
        operation.name: Measured(settings.publisher) for operation in settings.operations
    }
    topics = {settings.messages_topic(name) for name in by_operation}
    since = datetime.now(UTC) - last
    async with aclosing(headers(Clients(settings), topics, since, hidden)) as stream:
        async for header_values in stream:
            try:
                source, label = (
                    header_values[name].decode() for name in ("ce_source", "wolkvox_pass")
                )
                occurred_at, read_at = (
                    datetime.fromisoformat(header_values[name].decode("ascii"))
                    for name in ("ce_time", "wolkvox_read_at")
                )
                measured = by_operation[source]
                measured.add(label, occurred_at, read_at)
                together.add(label, occurred_at, read_at)
            except (KeyError, ValueError, TypeError):
                continue  # not our message: somebody else writes to the topic, too
    return together, by_operation


def rendered(measured: Measured, last: timedelta) -> Iterator[str]:
    """The report for a person, line by line."""
    settings, proposed = measured.settings, estimate.proposal(measured)
    yield (
        f"{measured.messages:,} messages of the last"
        f" {duration_text(last)}, read over {_duration(measured.span)}"
    )
    if measured.passes:
        yield ""
        yield click.style("How old they were when they were first read, at most:", bold=True)
        yield f"  {'PASS':<17}{'MESSAGES':>11}" + "".join(f"{share:>12}" for share in SHARES)
        for label, ages in sorted(measured.passes.items()):
            cells = "".join(f"{_duration(ages.quantile(share)):>12}" for share in SHARES.values())
            yield f"  {label:<17}{ages.total:>11,}{cells}"
        yield ""
        for age in rereads_of(settings):
            yield f"  the re-read at {duration_text(age)} found {measured.found_by_rereads[age]:,}"
    yield ""
    if proposed is None:
        yield (
            f"Too little for a proposal: it takes {estimate.ENOUGH:,} messages that live found in"
            f" its rhythm or a re-read found (here {measured.telling:,}), read over"
            f" {_duration(estimate.span_needed(settings))} or more (here"
            f" {_duration(measured.span)})."
        )
        yield "Let the service run on, or look further back with --last."
        return
    yield click.style("Proposal", bold=True)
    for name, current, wanted in (
        ("PUBLISHER_OVERLAP", duration_text(settings.overlap), duration_text(proposed.overlap)),
        ("PUBLISHER_REREADS", _list(settings.rereads), _list(proposed.rereads)),
    ):
        yield f"  {name}={wanted}" + ("   as it is" if current == wanted else f"   (now {current})")
    if proposed.horizon > settings.horizon:
        yield f"  PUBLISHER_HORIZON={duration_text(proposed.horizon)}   (needed by the longest)"
    current_requests = estimate.requests_a_day(settings, rereads_of(settings))
    yield (
        f"  costs about {proposed.requests:,.0f} requests a day (now {current_requests:,.0f}),"
        f" of {QUOTA:,} for each licence"
    )


def described(measured: Measured) -> dict[str, Any]:
    """The report as JSON; ages and durations are in seconds."""
    settings, proposed = measured.settings, estimate.proposal(measured)
    return {
        "messages": measured.messages,
        "telling": measured.telling,
        "span_seconds": measured.span.total_seconds(),
        "passes": {
            label: {"messages": ages.total, "quantiles": _quantiles(ages)}
            for label, ages in sorted(measured.passes.items())
        },
        "rereads": [
            {"age": duration_text(age), "found": measured.found_by_rereads[age]}
            for age in rereads_of(settings)
        ],
        "requests_a_day": round(estimate.requests_a_day(settings, rereads_of(settings)), 1),
        "quota_of_a_licence": QUOTA,
        "proposal": None
        if proposed is None
        else {
            "PUBLISHER_OVERLAP": duration_text(proposed.overlap),
            "PUBLISHER_REREADS": _list(proposed.rereads),
            "least_horizon": duration_text(proposed.horizon),
            "requests_a_day": round(proposed.requests, 1),
        },
    }


def _quantiles(ages: Ages) -> dict[str, float | None]:
    """The ages that the shares of `SHARES` did not exceed, in seconds, by share."""
    quantiles = {str(share): ages.quantile(share) for share in SHARES.values()}
    return {share: age.total_seconds() if age else None for share, age in quantiles.items()}


def _list(ages: tuple[timedelta, ...]) -> str:
    return ",".join(duration_text(age) for age in ages)


def _duration(length: timedelta | None) -> str:
    return "-" if length is None else span(length.total_seconds())

"""`wolkvox-publisher lateness`: how late rows come, and which settings that calls for."""

from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import orjson

from publisher.commands.dead_letters.header_reader import headers
from publisher.commands.lateness import estimate as rules
from publisher.commands.lateness.estimate import Ages, Measured
from publisher.commands.runner import complain_all, run, span
from publisher.kafka.clients import Clients
from publisher.schedule.passes import rereads_of
from publisher.settings import Settings, duration_text

SHARES: Final = {"50 %": 0.5, "99 %": 0.99, "99.9 %": 0.999, "ALL": 1.0}
"""As many as a line of 80 characters has room for."""
QUOTA: Final = 1000
"""Requests a day of one licence."""


def main(last: timedelta, *, as_json: bool) -> int:
    """Print what was measured and what it calls for; returns the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        together, each = await _measured(settings, last, hidden)
        complain_all(hidden)
        if as_json:
            told = described(together)
            told["hints"] = sorted(hidden)
            told["operations"] = [{"operation": one, **described(each[one])} for one in each]
            click.echo(orjson.dumps(told))
            return 0
        for line in rendered(together, last):
            click.echo(line)
        for one in each if len(each) > 1 else ():
            click.echo("\n" + click.style(f"Operation {one} by itself", bold=True))
            for line in rendered(each[one], last):
                click.echo(line)
        return 0

    return run(doing, what="the messages")


async def _measured(
    settings: Settings, last: timedelta, hidden: set[str]
) -> tuple[Measured, dict[str, Measured]]:
    """All operations together, since they share the settings, and each by itself."""
    together = Measured(settings.publisher)
    each = {one.name: Measured(settings.publisher) for one in settings.operations}
    topics = {settings.messages_topic(one) for one in each}
    since = datetime.now(UTC) - last
    async with aclosing(headers(Clients(settings), topics, since, hidden)) as those:
        async for one in those:
            try:
                source, label = (one[name].decode() for name in ("ce_source", "wolkvox_pass"))
                occurred_at, read_at = (
                    datetime.fromisoformat(one[name].decode("ascii"))
                    for name in ("ce_time", "wolkvox_read_at")
                )
                mine = each[source]
                mine.add(label, occurred_at, read_at)
                together.add(label, occurred_at, read_at)
            except (KeyError, ValueError, TypeError):
                continue  # not ours: somebody else writes to the topic
    return together, each


def rendered(measured: Measured, last: timedelta) -> Iterator[str]:
    """For a person, line by line."""
    told, proposed = measured.settings, rules.proposal(measured)
    yield (
        f"{measured.messages:,} messages of the last"
        f" {duration_text(last)}, read over {_duration(measured.span)}"
    )
    if measured.passes:
        yield ""
        yield click.style("How old they were when they were first read, at most:", bold=True)
        yield f"  {'PASS':<17}{'MESSAGES':>11}" + "".join(f"{each:>12}" for each in SHARES)
        for label, ages in sorted(measured.passes.items()):
            cells = "".join(f"{_duration(ages.quantile(each)):>12}" for each in SHARES.values())
            yield f"  {label:<17}{ages.total:>11,}{cells}"
        yield ""
        for age in rereads_of(told):
            yield f"  the re-read at {duration_text(age)} found {measured.found[age]:,}"
    yield ""
    if proposed is None:
        yield (
            f"Too little for a proposal: it takes {rules.ENOUGH:,} messages that live found in its"
            f" rhythm or a re-read found (here {measured.telling:,}), read over"
            f" {_duration(rules.span_needed(told))} or more (here {_duration(measured.span)})."
        )
        yield "Let the service run on, or look further back with --last."
        return
    yield click.style("Proposal", bold=True)
    for name, now, then in (
        ("PUBLISHER_OVERLAP", duration_text(told.overlap), duration_text(proposed.overlap)),
        ("PUBLISHER_REREADS", _list(told.rereads), _list(proposed.rereads)),
    ):
        yield f"  {name}={then}" + ("   as it is" if now == then else f"   (now {now})")
    if proposed.horizon > told.horizon:
        yield f"  PUBLISHER_HORIZON={duration_text(proposed.horizon)}   (needed by the longest)"
    before = rules.requests_a_day(told, rereads_of(told))
    yield (
        f"  costs about {proposed.requests:,.0f} requests a day (now {before:,.0f}), of {QUOTA:,}"
        " for each licence"
    )


def described(measured: Measured) -> dict[str, Any]:
    """For a program; ages and lengths are seconds."""
    told, proposed = measured.settings, rules.proposal(measured)
    return {
        "messages": measured.messages,
        "telling": measured.telling,
        "span_seconds": measured.span.total_seconds(),
        "passes": {
            label: {"messages": ages.total, "quantiles": _quantiles(ages)}
            for label, ages in sorted(measured.passes.items())
        },
        "rereads": [
            {"age": duration_text(age), "found": measured.found[age]} for age in rereads_of(told)
        ],
        "requests_a_day": round(rules.requests_a_day(told, rereads_of(told)), 1),
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
    found = {str(share): ages.quantile(share) for share in SHARES.values()}
    return {share: age.total_seconds() if age else None for share, age in found.items()}


def _list(ages: tuple[timedelta, ...]) -> str:
    return ",".join(duration_text(each) for each in ages)


def _duration(length: timedelta | None) -> str:
    return "-" if length is None else span(length.total_seconds())

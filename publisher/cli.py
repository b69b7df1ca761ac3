"""The command line: the names of the commands, their options and their help texts.

This file defines how a command is called; `publisher/commands` implements what it does. The
docstrings of the commands are the help texts. A command imports its code only when it runs, so
that the service starts faster (hence the noqa).
"""

import gc
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from publisher import __version__


class Duration(click.ParamType[timedelta]):
    """A duration as the settings write it: `90s`, `5m`, `1h`, `3d`."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """Return the duration. Refuse what the settings would refuse, and zero."""
        from publisher.settings import duration  # noqa: PLC0415

        try:
            length = duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if length <= timedelta():
            self.fail("must be greater than zero", param, ctx)
        return length


class Moment(click.ParamType[str]):
    """An instant as `PUBLISHER_START` writes it: ISO 8601 with an offset, `-24h`, or `now`."""

    name = "instant"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Refuse what the settings would refuse. The command resolves `-24h` and `now` later."""
        from publisher.settings import start_instant  # noqa: PLC0415

        try:
            start_instant(value, datetime.now(UTC))
        except (ValueError, OverflowError):
            text = "is not a date with offset: write 2026-11-20T10:00:00-05:00, or -24h"
            self.fail(f"{value!r} {text}", param, ctx)
        return str(value)


_OPERATION: Final = click.option(
    "--operation", metavar="NAME", help="One of several; all when not given."
)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
_YES: Final = click.option("--yes", is_flag=True, help="Apply the change (default: dry run).")
_TAKE_OVER: Final = click.option("--take-over", is_flag=True, help="Also while the service runs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wolkvox-publisher")
def main() -> None:
    """Publish Wolkvox chat conversations to Kafka, each message exactly once.

    Settings come from environment variables and from the TOML file that
    PUBLISHER_CONFIG names. docs/reference/settings.md lists them.
    """


@main.command()
def run() -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped as asked, 2 settings cannot work.
    """
    # Imports and windows leave no reference cycles behind, so frequent collections are useless.
    gc.set_threshold(100_000, 50, 100)
    # The service installs its own signal handlers later. Until then these handlers end the process:
    # the first process of a container ignores signals without a handler, so a stop during the
    # start would wait for the kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))

    from publisher import app  # noqa: PLC0415

    sys.exit(app.main())


@main.command()
@_JSON
def check(*, as_json: bool) -> None:
    """Look whether settings, API and Kafka are as they must be. Changes nothing.

    It asks the API once with the real token (one of the daily quota) and ends
    within 15 seconds. It may run beside the service.

    Exit codes: 0 all good, 1 something failed, 2 settings cannot work.
    """
    from publisher.commands import check as command  # noqa: PLC0415

    sys.exit(command.main(as_json=as_json))


@main.command()
@click.option("--last", type=Duration(), default="1h", show_default=True, help="How far back.")
@_OPERATION
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Print so many at most.")
@click.option("--show-text", is_flag=True, help="Show what people wrote, and who they are.")
def preview(last: timedelta, operation: str | None, limit: int | None, *, show_text: bool) -> None:
    """Print the events that would be published, one JSON line each. Needs no Kafka.

    Asks the API with the real token; each request is one of the daily quota.
    Messages, names, phones and customer ids are masked unless --show-text is
    given: with it each line is byte for byte the value of the event. The summary
    goes to standard error.

    Exit codes: 0 all was read, 1 something failed, 2 settings cannot work.
    """
    from publisher.commands import preview as command  # noqa: PLC0415

    sys.exit(command.main(last, operation, limit, show_text=show_text))


@main.command()
@click.option("--url", metavar="URL", help="The running service, such as http://localhost:9108.")
@_JSON
def status(url: str | None, *, as_json: bool) -> None:
    """Tell where each operation stands.

    Asks the running service at PUBLISHER_HTTP_PORT of this machine, or at --url.
    Where none answers, reads the state topic, and changes nothing there.

    Exit codes: 0 here is the answer, 1 there is none, 2 settings cannot work.
    """
    from publisher.commands import status as command  # noqa: PLC0415

    sys.exit(command.main(url, as_text=not as_json))


_FROM: Final = "ISO instant with offset, or -24h."


@main.command()
@click.option("--from", "since", type=Moment(), help=f"{_FROM} The operation's start if not given.")
@click.option("--to", "until", type=Moment(), help=f"{_FROM} Now if not given.")
@_OPERATION
@_JSON
def gaps(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> None:
    """List the stretches of time that are missing.

    Reads the state topic, and changes nothing there. What is ahead of the
    live pass is not missing: `status` tells how far behind it is.

    Exit codes: 0 nothing is missing, 1 something is or cannot be told,
    2 settings cannot work.
    """
    from publisher.commands import coverage as command  # noqa: PLC0415

    sys.exit(command.gaps(since, until, operation, as_json=as_json))


@main.command()
@click.option("--from", "since", type=Moment(), help=f"{_FROM} The last 7 days if not given.")
@click.option("--to", "until", type=Moment(), help=f"{_FROM} Now if not given.")
@_OPERATION
@click.option("--json", "as_json", is_flag=True, help="Stretches and windows as one JSON object.")
def coverage(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> None:
    """Draw which time was read, and how old it was then: a line per day.

    Reads the state topic, and changes nothing there. A cell shows the worst
    that is in it. With --json each committed window is told as well: when it
    was asked, by which pass, and how many rows it held.

    Exit codes: 0 nothing is missing, 1 something is or cannot be told,
    2 settings cannot work.
    """
    from publisher.commands import coverage as command  # noqa: PLC0415

    sys.exit(command.calendar(since, until, operation, as_json=as_json))


@main.command()
@click.option("--last", type=Duration(), default="7d", show_default=True, help="How far back.")
@_JSON
def lateness(last: timedelta, *, as_json: bool) -> None:
    """Measure how late the report shows its rows; propose overlap and re-reads.

    Reads the headers of the published messages, never what is in them, and changes
    nothing. Costs no request.

    Exit codes: 0 here is the answer, 1 Kafka cannot be read, 2 settings cannot work.
    """
    from publisher.commands import lateness as command  # noqa: PLC0415

    sys.exit(command.main(last, as_json=as_json))


# With this, click takes -24h as an instant, and neither as an option nor as -h for help.
_INSTANTS: Final = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@main.command(context_settings=_INSTANTS)
@click.argument("start", metavar="FROM", type=Moment())
@click.argument("end", metavar="TO", type=Moment())
@_OPERATION
@click.option("--repair", is_flag=True, help="Publish exactly what is missing.")
@click.option("--take-over", is_flag=True, help="With --repair: also while the service runs.")
@_JSON
@click.option("--metrics-file", metavar="FILE", help="Also write the result for node_exporter.")
def verify(
    start: str,
    end: str,
    operation: str | None,
    *,
    repair: bool,
    take_over: bool,
    as_json: bool,
    metrics_file: str | None,
) -> None:
    """Compare the topic with the report, from FROM to TO.

    FROM and TO are instants with an offset (2026-11-20T10:00:00-05:00), `now`,
    or how long ago (-24h). Reads the API again with the real
    token; each request is one of the daily quota. Changes nothing without
    --repair. Shows no text, name or phone.

    Exit codes: 0 complete, 1 it is not or it could not be told, 2 settings
    cannot work.
    """
    from publisher.commands import verify as command  # noqa: PLC0415

    sys.exit(
        command.main(
            start,
            end,
            operation,
            repair=repair,
            take_over=take_over,
            as_json=as_json,
            metrics_file=metrics_file,
        )
    )


_ONE_OPERATION: Final = click.option(
    "--operation", metavar="NAME", help="Which one, where there are several."
)


class _RangeGroup(click.Group):
    """A group that reads `backfill FROM TO` as `backfill start FROM TO`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `start` if the first word is neither a subcommand nor a call for help."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@main.group(cls=_RangeGroup)
def backfill() -> None:
    """Publish history beside live: `backfill FROM TO`, then list, pause, resume, cancel.

    FROM and TO are instants with their offset, such as 2026-11-01T00:00:00-05:00.
    The order travels through Kafka to the running service, which reads the range
    whenever nothing else is due. What was published before stays published once.

    Exit codes: 0 ordered or told, 1 Kafka could not be had, 2 it cannot work.
    """


@backfill.command("start")
@click.argument("begin", metavar="FROM")
@click.argument("end", metavar="TO")
@_ONE_OPERATION
@click.option("--again", is_flag=True, help="Publish once more, under the same event_id.")
@click.option("--wait", is_flag=True, help="Show the progress until it ends.")
def start_backfill(begin: str, end: str, operation: str | None, *, again: bool, wait: bool) -> None:
    """Order the range from FROM to TO."""
    from publisher.commands import backfill as command  # noqa: PLC0415

    sys.exit(command.start(begin, end, operation, again=again, wait=wait))


@backfill.command("list")
@_ONE_OPERATION
@_JSON
def list_backfills(operation: str | None, *, as_json: bool) -> None:
    """Tell what was ordered, and how far it is."""
    from publisher.commands import backfill as command  # noqa: PLC0415

    sys.exit(command.show(operation, as_json=as_json))


def _changing(name: str, wanted: str, text: str) -> Any:
    """Define the subcommand `name`, which sets a backfill to the standing `wanted`."""

    @backfill.command(name, help=text)
    @click.argument("id_", metavar="ID")
    @_ONE_OPERATION
    def change(id_: str, operation: str | None) -> None:
        from publisher.commands import backfill as command  # noqa: PLC0415

        sys.exit(command.change(id_, operation, wanted))

    return change


_changing("pause", "paused", "Pause a backfill; it keeps its place.")
_changing("resume", "running", "Let it go on.")
_changing("cancel", "cancelled", "End it where it is; what it published stays.")


@main.group("dead-letters")
def dead_letters() -> None:
    """Look at the dead letters, and publish what can be read of them now."""


@dead_letters.command("list")
@_OPERATION
@_JSON
def list_dead_letters(operation: str | None, *, as_json: bool) -> None:
    """List them: why, where from, how large, whether replayed. Never what is in them.

    Exit codes: 0 here they are, 1 they cannot be read, 2 settings cannot work.
    """
    from publisher.commands import dead_letters as command  # noqa: PLC0415

    sys.exit(command.list_(operation, as_json=as_json))


@dead_letters.command("show")
@click.argument("id_", metavar="ID")
@_OPERATION
@click.option("--show-text", is_flag=True, help="Print the bytes, put together; headers to stderr.")
def show_dead_letter(id_: str, operation: str | None, *, show_text: bool) -> None:
    """Show the headers of one, and with --show-text the bytes that the server sent.

    ID is an id, or the first digits of one. Exit codes: 0 here it is, 1 there is none,
    2 settings cannot work.
    """
    from publisher.commands import dead_letters as command  # noqa: PLC0415

    sys.exit(command.show(id_, operation, show_text=show_text))


@dead_letters.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--reason", metavar="REASON", help="All of this reason.")
@click.option("--all", "all_", is_flag=True, help="All that were not replayed.")
@_OPERATION
@click.option(
    "--dry-run/--publish", default=True, show_default=True, help="Say what would be, or do it."
)
@click.option("--take-over", is_flag=True, help="Also while a service runs: it waits a minute.")
@_JSON
def replay(ids: tuple[str, ...], **options: Any) -> None:
    """Publish what can be read of dead letters now, each message exactly once.

    Without --publish it only says what would come out. What is still bad stays
    where it is. Exit codes: 0 done, 1 something stays or failed, 2 settings or
    options cannot work.
    """
    from publisher.commands.dead_letters import replay as command  # noqa: PLC0415

    sys.exit(command.main(ids, **options))


@main.group()
def state() -> None:
    """Take care of what the service remembers in Kafka."""


@state.command()
@_OPERATION
@_YES
@_TAKE_OVER
@_JSON
def rebuild(operation: str | None, *, yes: bool, take_over: bool, as_json: bool) -> None:
    """Rebuild a lost state from the events of the messages topic.

    For when the state topic was lost and the service refuses to go on
    (state_lost). Publishes nothing.

    Exit codes: 0 done or would be, 1 it could not be, 2 settings cannot work.
    """
    from publisher.commands.state import rebuild as command  # noqa: PLC0415

    sys.exit(command.main(operation, yes=yes, take_over=take_over, as_json=as_json))


@state.command("show")
@_JSON
def show_state(*, as_json: bool) -> None:
    """List the operations in the state topic, including removed ones.

    Reads the state topic, and changes nothing there.

    Exit codes: 0 here is the answer, 1 there is none, 2 settings cannot work.
    """
    from publisher.commands import state as command  # noqa: PLC0415

    sys.exit(command.show(as_json=as_json))


@state.command()
@click.argument("name")
@_YES
@_TAKE_OVER
def forget(name: str, *, yes: bool, take_over: bool) -> None:
    """Forget an operation that was taken out of the settings.

    Its events stay in the messages topic. Put back into the settings later, it
    begins anew, and what the report shows of its past is published once more.

    Exit codes: 0 done or would be, 1 it could not be, 2 settings cannot work.
    """
    from publisher.commands import state as command  # noqa: PLC0415

    sys.exit(command.forget(name, yes=yes, take_over=take_over))

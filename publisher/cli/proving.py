"""The command that proves what was published."""

import sys
from typing import Final

import click

from publisher.cli.values import Moment

# So that -24h is an instant, and neither an option nor a call for help.
_INSTANTS: Final = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@click.command(context_settings=_INSTANTS)
@click.argument("start", metavar="FROM", type=Moment())
@click.argument("end", metavar="TO", type=Moment())
@click.option("--operation", metavar="NAME", help="One of several; all when not given.")
@click.option("--repair", is_flag=True, help="Publish exactly what is missing.")
@click.option("--take-over", is_flag=True, help="With --repair: also while the service runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
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


COMMANDS: Final = (verify,)

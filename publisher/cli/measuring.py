"""Commands that measure what was published."""

import sys
from datetime import timedelta
from typing import Final

import click

from publisher.cli.values import Duration


@click.command()
@click.option("--last", type=Duration(), default="7d", show_default=True, help="How far back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def lateness(last: timedelta, *, as_json: bool) -> None:
    """Measure how late the report shows its rows; propose overlap and re-reads.

    Reads the headers of the published messages, never what is in them, and changes
    nothing. Costs no request.

    Exit codes: 0 here is the answer, 1 Kafka cannot be read, 2 settings cannot work.
    """
    from publisher.commands import lateness as command  # noqa: PLC0415

    sys.exit(command.main(last, as_json=as_json))


COMMANDS: Final = (lateness,)

"""Commands that look and change nothing."""

import sys
from datetime import timedelta
from typing import Final

import click

from publisher.cli.values import Duration


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(*, as_json: bool) -> None:
    """Look whether settings, API and Kafka are as they must be. Changes nothing.

    It asks the API once with the real token (one of the daily quota) and ends
    within 15 seconds. It may run beside the service.

    Exit codes: 0 all good, 1 something failed, 2 settings cannot work.
    """
    from publisher.commands import check as command  # noqa: PLC0415

    sys.exit(command.main(as_json=as_json))


@click.command()
@click.option("--last", type=Duration(), default="1h", show_default=True, help="How far back.")
@click.option("--operation", metavar="NAME", help="One of several; all when not given.")
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


@click.command()
@click.option("--url", metavar="URL", help="The running service, such as http://localhost:9108.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(url: str | None, *, as_json: bool) -> None:
    """Tell where each operation stands.

    Asks the running service at PUBLISHER_HTTP_PORT of this machine, or at --url.
    Where none answers, reads the state topic, and changes nothing there.

    Exit codes: 0 here is the answer, 1 there is none, 2 settings cannot work.
    """
    from publisher.commands import status as command  # noqa: PLC0415

    sys.exit(command.main(url, as_text=not as_json))


COMMANDS: Final = (check, preview, status)

"""Commands that order history, and look how far it is."""

import sys
from typing import Any, Final

import click

_operation = click.option("--operation", metavar="NAME", help="Which one, where there are several.")


class _Group(click.Group):
    """`backfill FROM TO` is `backfill start FROM TO`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A word that is no subcommand, nor help, is the begin of a range."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def backfill() -> None:
    """Publish history beside live: `backfill FROM TO`, then list, pause, resume, cancel.

    FROM and TO are instants with their offset, such as 2026-11-01T00:00:00-05:00.
    The order travels through Kafka to the running service, which reads the range
    whenever nothing else is due. What was published before stays published once.

    Exit codes: 0 ordered or told, 1 Kafka could not be had, 2 it cannot work.
    """


@backfill.command()
@click.argument("begin", metavar="FROM")
@click.argument("end", metavar="TO")
@_operation
@click.option("--again", is_flag=True, help="Publish once more, under the same event_id.")
@click.option("--wait", is_flag=True, help="Show the progress until it ends.")
def start(begin: str, end: str, operation: str | None, *, again: bool, wait: bool) -> None:
    """Order the range from FROM to TO."""
    from publisher.commands import backfill as command  # noqa: PLC0415

    sys.exit(command.start(begin, end, operation, again=again, wait=wait))


@backfill.command("list")
@_operation
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_(operation: str | None, *, as_json: bool) -> None:
    """Tell what was ordered, and how far it is."""
    from publisher.commands import backfill as command  # noqa: PLC0415

    sys.exit(command.show(operation, as_json=as_json))


def _changing(name: str, wanted: str, text: str) -> Any:
    @backfill.command(name, help=text)
    @click.argument("id_", metavar="ID")
    @_operation
    def change(id_: str, operation: str | None) -> None:
        from publisher.commands import backfill as command  # noqa: PLC0415

        sys.exit(command.change(id_, operation, wanted))

    return change


_changing("pause", "paused", "Pause a backfill; it keeps its place.")
_changing("resume", "running", "Let it go on.")
_changing("cancel", "cancelled", "End it where it is; what it published stays.")

COMMANDS: Final = (backfill,)

"""Commands about what could not be an event."""

import sys
from typing import Any, Final

import click


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at the dead letters, and publish what can be read of them now."""


_OPERATION: Final = click.option(
    "--operation", metavar="NAME", help="One of several; all when not given."
)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@dead_letters.command("list")
@_OPERATION
@_JSON
def list_(operation: str | None, *, as_json: bool) -> None:
    """List them: why, where from, how large, whether replayed. Never what is in them.

    Exit codes: 0 here they are, 1 they cannot be read, 2 settings cannot work.
    """
    from publisher.commands import dead_letters as command  # noqa: PLC0415

    sys.exit(command.list_(operation, as_json=as_json))


@dead_letters.command()
@click.argument("id_", metavar="ID")
@_OPERATION
@click.option("--show-text", is_flag=True, help="Print the bytes, put together; headers to stderr.")
def show(id_: str, operation: str | None, *, show_text: bool) -> None:
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
    from publisher.commands import replay as command  # noqa: PLC0415

    sys.exit(command.main(ids, **options))


COMMANDS: Final = (dead_letters,)

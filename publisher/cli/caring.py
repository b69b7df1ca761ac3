"""Commands that take care of what is remembered. Dry runs, unless told `--yes`."""

import sys
from typing import Final

import click


@click.group()
def state() -> None:
    """Take care of what the service remembers in Kafka."""


@state.command()
@click.option("--operation", metavar="NAME", help="One of several; all when not given.")
@click.option("--yes", is_flag=True, help="Apply the change (default: dry run).")
@click.option("--take-over", is_flag=True, help="Also while the service runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rebuild(operation: str | None, *, yes: bool, take_over: bool, as_json: bool) -> None:
    """Rebuild a lost state from the events of the messages topic.

    For when the state topic was lost and the service refuses to go on
    (state_lost). Publishes nothing.

    Exit codes: 0 done or would be, 1 it could not be, 2 settings cannot work.
    """
    from publisher.commands import rebuild as command  # noqa: PLC0415

    sys.exit(command.main(operation, yes=yes, take_over=take_over, as_json=as_json))


@state.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(*, as_json: bool) -> None:
    """List the operations in the state topic, including removed ones.

    Reads the state topic, and changes nothing there.

    Exit codes: 0 here is the answer, 1 there is none, 2 settings cannot work.
    """
    from publisher.commands import remembered as command  # noqa: PLC0415

    sys.exit(command.show(as_json=as_json))


@state.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Apply the change (default: dry run).")
@click.option("--take-over", is_flag=True, help="Also while the service runs.")
def forget(name: str, *, yes: bool, take_over: bool) -> None:
    """Forget an operation that was taken out of the settings.

    Its events stay in the messages topic. Put back into the settings later, it
    begins anew, and what the report shows of its past is published once more.

    Exit codes: 0 done or would be, 1 it could not be, 2 settings cannot work.
    """
    from publisher.commands import remembered as command  # noqa: PLC0415

    sys.exit(command.forget(name, yes=yes, take_over=take_over))


@state.command()
@click.argument("old")
@click.argument("new")
@click.option("--yes", is_flag=True, help="Apply the change (default: dry run).")
@click.option("--take-over", is_flag=True, help="Also while the service runs.")
def rename(old: str, new: str, *, yes: bool, take_over: bool) -> None:
    """Give an operation another name without publishing anything twice.

    Stop the service, run this, change the name in the settings, start it. Ids of
    messages stay what they were. Interrupted, it is run again.

    Exit codes: 0 done or would be, 1 it could not be, 2 settings cannot work.
    """
    from publisher.commands import rename as command  # noqa: PLC0415

    sys.exit(command.main(old, new, yes=yes, take_over=take_over))


COMMANDS: Final = (state,)

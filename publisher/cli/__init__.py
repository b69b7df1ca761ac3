"""What can be typed: the commands' names, options and help texts.

Rules of this package:
- A command imports what it needs when it runs: a service starts faster so (hence the noqa).
- What a command does stands in `publisher/commands`; here stands only how it is called.
- Commands of one purpose share a file.
"""

import gc
import signal
import sys

import click

from publisher import __version__
from publisher.cli import backfilling, caring, coverage, letters, looking, measuring, proving


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
    # Neither imports nor windows leave cycles behind: collecting often finds nothing.
    gc.set_threshold(100_000, 50, 100)
    # Until the service minds signals itself: the first process of a container is not ended by
    # one that nobody handles, so a stop at its start would wait for the kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))

    from publisher import app  # noqa: PLC0415

    sys.exit(app.main())


for group in (looking, coverage, measuring, proving, backfilling, letters, caring):
    for command in group.COMMANDS:
        main.add_command(command)

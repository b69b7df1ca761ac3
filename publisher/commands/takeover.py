"""What commands have in common that write to Kafka as the owner of an operation's log.

The owner is whoever has the transactional id. A command that takes it over fences a running
service: that one says so, waits for more than a minute, takes the id back and restores.
Nothing is lost by it, but live is late meanwhile. So a command looks first.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from publisher.commands import status_reader
from publisher.commands.runner import RefusedError
from publisher.commands.status_reader import NoAnswerError, SlowServiceError
from publisher.kafka.cluster import Cluster
from publisher.settings import Settings
from publisher.signals import Signal
from publisher.state.checkpoint import REPLAY
from publisher.state.state import State

LIVELY_POLLS: Final = 3
"""Whoever has committed a window within so many polls is taken for running."""


async def running(settings: Settings, states: Iterable[State]) -> str | None:
    """What speaks for a service that runs with these settings, or None. Takes over nothing."""
    port = settings.publisher.http_port
    if port:
        url = f"http://localhost:{port}"
        try:
            await status_reader.from_service(url)
        except SlowServiceError:
            return f"something listens at {url}, and does not answer"
        except NoAnswerError:
            pass
        else:
            return f"one answers at {url}"
    now = datetime.now(UTC)
    for known in states:
        read = [entry.read_at for entry in known.journal if entry.pass_name != REPLAY]
        if read:
            ago = now - max(read)
            if ago < settings.publisher.poll_every * LIVELY_POLLS:
                seconds = max(ago.total_seconds(), 0.0)
                return f"{known.checkpoint.operation} was published {seconds:.0f} s ago"
    return None


async def refuse_while_running(settings: Settings, states: Iterable[State] = ()) -> None:
    """Raise RefusedError when something speaks for a service that runs."""
    if why := await running(settings, states):
        raise RefusedError(
            f"a service seems to run ({why}): stop it first, or pass --take-over; it then waits"
            " for more than a minute, takes back and goes on"
        )


@asynccontextmanager
async def owned(settings: Settings) -> AsyncIterator[Cluster]:
    """Kafka as the service sees it; an id is taken over when its operation is restored."""
    cluster = Cluster(settings, _unheard)
    try:
        yield cluster
    finally:
        await cluster.close()


def _unheard(_: Signal) -> None:
    """Nobody listens to a command's signals: what fails is raised."""

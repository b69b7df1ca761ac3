"""Shared code of commands that write to Kafka as the owner of an operation's log.

The owner is the process that has the transactional id. A command that takes the id over fences a
running service. The service logs this, waits for more than a minute, takes the id back and
restores its state. Nothing is lost, but live is late meanwhile. So a command first checks whether a
service is running.
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
"""An operation that has committed a window within so many polls counts as running."""


async def running(settings: Settings, states: Iterable[State]) -> str | None:
    """The evidence that a service runs with these settings; None = there is no evidence.

    `states` are states read from the state topic: a fresh journal entry is evidence. Takes over
    nothing.
    """
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
    for state in states:
        read = [entry.read_at for entry in state.journal if entry.pass_name != REPLAY]
        if read:
            ago = now - max(read)
            if ago < settings.publisher.poll_every * LIVELY_POLLS:
                seconds = max(ago.total_seconds(), 0.0)
                return f"{state.checkpoint.operation} was published {seconds:.0f} s ago"
    return None


async def refuse_while_running(settings: Settings, states: Iterable[State] = ()) -> None:
    """Raise RefusedError if there is evidence that a service runs; see `running`."""
    if why := await running(settings, states):
        raise RefusedError(
            f"a service seems to run ({why}): stop it first, or pass --take-over; it then waits"
            " for more than a minute, takes back and goes on"
        )


@asynccontextmanager
async def owned(settings: Settings) -> AsyncIterator[Cluster]:
    """Kafka as the service sees it, until the block ends.

    Restoring an operation takes over its transactional id.
    """
    cluster = Cluster(settings, _unheard)
    try:
        yield cluster
    finally:
        await cluster.close()


def _unheard(_: Signal) -> None:
    """Drop a signal: a command has no listeners, and failures are raised."""

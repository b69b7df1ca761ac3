"""The composition root: builds the service, handles the OS signals and ends the service in order.

Only this file knows all connections to the outside. The life of the process:
1. It reads the settings and configures the logs.
2. It opens the HTTP port and starts a loop for every operation.
3. A stop signal arrives. The loops finish their current steps or abandon them.
4. The producers close and leave no transaction open.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Final

from aiohttp import ClientSession

from publisher import __version__
from publisher.clock import MachineClock
from publisher.context import OperationContext
from publisher.errors import SettingsError, StepError
from publisher.kafka.clients import Clients, report_unless_told
from publisher.kafka.cluster import Cluster
from publisher.kafka.commands_topic import KafkaCommands
from publisher.kafka.durability import DurabilityHints
from publisher.pipeline import run
from publisher.settings import Operation, Settings, load
from publisher.signals import (
    Emit,
    HintGiven,
    OffsetsCompared,
    ServiceStarted,
    ServiceStopped,
    Signal,
    StopRequested,
    labelled,
)
from publisher.telemetry import http_server, logs, malloc_trim
from publisher.telemetry.current_status import Status
from publisher.telemetry.health import Liveness
from publisher.telemetry.metrics import Metrics
from publisher.wolkvox.client import HttpSource, open_session
from publisher.wolkvox.timezone import Zone

FINISH_SECONDS: Final = 4.0
"""How long the current steps may still take after a stop signal, in seconds."""
COMPARE_EVERY: Final = 60.0
"""Seconds between two comparisons of high watermarks with last stable offsets."""


def main() -> int:
    """Run the service and return the exit code."""
    try:
        settings = load()
        logs.configure(settings.publisher.log_format, settings.publisher.log_level)
        asyncio.run(serve(settings))
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"wolkvox-publisher: {problem}\n")
        return 2
    return 0


async def serve(settings: Settings) -> None:
    """Publish all operations until a stop signal."""
    clock = MachineClock()
    liveness = Liveness()
    labels = {operation.name: operation.label for operation in settings.operations}
    status = Status(tuple(labels.values()), __version__, clock.now)
    metrics = Metrics(status)

    def emit(happened: Signal) -> None:
        happened = labelled(happened, labels)
        status(happened)
        metrics(happened)
        logs.record(happened)
        malloc_trim.watch(happened)
        durability(happened)

    cluster = Cluster(settings, emit)
    durability = DurabilityHints(Clients(settings), settings, emit)

    def start(operation: Operation, session: ClientSession) -> asyncio.Task[None]:
        context = OperationContext(
            operation=operation.name,
            zone=Zone(operation.timezone),
            settings=settings.publisher,
            source=HttpSource(session, operation.url, operation.token, clock.now),
            log=cluster.log(operation.name),
            clock=clock,
            emit=emit,
            beat=liveness.beat(operation.label),
            backfill_requests=KafkaCommands(settings, operation.name),
            zone_replaces=operation.timezone_replaces,
            label=operation.label,
        )
        task = asyncio.create_task(run(context), name=operation.label)
        task.add_done_callback(lambda ended: _ended(ended, clock, liveness))
        return task

    asyncio.get_running_loop().set_exception_handler(report_unless_told)
    _mind_stop_signals(clock, emit)
    # The port opens first. If that fails, nothing has been asked or written yet.
    async with (
        open_session() as session,
        http_server.serve(
            settings.publisher.http_port,
            registry=metrics.registry,
            liveness=liveness,
            status=status,
            now=clock.now,
        ) as port,
    ):
        emit(ServiceStarted(__version__, tuple(labels.values()), port))
        for hint in settings.hints:
            emit(HintGiven(hint))
        tasks = [start(operation, session) for operation in settings.operations]
        comparison = asyncio.create_task(_compare_offsets(cluster, settings, clock, emit))
        await clock.stop_requested()
        comparison.cancel()  # nothing in it is worth waiting for
        await _finish([*tasks, comparison])
        await durability.close()
        clean = await cluster.close()
    emit(ServiceStopped(clean))


def _ended(loop: asyncio.Task[None], clock: MachineClock, liveness: Liveness) -> None:
    """Note the end of a loop. Unless a stop was requested it died, and `/healthz` reports that."""
    if not clock.stopping:
        liveness.died(loop.get_name())
    if not loop.cancelled():
        loop.exception()  # retrieve it, so that asyncio is silent: `run` has reported it


async def _finish(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the current steps, and abandon those that take too long."""
    _, unfinished = await asyncio.wait(tasks, timeout=FINISH_SECONDS)
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished, timeout=1.0)


async def _compare_offsets(
    cluster: Cluster, settings: Settings, clock: MachineClock, emit: Emit
) -> None:
    """Look for hanging transactions. They hide all later records from read_committed readers."""
    topics = {settings.publisher.state_topic} | {
        topic
        for operation in settings.operations
        for topic in (
            settings.messages_topic(operation.name),
            settings.revisions_topic(operation.name),
        )
        if topic
    }
    while not clock.stopping:
        await clock.sleep(COMPARE_EVERY)
        # While Kafka is unreachable, the loops report it.
        with suppress(StepError):
            emit(OffsetsCompared(await cluster.unstable_offsets(sorted(topics))))


def _mind_stop_signals(clock: MachineClock, emit: Emit) -> None:
    """Let the first SIGTERM or SIGINT request a stop, and the second force it."""
    loop = asyncio.get_running_loop()

    def stop(os_signal: signal.Signals) -> None:
        if clock.stopping:
            os._exit(128 + os_signal)
        emit(StopRequested(os_signal.name))
        clock.request_stop()

    for os_signal in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(os_signal, stop, os_signal)

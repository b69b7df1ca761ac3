"""The composition root: builds the service, minds the OS signals, ends it in order.

The only file that knows every edge. Life of the process: settings -> logs ->
one loop per operation and the HTTP port -> a stop signal -> the steps in hand
are finished or abandoned -> producers end with no transaction left open.
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
)
from publisher.telemetry import http_server, logs, malloc_trim
from publisher.telemetry.current_status import Status
from publisher.telemetry.health import Liveness
from publisher.telemetry.metrics import Metrics
from publisher.wolkvox.client import HttpSource, open_session
from publisher.wolkvox.timezone import Zone

FINISH_SECONDS: Final = 4.0
"""After a stop signal: how long the steps in hand may take to finish."""
COMPARE_EVERY: Final = 60.0
"""Seconds between two comparisons of high watermarks with last stable offsets."""


def main() -> int:
    """Run the service; returns the exit code."""
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
    names = tuple(operation.name for operation in settings.operations)
    status = Status(names, __version__, clock.now)
    metrics = Metrics(status)

    def emit(happened: Signal) -> None:
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
            beat=liveness.beat(operation.name),
            backfill_requests=KafkaCommands(settings, operation.name),
            zone_replaces=operation.timezone_replaces,
        )
        task = asyncio.create_task(run(context), name=operation.name)
        task.add_done_callback(lambda ended: _ended(ended, clock, liveness))
        return task

    asyncio.get_running_loop().set_exception_handler(report_unless_told)
    _mind_stop_signals(clock, emit)
    # The port first: when it cannot be had, nothing has been asked or written yet.
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
        emit(ServiceStarted(__version__, names, port))
        for hint in settings.hints:
            emit(HintGiven(hint))
        tasks = [start(operation, session) for operation in settings.operations]
        comparing = asyncio.create_task(_compare_offsets(cluster, settings, clock, emit))
        await clock.stop_requested()
        comparing.cancel()  # it has no step in hand that is worth waiting for
        await _finish([*tasks, comparing])
        await durability.close()
        clean = await cluster.close()
    emit(ServiceStopped(clean))


def _ended(loop: asyncio.Task[None], clock: MachineClock, liveness: Liveness) -> None:
    """A loop ends when a stop was requested; otherwise it died, and `/healthz` says so."""
    if not clock.stopping:
        liveness.died(loop.get_name())
    if not loop.cancelled():
        loop.exception()  # retrieved: `run` has told all there is to tell


async def _finish(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the steps in hand; abandon what takes too long."""
    _, late = await asyncio.wait(tasks, timeout=FINISH_SECONDS)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=1.0)


async def _compare_offsets(
    cluster: Cluster, settings: Settings, clock: MachineClock, emit: Emit
) -> None:
    """Look for transactions that hang: they hide what comes after them from every reader."""
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
        # While Kafka is away the loops tell so.
        with suppress(StepError):
            emit(OffsetsCompared(await cluster.unstable_offsets(sorted(topics))))


def _mind_stop_signals(clock: MachineClock, emit: Emit) -> None:
    """The first SIGTERM or SIGINT asks for a stop, a second one forces it."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if clock.stopping:
            os._exit(128 + number)
        emit(StopRequested(number.name))
        clock.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)

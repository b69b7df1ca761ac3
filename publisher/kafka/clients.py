"""Makes, starts and ends the clients of Kafka.

aiokafka may wait for ever, and hides why it cannot connect. So all clients come from here, where
every wait is bounded and every failure becomes one of our errors with its true cause.

Only the modules of `publisher/kafka` call aiokafka; others use its data types at most. Facts about
it that are marked "measured" come from runs against real brokers.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import aiokafka.admin.client
import aiokafka.client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from publisher.errors import NeedsOperator, Reason, SettingsError, Stage, StepError
from publisher.kafka.client_errors import closed_door, no_broker, translated
from publisher.kafka.connect import ANSWER_SECONDS, leave_lost_brokers
from publisher.settings import Settings

CALL_SECONDS: Final = 30.0
"""Longest wait for a client to be ready, and for any call of it while nothing is being published;
aiokafka itself may wait for ever (aiokafka#1101)."""

LOGIN_SECONDS: Final = 2 * ANSWER_SECONDS
"""Longest wait for a connection that is logged in. One or two of its steps may be slow."""

NEXT_SERVER_SECONDS: Final = 0.5
"""When the servers tried so far have not let us in for so long, the next one is tried as well."""

REQUEST_MS: Final = 10_000
"""Longest wait for the answer to a request. It is longer than a cluster needs to notice that a
broker hangs (9 s by default), because until then no other broker does its work."""

LOST_BROKER_MS: Final = 2_000
"""How often a producer asks which brokers exist."""

TRANSACTION_MS: Final = 60_000
"""The broker aborts a transaction that is open for longer than this. By default brokers allow a
client to ask for up to 15 minutes."""

BATCH_BYTES: Final = 1024 * 1024
"""Largest batch before compression: as much as a topic accepts by default. Each batch costs a
client 0.2 ms of CPU."""


class Clients:
    """Makes producers, consumers and admin clients that all connect to Kafka in the same way."""

    def __init__(self, settings: Settings) -> None:
        kafka = settings.kafka
        self.compression = None if kafka.compression_type == "none" else kafka.compression_type
        self.servers = [server.strip() for server in kafka.bootstrap_servers.split(",")]
        self._security: dict[str, Any] = {"security_protocol": kafka.security_protocol}
        self.secure = kafka.security_protocol.endswith("SSL")
        """Connections use TLS."""
        if self.secure:
            self._security["ssl_context"] = _ssl_context(settings)
        if kafka.security_protocol.startswith("SASL"):
            self._security |= {
                "sasl_mechanism": kafka.sasl_mechanism,
                "sasl_plain_username": kafka.sasl_username,
                "sasl_plain_password": settings.sasl_password,
            }
        self._common = {
            **self._security,
            "bootstrap_servers": self.servers,
            "request_timeout_ms": REQUEST_MS,
            "client_id": settings.publisher.transactional_id,
            "metadata_max_age_ms": 60_000,
        }

    def producer(self, transactional_id: str) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **{**self._common, "metadata_max_age_ms": LOST_BROKER_MS},
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_MS,
        )
        leave_lost_brokers(producer.client)
        return producer

    def plain_producer(self) -> AIOKafkaProducer:
        """A producer without a transactional id: it fences no other producer."""
        return AIOKafkaProducer(**self._common, enable_idempotence=True)

    def consumer(self, isolation_level: str) -> AIOKafkaConsumer:
        """A consumer without a group, which reads a partition from its beginning."""
        return AIOKafkaConsumer(
            **self._common,
            group_id=None,
            enable_auto_commit=False,
            isolation_level=isolation_level,
            auto_offset_reset="earliest",
            # An empty partition answers after the first time; a new one is asked again after
            # the second.
            fetch_max_wait_ms=20,
            retry_backoff_ms=20,
        )

    def admin(self) -> AIOKafkaAdminClient:
        return AIOKafkaAdminClient(**self._common)

    @asynccontextmanager
    async def using(self, *clients: Any) -> AsyncIterator[None]:
        """Open the clients for the block. Failures there become Transient or NeedsOperator."""
        try:
            await at_once(*(self.start(client) for client in clients))
            yield
        except (KafkaError, OSError, TimeoutError) as error:
            raise translated(error, Stage.RESTORE) from None
        finally:
            await asyncio.gather(*(discard(client) for client in clients))

    async def start(self, client: Any) -> None:
        """Start a client within bounds. Raises Transient or NeedsOperator, with the true cause.

        If there are several servers, the client begins with the first one that lets us in;
        aiokafka would try them in turn. aiokafka always says "Unable to bootstrap" and writes the
        cause to its log only (measured), so another connection by hand finds the cause. If the
        servers name no broker at all, aiokafka fails with an assertion (measured).
        """
        try:
            if len(self.servers) > 1:
                connections(client)._bootstrap_servers = [await self._open_server()]  # noqa: SLF001
            await asyncio.wait_for(client.start(), CALL_SECONDS)
        except (KafkaError, OSError, TimeoutError, ValueError, AssertionError) as error:
            await discard(client)
            problem = translated(error, Stage.RESTORE)
            if isinstance(error, AssertionError) or problem.reason is Reason.KAFKA_UNREACHABLE:
                problem = await self._diagnosis()
            raise problem from None
        except BaseException:
            await discard(client)
            raise

    async def connect(self, server: str, seconds: float) -> AIOKafkaConnection:
        """Open a connection to this server and log in, within `seconds`.

        Raises whatever prevents it, untranslated; `closed_door` translates it.
        """
        host, port = host_and_port(server)
        async with asyncio.timeout(seconds):
            return await create_conn(
                host,
                port,
                client_id=self._common["client_id"],
                request_timeout_ms=int(seconds * 1000 / 2),
                **self._security,
            )

    async def _diagnosis(self) -> StepError:
        """Why no client could start."""
        try:
            await self._open_server()
        except StepError as error:
            return error
        return no_broker(self.servers)

    async def _open_server(self) -> str:
        """The first server that lets us in. If none does, raises the most telling cause."""
        shuffled = random.sample(self.servers, len(self.servers))
        attempts = [
            asyncio.create_task(self._enter(server, number * NEXT_SERVER_SECONDS))
            for number, server in enumerate(shuffled)
        ]
        errors: list[StepError] = []
        try:
            for attempt in asyncio.as_completed(attempts):
                try:
                    return await attempt
                except StepError as error:
                    errors.append(error)
        finally:
            for task in attempts:
                task.cancel()
        raise min(errors, key=lambda error: not isinstance(error, NeedsOperator))

    async def _enter(self, server: str, delay: float) -> str:
        """Check, after a delay, that the server lets us in. Raises Transient or NeedsOperator."""
        await asyncio.sleep(delay)
        try:
            connection = await self.connect(server, LOGIN_SECONDS)
        except Exception as error:  # of any kind: it is the cause
            raise closed_door(server, error, LOGIN_SECONDS) from None
        connection.close()
        return server


def host_and_port(server: str) -> tuple[str, int]:
    """Split an entry of KAFKA_BOOTSTRAP_SERVERS. Raises ValueError if it has no port."""
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


async def at_once(*calls: Awaitable[Any]) -> None:
    """Await all calls together. Raises the first failure, once all calls have ended."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def discard(client: Any, grace: float = 2.0) -> bool:
    """End a client within bounds, also while the broker is gone; True = it ended by itself.

    `stop()` hangs for as long as a record or a commit is pending (measured). So after `grace`
    seconds the client's sender is cancelled and its connections are closed.
    """
    end = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    stopping = asyncio.ensure_future(end())
    await asyncio.wait([stopping], timeout=grace)
    if stopping.done():
        # The exception is retrieved so that asyncio does not report it. It changes nothing.
        return stopping.cancelled() or stopping.exception() is None
    stopping.cancel()
    sender = getattr(client, "_sender", None)
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()
    await asyncio.wait([stopping, asyncio.ensure_future(connections(client).close())], timeout=1)
    return False


def connections(client: Any) -> AIOKafkaClient:
    """The inner client, which holds the connections of a producer, consumer or admin client."""
    return getattr(client, "client", None) or client._client  # noqa: SLF001 - no other way


def report_unless_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler of the event loop that ignores what aiokafka's failed batches leave.

    Once a producer is fenced, futures inside it fail that nobody can await. The futures that we
    await raise the same cause, and that is reported.
    """
    lost = context.get("message") == "Future exception was never retrieved"
    if not (lost and isinstance(context.get("exception"), KafkaError)):
        loop.default_exception_handler(context)


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    kafka = settings.kafka
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    except (OSError, ssl.SSLError):
        raise SettingsError([f"KAFKA_SSL_CAFILE: {kafka.ssl_cafile} is no PEM file"]) from None
    if kafka.ssl_certfile and kafka.ssl_keyfile:
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
        except (OSError, ssl.SSLError):
            text = (
                f"KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: {kafka.ssl_certfile} and"
                f" {kafka.ssl_keyfile} do not form a certificate and key pair (PEM, no password)"
            )
            raise SettingsError([text]) from None
    return context


def _look_without_creating() -> None:
    """Make sure that looking at a missing topic does not create it.

    Every client of aiokafka (admin, producer, consumer) allows the brokers to create a topic that
    it looks at. By Kafka's default the brokers do so, with their own settings instead of ours: a
    state topic that is not compacted, with one partition (measured).
    """
    request = partial(MetadataRequest, allow_auto_topic_creation=False)
    aiokafka.admin.client.MetadataRequest = aiokafka.client.MetadataRequest = request


_look_without_creating()

"""How clients of Kafka are made, and what their failures mean.

The only file besides its neighbours `kafka*.py` that knows aiokafka. Facts about
it ("measured") come from runs against real brokers.
"""

import asyncio
import ssl
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.consumer import fetcher
from aiokafka.errors import (
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from publisher.edges.kafka_errors import translated
from publisher.errors import Held, Reason, SettingsError, Stage, StepError, Transient
from publisher.settings import Settings

START_SECONDS: Final = 30.0
"""Longest wait for a client to be ready; aiokafka itself may wait for ever (aiokafka#1101)."""

REQUEST_MS: Final = 15_000
TRANSACTION_MS: Final = 60_000
"""The broker aborts a transaction that is open for longer; its default limit is 15 minutes."""

BATCH_BYTES: Final = 512 * 1024
"""Uncompressed; larger batches compress better and cost fewer requests."""


class Clients:
    """Makes producers, consumers and admin clients, all with the same way to Kafka."""

    def __init__(self, settings: Settings) -> None:
        told = settings.kafka
        self.servers = [part.strip() for part in told.bootstrap_servers.split(",")]
        self.compression = None if told.compression_type == "none" else told.compression_type
        self._security: dict[str, Any] = {"security_protocol": told.security_protocol}
        if told.security_protocol.endswith("SSL"):
            self._security["ssl_context"] = _ssl_context(settings)
        if told.security_protocol.startswith("SASL"):
            self._security |= {
                "sasl_mechanism": told.sasl_mechanism,
                "sasl_plain_username": told.sasl_username,
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
        return AIOKafkaProducer(
            **self._common,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_MS,
        )

    def consumer(self, isolation_level: str) -> AIOKafkaConsumer:
        """A consumer without a group, for reading a partition from its begin to its end."""
        return AIOKafkaConsumer(
            **self._common,
            group_id=None,
            enable_auto_commit=False,
            isolation_level=isolation_level,
            auto_offset_reset="none",
            fetch_max_wait_ms=100,
            # The first look-up of an unknown topic waits for it once; start-up has a second.
            retry_backoff_ms=20,
        )

    def admin(self) -> AIOKafkaAdminClient:
        return AIOKafkaAdminClient(**self._common)

    async def start(self, client: Any) -> None:
        """Start a client within bounds. Raises Transient or Held, with the true cause.

        Whatever the cause, aiokafka says "Unable to bootstrap" and tells more in
        its log only (measured): one more connection by hand finds it out.
        """
        try:
            await asyncio.wait_for(client.start(), START_SECONDS)
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            await discard(client)
            told = translated(error, Stage.RESTORE)
            if told.reason is not Reason.KAFKA_UNREACHABLE:
                raise told from None
            raise await self._diagnosis() from None
        except BaseException:
            await discard(client)
            raise

    async def _diagnosis(self) -> StepError:
        """Why no server of the list could be used: the most telling answer of them."""
        found: StepError | None = None
        for server in self.servers:
            host, _, port = server.rpartition(":")
            try:
                connection = await asyncio.wait_for(
                    create_conn(
                        host.strip("[]"), int(port), request_timeout_ms=5_000, **self._security
                    ),
                    10,
                )
            except Exception as error:  # whatever it is, it is the finding
                cause = self._cause(server, error)
                if isinstance(cause, Held):
                    return cause
                found = found or cause
            else:
                connection.close()
        return found or _failed(
            Transient,
            Reason.KAFKA_UNREACHABLE,
            f"Kafka at {', '.join(self.servers)} accepts connections but names no broker that"
            " can be reached: check KAFKA_SECURITY_PROTOCOL, and its advertised.listeners",
        )

    def _cause(self, server: str, error: BaseException) -> StepError:
        at = f"Kafka at {server}"
        match error:
            case SaslAuthenticationFailed():
                return _failed(
                    Held,
                    Reason.KAFKA_AUTHENTICATION,
                    f"{at} refuses user name or password: check KAFKA_SASL_USERNAME and"
                    " KAFKA_SASL_PASSWORD",
                )
            case UnsupportedSaslMechanismError():
                return _failed(
                    Held,
                    Reason.KAFKA_AUTHENTICATION,
                    f"{at} does not offer this mechanism: check KAFKA_SASL_MECHANISM",
                )
            case ssl.SSLCertVerificationError():
                return _failed(
                    Held,
                    Reason.KAFKA_AUTHENTICATION,
                    f"{at} shows a certificate that is not trusted ({error.verify_message}):"
                    " check KAFKA_SSL_CAFILE and the host name",
                )
            case ssl.SSLError():
                return _failed(
                    Held,
                    Reason.KAFKA_AUTHENTICATION,
                    f"{at} does not speak TLS with us: check KAFKA_SECURITY_PROTOCOL, and"
                    " whether the broker wants a client certificate",
                )
            case ConnectionRefusedError():
                return _failed(
                    Transient,
                    Reason.KAFKA_UNREACHABLE,
                    f"{at} cannot be reached (nobody listens there): check"
                    " KAFKA_BOOTSTRAP_SERVERS, and that the broker runs; its own log tells why"
                    " it ended (a full disk, for example)",
                )
            case TimeoutError():
                why = "no answer within 10 s"
            case ConnectionResetError() | ConnectionAbortedError() | EOFError():
                why = "it closes the connection: check KAFKA_SECURITY_PROTOCOL against the port"
            case OSError() if error.strerror:
                why = error.strerror
            case _:
                why = f"{type(error).__name__}: check KAFKA_SECURITY_PROTOCOL against the port"
        return _failed(
            Transient,
            Reason.KAFKA_UNREACHABLE,
            f"{at} cannot be reached ({why}): check KAFKA_BOOTSTRAP_SERVERS",
        )


async def discard(client: Any, grace: float = 2.0) -> bool:
    """End a client within bounds, also while the broker is gone; True = it ended by itself.

    `stop()` hangs for as long as a record or a commit is pending (measured), so
    after the grace its sender is cancelled and its connections are closed.
    """
    end = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    stopping = asyncio.ensure_future(end())
    done, _ = await asyncio.wait([stopping], timeout=grace)
    if done:
        # Retrieved, so that asyncio does not report it: how it ended changes nothing.
        return stopping.cancelled() or stopping.exception() is None
    stopping.cancel()
    sender = getattr(client, "_sender", None)
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()
    inner = getattr(client, "client", None) or getattr(client, "_client", None)
    if inner is not None:
        await asyncio.wait([asyncio.ensure_future(inner.close())], timeout=1)
    await asyncio.wait([stopping], timeout=1)
    return False


def _failed(kind: type[StepError], reason: Reason, text: str) -> StepError:
    return kind(Stage.RESTORE, reason, text)


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    told = settings.kafka
    try:
        context = ssl.create_default_context(cafile=told.ssl_cafile)
    except (OSError, ssl.SSLError):
        raise SettingsError([f"KAFKA_SSL_CAFILE: {told.ssl_cafile} is no PEM file"]) from None
    if told.ssl_certfile and told.ssl_keyfile:
        try:
            context.load_cert_chain(told.ssl_certfile, told.ssl_keyfile)
        except (OSError, ssl.SSLError):
            raise SettingsError(
                [
                    f"KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: {told.ssl_certfile} and"
                    f" {told.ssl_keyfile} are no certificate with its key (PEM, no password)"
                ]
            ) from None
    return context


def _tolerate_empty_control_batches() -> None:
    """Compaction may leave a control batch without records; Java's client skips it.

    aiokafka 0.14 raises "Control batch did not contain any records" for ever
    instead, which would end every restore from that partition (measured).
    """
    partition_records = fetcher.PartitionRecords
    original = partition_records._contains_abort_marker  # noqa: SLF001 - there is no other way

    def contains_abort_marker(self: Any, next_batch: Any) -> bool:
        try:
            return bool(original(self, next_batch))
        except KafkaError:
            return False

    partition_records._contains_abort_marker = contains_abort_marker  # noqa: SLF001


_tolerate_empty_control_batches()

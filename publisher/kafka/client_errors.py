"""Translates failures of Kafka clients into our errors, in words for an operator.

aiokafka's exceptions name a protocol error. An operator needs to know what to look at or to grant,
and the service needs to know whether it may try again by itself.
"""

import ssl
from collections.abc import Iterable
from typing import Final

from aiokafka.errors import (
    IllegalOperation,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from publisher.errors import NeedsOperator, OutcomeUnknown, Reason, Stage, StepError, Transient

_UNREACHABLE: Final = frozenset(
    {"KafkaConnectionError", "NodeNotReadyError", "NoBrokersAvailable", "CorrelationIdError"}
)


def translated(error: BaseException, stage: Stage) -> StepError:
    """Our error for a failure in a step that published nothing."""
    match error:
        case TransactionalIdAuthorizationFailed():
            text = (
                "Kafka forbids our transactional id: grant WRITE (and DESCRIBE) on the"
                " transactional ids that begin with PUBLISHER_TRANSACTIONAL_ID"
            )
            return NeedsOperator(stage, Reason.KAFKA_AUTHORIZATION, text)
        case TopicAuthorizationFailedError():
            topics = [str(arg) for arg in error.args if arg]
            text = (
                f"Kafka forbids the use of topic {', '.join(topics) or 'of ours'}: grant WRITE on"
                " all its topics and READ on PUBLISHER_STATE_TOPIC"
            )
            return NeedsOperator(stage, Reason.KAFKA_AUTHORIZATION, text)
        case TimeoutError() | KafkaTimeoutError():
            text = "Kafka did not answer in time: it is restarting, overloaded or cut off"
            return Transient(stage, Reason.KAFKA_TIMEOUT, text)
        case _ if isinstance(error, OSError) or type(error).__name__ in _UNREACHABLE:
            text = "Kafka cannot be reached: look whether the brokers run"
            return Transient(stage, Reason.KAFKA_UNREACHABLE, text)
        case _:
            text = f"Kafka refused ({type(error).__name__}): see the broker's log"
            return Transient(stage, Reason.KAFKA_REFUSED, text)


def outcome_unknown(error: Exception) -> OutcomeUnknown:
    """Our error for a failure in a transaction. Only the log shows whether it was committed.

    Raises `error` itself if it is not a failure of Kafka.
    """
    match error:
        case MessageSizeTooLargeError():
            text = (
                "a topic takes smaller records than we write: raise its max.message.bytes, or"
                " lower PUBLISHER_MAX_EVENT_BYTES"
            )
            return OutcomeUnknown(Reason.KAFKA_TOPIC, text, needs_person=True)
        case TimeoutError() | KafkaTimeoutError():
            text = (
                "Kafka did not take a transaction in time: it is overloaded, restarting or cut off,"
                " or its disk is full"
            )
            return OutcomeUnknown(Reason.KAFKA_TIMEOUT, text, overloaded=True)
        case ProducerFenced():
            text = (
                "Kafka has ended our transaction: it took too long, an old request arrived late, or"
                " a command took over"
            )
            return OutcomeUnknown(Reason.KAFKA_TIMEOUT, text, overloaded=True)
        case KafkaError() | IllegalOperation() | OSError():
            problem = translated(error, Stage.COMMIT)
            return OutcomeUnknown(problem.reason, str(problem), needs_person=problem.needs_person)
    raise error


def closed_door(server: str, error: BaseException, seconds: float) -> StepError:
    """Our error for a server that did not let us in; `seconds` is how long we waited at most."""
    match error:
        case SaslAuthenticationFailed():
            why = "refuses user name or password: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        case UnsupportedSaslMechanismError():
            why = "does not offer this mechanism: check KAFKA_SASL_MECHANISM"
        case ssl.SSLCertVerificationError():
            why = (
                f"shows a certificate that is not trusted ({error.verify_message}):"
                " check KAFKA_SSL_CAFILE and the host name"
            )
        case ssl.SSLError():
            why = (
                "does not speak TLS with us: check KAFKA_SECURITY_PROTOCOL, and"
                " whether the broker wants a client certificate"
            )
        case _:
            text = f"Kafka at {server} {_unreachable(error, seconds)}"
            return Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, text)
    return NeedsOperator(Stage.RESTORE, Reason.KAFKA_AUTHENTICATION, f"Kafka at {server} {why}")


def _unreachable(error: BaseException, seconds: float) -> str:
    match error:
        case ConnectionRefusedError():
            return (
                "cannot be reached (nobody listens there): check KAFKA_BOOTSTRAP_SERVERS, and that"
                " the broker runs; its own log tells why it ended (a full disk, for example)"
            )
        case TimeoutError():
            why = f"no answer within {seconds:g} s: it hangs, or a firewall drops what we send"
        case (
            ConnectionResetError() | ConnectionAbortedError() | EOFError() | KafkaConnectionError()
        ):
            why = "it closes the connection: check KAFKA_SECURITY_PROTOCOL against the port"
        case OSError() if error.strerror:
            why = error.strerror
        case ValueError():
            why = "it is not written as host:port"
        case _:
            why = f"{type(error).__name__}: check KAFKA_SECURITY_PROTOCOL against the port"
    return f"cannot be reached ({why}): check KAFKA_BOOTSTRAP_SERVERS"


def no_broker(servers: Iterable[str]) -> StepError:
    """Our error for the case that all servers let us in, and clients still find no broker."""
    return Transient(
        Stage.RESTORE,
        Reason.KAFKA_UNREACHABLE,
        f"Kafka at {', '.join(servers)} accepts connections but names no broker that"
        " can be reached: check KAFKA_SECURITY_PROTOCOL, and its advertised.listeners",
    )

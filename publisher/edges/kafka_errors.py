"""What a failure of a Kafka client means: one of our errors, in words for an operator."""

from typing import Final

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalOperation,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from publisher.errors import Held, OutcomeUnknown, Reason, Stage, StepError, Transient


def translated(error: BaseException, stage: Stage) -> StepError:
    """What a failure of a Kafka client means for a step in which nothing was published."""
    match error:
        case TransactionalIdAuthorizationFailed():
            text = (
                "Kafka forbids our transactional id: grant WRITE (and DESCRIBE) on the"
                " transactional ids that begin with PUBLISHER_TRANSACTIONAL_ID"
            )
            return Held(stage, Reason.KAFKA_AUTHORIZATION, text)
        case TopicAuthorizationFailedError():
            named = [str(arg) for arg in error.args if arg]
            text = (
                f"Kafka forbids the use of topic {', '.join(named) or 'of ours'}: grant WRITE on"
                " all three topics and READ on PUBLISHER_STATE_TOPIC"
            )
            return Held(stage, Reason.KAFKA_AUTHORIZATION, text)
        case GroupAuthorizationFailedError():
            text = "Kafka forbids our group: grant READ on the group PUBLISHER_TRANSACTIONAL_ID"
            return Held(stage, Reason.KAFKA_AUTHORIZATION, text)
        case TimeoutError():
            text = "Kafka did not answer in time: it is restarting, overloaded or cut off"
            return Transient(stage, Reason.KAFKA_TIMEOUT, text)
        case KafkaError() if type(error).__name__ in _UNREACHABLE:
            return Transient(stage, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")
        case OSError():
            return Transient(stage, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")
        case _:
            text = f"Kafka refused ({type(error).__name__}): see the broker's log"
            return Transient(stage, Reason.KAFKA_REFUSED, text)


_UNREACHABLE: Final = frozenset(
    {"KafkaConnectionError", "NodeNotReadyError", "NoBrokersAvailable", "CorrelationIdError"}
)


def outcome_unknown(error: Exception) -> OutcomeUnknown:
    """What a failure in a transaction means; whether it happened, only the log can tell."""
    if isinstance(error, MessageSizeTooLargeError):
        return OutcomeUnknown(
            Reason.KAFKA_TOPIC,
            "a topic takes smaller records than we write: raise its max.message.bytes, or lower"
            " PUBLISHER_MAX_EVENT_BYTES",
            needs_person=True,
        )
    if isinstance(error, TimeoutError | KafkaTimeoutError):
        return OutcomeUnknown(
            Reason.KAFKA_TIMEOUT,
            "Kafka did not take a transaction in time: it is overloaded, restarting or cut off,"
            " or its disk is full",
            overloaded=True,
        )
    if isinstance(error, ProducerFenced):
        return OutcomeUnknown(
            Reason.KAFKA_TIMEOUT,
            "Kafka aborted our transaction because it took too long",
            overloaded=True,
        )
    if isinstance(error, KafkaError | IllegalOperation | OSError):
        told = translated(error, Stage.COMMIT)
        return OutcomeUnknown(told.reason, str(told), needs_person=told.needs_person)
    raise error

"""The errors of the service, and the reasons that metrics and logs give for them.

The class of an error says what must happen next; its `Reason` says why it happened.

    PublisherError
    ├── SettingsError       the service stops with exit code 2; a person corrects the settings
    ├── StepError           nothing was published; the same step is tried again
    │   ├── Transient       heals by itself; the pause is short and grows
    │   ├── TooLarge        the window is narrowed, so the next request asks for less
    │   └── NeedsOperator   a person must act; the log level is error, the cursor stays
    └── StateUncertain      what we believe about the log may be wrong; it is restored first
        ├── OutcomeUnknown  the transaction may or may not have happened
        └── Fenced          another process has taken over the transactional id

Every text is for the person who reads the log: it says what happened, where, and what to do.
No text may hold a token, a password, or anything from a message.
"""

import traceback
from enum import StrEnum


class Stage(StrEnum):
    """Where a step failed. It is a metric label, hence a closed set."""

    READ = "read"
    PARSE = "parse"
    COMMIT = "commit"
    RESTORE = "restore"
    LOOP = "loop"


class Reason(StrEnum):
    """Why a step failed. It is a metric label, hence a closed set."""

    # the connection to the API
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection_lost"
    REDIRECTED = "redirected"
    # the answer of the API
    TOKEN_MISSING = "token_missing"  # noqa: S105 - a reason, no secret
    TOKEN_REFUSED = "token_refused"  # noqa: S105
    TOKEN_BUSY = "token_busy"  # noqa: S105
    QUOTA_SPENT = "quota_spent"
    FORBIDDEN = "forbidden"
    BAD_REQUEST = "bad_request"
    REPORT_MISSING = "report_missing"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TOO_LARGE = "too_large"
    NOT_UNDERSTOOD = "not_understood"
    FORMAT_CHANGED = "format_changed"
    CLOCK_SKEW = "clock_skew"
    CLOCK_AHEAD = "clock_ahead"
    ONLY_NOT_FOUND = "only_not_found"
    DATES_OFF = "dates_off"
    DATE_MISSING = "date_missing"
    # Kafka
    KAFKA_UNREACHABLE = "kafka_unreachable"
    KAFKA_TIMEOUT = "kafka_timeout"
    KAFKA_REFUSED = "kafka_refused"
    KAFKA_AUTHENTICATION = "kafka_authentication"
    KAFKA_AUTHORIZATION = "kafka_authorization"
    KAFKA_TOPIC = "kafka_topic"
    FENCED = "fenced"
    OUTCOME_UNKNOWN = "outcome_unknown"
    # the state topic
    STATE_BLOCKED = "state_blocked"
    STATE_LOST = "state_lost"
    STATE_FORMAT = "state_format"
    ZONE_CHANGED = "zone_changed"
    # the service itself
    UNEXPECTED = "unexpected"


class PublisherError(Exception):
    """The base class of all errors of the service. It is never raised itself."""

    stage: Stage
    reason: Reason
    needs_person = False
    """The error lasts until a person acts."""


class SettingsError(PublisherError):
    """Settings that cannot work. `problems` holds a line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StepError(PublisherError):
    """Nothing was published. The caller tries the same step again."""

    def __init__(
        self, stage: Stage, reason: Reason, text: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.stage = stage
        self.reason = reason
        self.retry_after = retry_after
        """Seconds that the server asked us to wait, or None."""


class Transient(StepError):  # noqa: N818 - named by what to do next
    """The fault heals by itself. The step is tried again after a short, growing pause."""


class TooLarge(StepError):  # noqa: N818
    """The window holds more than an answer or a transaction can carry. Less must be asked for."""


class NeedsOperator(StepError):  # noqa: N818
    """A person must act. Until then the cursor stays, and the step is tried at long intervals."""

    needs_person = True


class StateUncertain(PublisherError):  # noqa: N818
    """What we believe about the log may be wrong. The producer is discarded, the state restored."""

    stage = Stage.COMMIT


class OutcomeUnknown(StateUncertain):
    """The transaction may or may not have been committed. Only the log shows which."""

    def __init__(
        self, reason: Reason, text: str, *, needs_person: bool = False, overloaded: bool = False
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.needs_person = needs_person
        self.overloaded = overloaded
        """Kafka accepted the records too slowly, so the next window should be smaller."""


class Fenced(StateUncertain):
    """Another process has taken over our transactional id and has written under it."""

    reason = Reason.FENCED
    needs_person = True


def unexpected(error: Exception) -> Transient:
    """Wrap a bug of ours. It is reported by type and place only: its text may hold anything."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return Transient(
        Stage.LOOP,
        Reason.UNEXPECTED,
        f"unexpected {type(error).__name__} at {place}: please report it",
    )


def history_lost(state_topic: str) -> NeedsOperator:
    """The error for a messages topic that holds events, while the state topic holds no state."""
    return NeedsOperator(
        Stage.RESTORE,
        Reason.STATE_LOST,
        f"the state topic {state_topic} is empty, but the messages topic holds"
        " events: what was published is no longer known, and going on would publish it twice;"
        " restore the state topic from a backup, rebuild it (wolkvox-publisher state rebuild), or"
        " set PUBLISHER_MESSAGES_TOPIC to a new topic",
    )

"""The settings that exist, in three groups, with their defaults.

A group knows how its settings are named. For example, `server` of the group `wolkvox` is
`WOLKVOX_SERVER` in the environment and `server` in the tables of the file.
`docs/reference/settings.md` lists all settings.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from publisher.settings.values import (
    Ages,
    AnyCaseLower,
    AnyCaseUpper,
    Duration,
    PositiveDuration,
    Server,
    Start,
    Text,
    Topic,
    TopicOrNone,
    Url,
    Zone,
)

Say: TypeAlias = Callable[[str], str]
"""Returns how the source of a field calls it: `WOLKVOX_TOKEN`, or `operations[2].token`."""

# Our texts for the errors of pydantic. The errors of our own types have their texts already.
_TEXTS: Final = {
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_type": "must be text (in the file: in quotes)",
    "path_type": "must be a path (in the file: in quotes)",
}


class Group(BaseModel):
    """Settings with a common prefix. No error repeats a value, because it may be secret."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    prefix: ClassVar[str]

    @classmethod
    def variable(cls, name: str) -> str:
        """Return the environment variable of a setting."""
        return f"{cls.prefix}_{name}".upper()

    @classmethod
    def read(
        cls, environment: Mapping[str, str], table: Mapping[str, Any], problems: list[str]
    ) -> Self:
        """Read the group from the environment, and what is not there from the table of the file."""
        variables = {
            name: environment[variable]
            for name in cls.model_fields
            if (variable := cls.variable(name)) in environment
        }
        return cls.checked({**table, **variables}, cls.variable, problems)

    @classmethod
    def checked(cls, values: Mapping[str, Any], say: Say, problems: list[str]) -> Self:
        """Return the group, with the default in place of every refused value.

        `problems` gets a line per refused value, in which `say` names the setting. Because the
        default stands in, later checks can still report all other problems.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            mistakes = error.errors(include_url=False, include_input=False)
        problems += (f"{say(str(mistake['loc'][0]))} {_text(mistake)}" for mistake in mistakes)
        refused = {mistake["loc"][0] for mistake in mistakes}
        return cls(**{name: value for name, value in values.items() if name not in refused})


def _text(mistake: ErrorDetails) -> str:
    """Return what to write instead, without the name of the setting."""
    kind = mistake["type"]
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    if kind.startswith("int_"):
        return "must be a whole number"
    context = {name: str(value).replace("'", "") for name, value in mistake.get("ctx", {}).items()}
    return _TEXTS.get(kind, "cannot be used as it is").format_map(context)


class OperationSettings(Group):
    """An operation: a server and a token."""

    prefix = "wolkvox"
    name: str = ""
    """Names the operation for ever: ids, state and topics are made of it. The default is `wv` +
    server."""
    label: str = ""
    """What people call the operation: `source` in events, and in metrics and logs. It may change at
    any time. The default is the name."""
    server: Server | None = None
    url: Url | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    timezone: Zone = "America/Bogota"
    timezone_replaces: str = ""
    """Confirms that `timezone` replaces this wrong time zone. It holds for that change only."""


class KafkaSettings(Group):
    """How to reach Kafka."""

    prefix = "kafka"
    bootstrap_servers: Text = "localhost:9092"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], AnyCaseUpper
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], AnyCaseUpper] = (
        "PLAIN"
    )
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    compression_type: Annotated[Literal["none", "gzip", "snappy", "lz4", "zstd"], AnyCaseLower] = (
        "zstd"
    )


class PublisherSettings(Group):
    """How the service itself behaves."""

    prefix = "publisher"
    poll_every: PositiveDuration = timedelta(minutes=5)
    overlap: Duration = timedelta(minutes=15)
    max_window: PositiveDuration = timedelta(days=1)
    rereads: Ages = (
        timedelta(hours=1),
        timedelta(hours=6),
        timedelta(hours=24),
        timedelta(hours=72),
    )
    start: Start = "now"
    horizon: PositiveDuration = timedelta(days=31)
    messages_topic: Topic = "wolkvox.messages"
    dead_letters_topic: Topic = "wolkvox.messages.dead-letters"
    state_topic: Topic = "wolkvox.publisher.state"
    commands_topic: Topic = "wolkvox.publisher.commands"
    revisions_topic: TopicOrNone = ""
    """Empty = changes of messages are not published."""
    transactional_id: Text = "wolkvox-publisher"
    max_event_bytes: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    max_response_bytes: Annotated[int, Field(ge=1_000, le=268_435_456)] = 16_777_216
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 9108
    log_format: Annotated[Literal["json", "console"] | None, AnyCaseLower] = None
    """None = console rendering on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCaseLower] = "info"

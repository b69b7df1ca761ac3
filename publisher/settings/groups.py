"""The settings there are, in three groups, with their defaults.

`server` of the group `wolkvox` is `WOLKVOX_SERVER` in the environment and `server`
in the file's tables; `docs/reference/settings.md` lists them all.
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
"""How a setting is called where it was told: `WOLKVOX_TOKEN`, `operations[2].token`."""

# What pydantic finds by itself, in our words; what our own types refuse says it all.
_TEXTS: Final = {
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_type": "must be text (in the file: in quotes)",
    "path_type": "must be a path (in the file: in quotes)",
}


class Group(BaseModel):
    """Settings that stand together. No error repeats a value: it may be secret."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    prefix: ClassVar[str]

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment variable of a setting."""
        return f"{cls.prefix}_{name}".upper()

    @classmethod
    def read(
        cls, environment: Mapping[str, str], table: Mapping[str, Any], problems: list[str]
    ) -> Self:
        """What the environment says, then what the file's table does."""
        variables = {
            name: environment[variable]
            for name in cls.model_fields
            if (variable := cls.variable(name)) in environment
        }
        return cls.checked({**table, **variables}, cls.variable, problems)

    @classmethod
    def checked(cls, values: Mapping[str, Any], say: Say, problems: list[str]) -> Self:
        """The group, with the default wherever `problems` tells that a value is refused.

        So all other problems are still found.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            mistakes = error.errors(include_url=False, include_input=False)
        problems += (f"{say(str(mistake['loc'][0]))} {_text(mistake)}" for mistake in mistakes)
        refused = {mistake["loc"][0] for mistake in mistakes}
        return cls(**{name: value for name, value in values.items() if name not in refused})


def _text(mistake: ErrorDetails) -> str:
    kind = mistake["type"]
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    if kind.startswith("int_"):
        return "must be a whole number"
    context = {name: str(value).replace("'", "") for name, value in mistake.get("ctx", {}).items()}
    return _TEXTS.get(kind, "cannot be used as it is").format_map(context)


class OperationSettings(Group):
    """One operation: one server and one token."""

    prefix = "wolkvox"
    name: str = ""
    """Becomes `source` in events and part of their ids; `state rename` changes it. Default `wv` +
    server."""
    server: Server | None = None
    url: Url | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    timezone: Zone = "America/Bogota"
    timezone_replaces: str = ""
    """Confirms that `timezone` replaces this one, which was wrong; holds for that change only."""


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
    """Empty = nobody is told of changed messages."""
    transactional_id: Text = "wolkvox-publisher"
    max_event_bytes: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    max_response_bytes: Annotated[int, Field(ge=1_000, le=268_435_456)] = 16_777_216
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 9108
    log_format: Annotated[Literal["json", "console"] | None, AnyCaseLower] = None
    """None = console rendering on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCaseLower] = "info"

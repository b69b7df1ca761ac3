"""The settings there are, in three groups, with their defaults.

`wolkvox.server` here is `WOLKVOX_SERVER` in the environment and `server` in the
file's tables; the README's table lists them all.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

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
    Url,
    Zone,
)

_GROUP: Final = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class OperationSettings(BaseModel):
    """One operation: one server and one token."""

    model_config = _GROUP

    name: str = ""
    """Becomes `source` in events and part of their ids: choose once. Default `wv` + server."""
    server: Server | None = None
    url: Url | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    timezone: Zone = "America/Bogota"


class KafkaSettings(BaseModel):
    """How to reach Kafka."""

    model_config = _GROUP

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


class PublisherSettings(BaseModel):
    """How the service itself behaves."""

    model_config = _GROUP

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
    transactional_id: Text = "wolkvox-publisher"
    max_event_bytes: Annotated[int, Field(ge=1_000, le=100_000_000)] = 1_000_000
    max_response_bytes: Annotated[int, Field(ge=1_000, le=268_435_456)] = 16_777_216
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 9108
    log_format: Annotated[Literal["json", "console"] | None, AnyCaseLower] = None
    """None = console rendering on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCaseLower] = "info"

"""All settings: read once, checked together, frozen.

Sources, the first counts: environment variables, then the TOML file that
`PUBLISHER_CONFIG` names (tables `[kafka]` and `[publisher]` with the same names
in lower case without the prefix, and `[[operations]]`). Secrets may stand in
files of their own (`*_FILE`). Every problem is reported, one line each; no line
repeats a value that may be secret.

`values` says what one setting may be, `groups` which there are, `sources` reads
them; here is what they mean together.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from publisher.errors import SettingsError
from publisher.settings import sources
from publisher.settings.groups import KafkaSettings, OperationSettings, PublisherSettings
from publisher.settings.sources import Told
from publisher.settings.values import duration, duration_text, start_instant

__all__ = [
    "KafkaSettings",
    "Operation",
    "PublisherSettings",
    "Settings",
    "duration",
    "duration_text",
    "load",
    "start_instant",
]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as the service uses it, complete."""

    name: str
    url: str
    token: str = field(repr=False)
    timezone: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service was told, checked."""

    operations: tuple[Operation, ...]
    kafka: KafkaSettings
    publisher: PublisherSettings
    sasl_password: str | None = field(repr=False)
    hints: tuple[str, ...] = ()
    """What looks like a mistake but stops nothing, one line each."""

    def messages_topic(self, operation: str) -> str:
        return self.publisher.messages_topic.replace("{operation}", operation)

    def dead_letters_topic(self, operation: str) -> str:
        return self.publisher.dead_letters_topic.replace("{operation}", operation)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """All settings, from the environment and the file it names.

    Raises SettingsError with every problem found.
    """
    problems: list[str] = []
    told, complete = sources.read(environment, problems)
    if not complete:
        # What seems to be missing or contradictory may be right with the rest of the file.
        raise SettingsError(problems)
    password = _secret(
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SASL_PASSWORD_FILE",
        told.kafka.sasl_password,
        told.kafka.sasl_password_file,
        problems,
    )
    refused = {problem.partition(" ")[0] for problem in problems}
    operations = _operations(told, problems)
    # What a refused value would contradict is not known.
    problems += (
        problem
        for problem in _contradictions(told, password)
        if not any(name in problem for name in refused)
    )
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    hints = [*sources.hints(environment)]
    if any(age <= told.publisher.overlap for age in told.publisher.rereads):
        hints.append(
            "PUBLISHER_REREADS: ages within PUBLISHER_OVERLAP do nothing, because every poll"
            " reads the overlap again"
        )
    return Settings(operations, told.kafka, told.publisher, password, tuple(hints))


def _operations(told: Told, problems: list[str]) -> tuple[Operation, ...]:
    single = told.wolkvox.model_dump(exclude={"timezone", "name"}, exclude_none=True)
    if told.operations and single:
        problems.append(
            "WOLKVOX_SERVER and the like describe one operation and [[operations]] in the"
            " file describes others: keep one of the two"
        )
    zone = told.wolkvox.timezone  # also of those in the file that name none
    found = [
        operation
        for number, one in enumerate(told.operations or (told.wolkvox,), start=1)
        if (operation := _operation(one, number if told.operations else None, zone, problems))
    ]
    for what, values in (
        ("names", [operation.name for operation in found]),
        ("tokens", [operation.token for operation in found if operation.token]),
    ):
        if len(set(values)) < len(values):
            problems.append(f"operations: two of them have equal {what}: each needs its own")
    return tuple(found)


def _operation(
    told: OperationSettings, number: int | None, zone: str, problems: list[str]
) -> Operation | None:
    """One operation, or None when it is not known which; `number` is its place in the file."""

    def say(name: str) -> str:
        return f"operations[{number}].{name}" if number else sources.variable("wolkvox", name)

    def told_already(*names: str) -> bool:
        return any(p.startswith(tuple(f"{say(n)} " for n in names)) for p in problems)

    name = told.name or (f"wv{told.server}" if told.server else "")
    url = told.url or (f"https://wv{told.server}.wolkvox.com" if told.server else "")
    if told_already("server", "url", "name"):
        name = ""
    elif not told.server and not (told.url and told.name):
        name = ""
        problems.append(f"{say('server')} is missing: the four digits of wvNNNN.wolkvox.com")
    elif not _NAME.fullmatch(name):
        name = ""
        problems.append(f"{say('name')} must be letters, digits, '.', '_' and '-' only")
    count = len(problems)
    token = _secret(say("token"), say("token_file"), told.token, told.token_file, problems)
    if token is None and len(problems) == count and not told_already("token", "token_file"):
        problems.append(f"{say('token')} is missing: set it or {say('token_file')}")
    elif token is not None and not _TOKEN.fullmatch(token):
        problems.append(f"{say('token')} must be printable ASCII without spaces")
    zone = told.timezone if "timezone" in told.model_fields_set else zone
    return Operation(name, url, token or "", zone) if name else None


def _secret(
    name: str, file_name: str, value: SecretStr | None, path: Path | None, problems: list[str]
) -> str | None:
    """A secret from its setting or from its file, without surrounding white space."""
    if value is not None and path is not None:
        problems.append(f"{name} and {file_name} are both set: keep one of the two")
        return None
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            problems.append(f"{file_name}: cannot read the file {_shown(path)}: {why}")
            return None
        if not text:
            problems.append(f"{file_name}: the file {_shown(path)} is empty")
            return None
        return text
    text = value.get_secret_value().strip() if value is not None else ""
    return text or None


def _contradictions(all_told: Told, password: str | None) -> Iterator[str]:
    """What is valid one by one and cannot be meant together."""
    told, kafka = all_told.publisher, all_told.kafka
    needed = max(told.rereads, default=timedelta()) * 1.5 + told.max_window
    if told.horizon < needed:
        yield (
            f"PUBLISHER_HORIZON must be at least {duration_text(needed)} (1.5 x the longest of"
            " PUBLISHER_REREADS + PUBLISHER_MAX_WINDOW), or a re-read would publish twice"
        )
    if any(age <= timedelta() for age in told.rereads):
        yield "PUBLISHER_REREADS: an age must be longer than nothing"
    if told.max_window < timedelta(seconds=1):
        yield "PUBLISHER_MAX_WINDOW must be at least 1s, the report's resolution"
    if told.max_window > timedelta(days=31):
        yield "PUBLISHER_MAX_WINDOW must be at most 31d: the report refuses more"
    topics = {told.messages_topic, told.dead_letters_topic, told.state_topic}
    if len(topics) < 3:
        yield "PUBLISHER_*_TOPIC: messages, dead letters and state need a topic each"
    if "{operation}" in told.state_topic:
        yield "PUBLISHER_STATE_TOPIC must not hold {operation}: all operations share it"
    if kafka.security_protocol.startswith("SASL"):
        if not kafka.sasl_username:
            yield f"KAFKA_SASL_USERNAME is missing: {kafka.security_protocol} needs it"
        if password is None and kafka.sasl_password_file is None:
            yield f"KAFKA_SASL_PASSWORD is missing: {kafka.security_protocol} needs it"
    if (kafka.ssl_certfile is None) != (kafka.ssl_keyfile is None):
        yield "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE go together: set both or none"
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path: Path | None = getattr(kafka, name)
        if path is not None and not _is_file(path):
            yield f"{sources.variable('kafka', name)}: there is no file {_shown(path)}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # what was pasted there is no path at all
        return False


def _shown(path: Path) -> str:
    """The path for a log; what does not look like one may be the secret itself."""
    return str(path) if path.is_absolute() and len(str(path)) <= 200 else "of that name"

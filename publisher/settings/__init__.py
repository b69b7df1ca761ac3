"""All settings: read once, checked together, frozen.

A setting comes from an environment variable, or else from the TOML file that `PUBLISHER_CONFIG`
names. The file has the tables `[kafka]`, `[publisher]` and `[[operations]]`; its names are those
of the variables, in lower case without the prefix. A secret may stand in a file of its own
(`*_FILE`). Every problem is reported in its own line. No line repeats a value that may be secret.

`values` defines what a setting may be. `groups` defines which settings exist and how they are
read. `sources` reads the file. This module checks what the settings mean together.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from publisher.errors import SettingsError
from publisher.settings import sources
from publisher.settings.groups import (
    Group,
    KafkaSettings,
    OperationSettings,
    PublisherSettings,
    Say,
)
from publisher.settings.values import base_url, duration, duration_text, start_instant

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = [
    "NAME",
    "KafkaSettings",
    "Operation",
    "PublisherSettings",
    "Settings",
    "base_url",
    "duration",
    "duration_text",
    "load",
    "start_instant",
]

NAME: Final = re.compile(r"[\w.-]{1,100}", re.ASCII)
"""The names that an operation may have."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as the service uses it, with all defaults filled in."""

    name: str
    url: str
    token: str = field(repr=False)
    timezone: str
    timezone_replaces: str = ""
    label: str = ""
    """What people call the operation: `source` in events, and in metrics and logs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the service, after all checks."""

    operations: tuple[Operation, ...]
    kafka: KafkaSettings
    publisher: PublisherSettings
    sasl_password: str | None = field(repr=False)
    hints: tuple[str, ...] = ()
    """What looks like a mistake but stops nothing, a line per hint."""

    def messages_topic(self, operation: str) -> str:
        return self.publisher.messages_topic.replace("{operation}", operation)

    def dead_letters_topic(self, operation: str) -> str:
        return self.publisher.dead_letters_topic.replace("{operation}", operation)

    def revisions_topic(self, operation: str) -> str:
        """Return the topic for changed messages; empty = changes are not published."""
        return self.publisher.revisions_topic.replace("{operation}", operation)


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings, from the environment and the file that it names.

    Raises SettingsError with all problems.
    """
    problems: list[str] = []
    file = sources.read_file(environment, problems)
    tables = file or {}
    from_environment = OperationSettings.read(environment, {}, problems)
    kafka = KafkaSettings.read(environment, tables.get("kafka", {}), problems)
    publisher = PublisherSettings.read(environment, tables.get("publisher", {}), problems)
    from_file = []
    for number, entry in enumerate(tables.get("operations", []), start=1):
        say: Say = f"operations[{number}].{{}}".format
        values = {
            "timezone": from_environment.timezone,
            "timezone_replaces": from_environment.timezone_replaces,
            **entry,
        }
        from_file.append((OperationSettings.checked(values, say, problems), say))
    if file is None:
        # Without the file, settings may seem to be missing or contradictory that are right.
        raise SettingsError(problems)
    # The right value of a refused setting is unknown. So it counts neither as missing nor as
    # contradictory.
    refused = {problem.partition(" ")[0] for problem in problems}
    if from_file and from_environment.model_dump(
        exclude={"timezone", "timezone_replaces", "name", "label"}, exclude_none=True
    ):
        problems.append(
            "WOLKVOX_SERVER and the like describe one operation and [[operations]] in the"
            " file describes others: keep one of the two"
        )
    password = _secret(kafka, "sasl_password", kafka.variable, problems)
    operations = [
        _operation(operation, say, refused, problems)
        for operation, say in from_file or [(from_environment, from_environment.variable)]
    ]
    names = [operation.name for operation in operations]
    # Operations of one name count once: their labels say nothing more.
    labels = [*{operation.name: operation.label for operation in operations}.values()]
    tokens = [operation.token for operation in operations]
    for field_name, contents in (("name", names), ("label", labels), ("token", tokens)):
        in_use = [value for value in contents if value]
        if len(set(in_use)) < len(in_use):
            problems.append(f"operations: two of them have equal {field_name}s: each needs its own")
    problems += (
        problem
        for problem in _contradictions(publisher, kafka, password)
        if not any(name in problem for name in refused)
    )
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    hints = [*sources.hints(environment)]
    if any(age <= publisher.overlap for age in publisher.rereads):
        hints.append(
            "PUBLISHER_REREADS: ages within PUBLISHER_OVERLAP do nothing, because every poll"
            " reads the overlap again"
        )
    return Settings(tuple(operations), kafka, publisher, password, tuple(hints))


def _operation(
    group: OperationSettings, say: Say, refused: set[str], problems: list[str]
) -> Operation:
    """Return the operation of a group. Its name is empty if the settings do not determine it.

    `say` returns how the settings call a field; `refused` holds what they call the refused fields.
    """
    server_name = f"wv{group.server}"
    name = group.name or server_name
    if refused & {say("server"), say("url"), say("name")}:
        name = ""
    elif not group.server and not (group.url and group.name):
        name = ""
        problems.append(f"{say('server')} is missing: the four digits of wvNNNN.wolkvox.com")
    for field_name, value in (("name", name), ("label", group.label)):
        if value and not NAME.fullmatch(value):
            name = ""
            problems.append(f"{say(field_name)} must be letters, digits, '.', '_' and '-' only")
    token = _secret(group, "token", say, problems)
    if token is None and not refused & {say("token"), say("token_file")}:
        problems.append(f"{say('token')} is missing: set it or {say('token_file')}")
    elif token and not _TOKEN.fullmatch(token):
        problems.append(f"{say('token')} must be printable ASCII without spaces")
    url = group.url or f"https://{server_name}.wolkvox.com"
    label = group.label or name
    return Operation(name, url, token or "", group.timezone, group.timezone_replaces, label)


def _secret(group: Group, name: str, say: Say, problems: list[str]) -> str | None:
    """Return a secret from its setting or from its file, without surrounding white space.

    None = neither is set. "" = it cannot be used, and `problems` says why.
    """
    value: SecretStr | None = getattr(group, name)
    path: Path | None = getattr(group, f"{name}_file")
    if path is None:
        return (value.get_secret_value().strip() or None) if value else None
    in_file = say(f"{name}_file")
    if value is not None:
        problems.append(f"{say(name)} and {in_file} are both set: keep one of the two")
        return ""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        problems.append(f"{in_file}: cannot read the file {_shown(path)}: {error.strerror}")
    except ValueError:
        problems.append(f"{in_file}: cannot read the file {_shown(path)}: it is not text")
    else:
        if text:
            return text
        problems.append(f"{in_file}: the file {_shown(path)} is empty")
    return ""


def _contradictions(
    publisher: PublisherSettings, kafka: KafkaSettings, password: str | None
) -> Iterator[str]:
    """Yield the problems of settings that are valid alone but contradict each other."""
    min_horizon = max(publisher.rereads, default=timedelta()) * 1.5 + publisher.max_window
    if publisher.horizon < min_horizon:
        yield (
            f"PUBLISHER_HORIZON must be at least {duration_text(min_horizon)} (1.5 x the longest of"
            " PUBLISHER_REREADS + PUBLISHER_MAX_WINDOW), or a re-read would publish twice"
        )
    if any(age <= timedelta() for age in publisher.rereads):
        yield "PUBLISHER_REREADS: an age must be greater than zero"
    if publisher.max_window < timedelta(seconds=1):
        yield "PUBLISHER_MAX_WINDOW must be at least 1s, the report's resolution"
    if publisher.max_window > timedelta(days=31):
        yield "PUBLISHER_MAX_WINDOW must be at most 31d: the report refuses more"
    topics = [
        publisher.messages_topic, publisher.dead_letters_topic,
        publisher.state_topic, publisher.commands_topic,
        *filter(None, [publisher.revisions_topic]),
    ]  # fmt: skip
    if len(set(topics)) < len(topics):
        yield (
            "PUBLISHER_*_TOPIC: messages, dead letters, state, commands and revisions need a topic"
            " each"
        )
    if "{operation}" in publisher.state_topic:
        yield "PUBLISHER_STATE_TOPIC must not hold {operation}: all operations share it"
    if "{operation}" in publisher.commands_topic:
        yield "PUBLISHER_COMMANDS_TOPIC must not hold {operation}: all operations share it"
    if kafka.security_protocol.startswith("SASL"):
        if not kafka.sasl_username:
            yield f"KAFKA_SASL_USERNAME is missing: {kafka.security_protocol} needs it"
        if password is None:
            yield f"KAFKA_SASL_PASSWORD is missing: {kafka.security_protocol} needs it"
    if (kafka.ssl_certfile is None) != (kafka.ssl_keyfile is None):
        yield "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE go together: set both or none"
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path: Path | None = getattr(kafka, name)
        if path is not None and not os.path.isfile(path):  # noqa: PTH113 - accepts what is no path
            yield f"{kafka.variable(name)}: there is no file {_shown(path)}"


def _shown(path: Path) -> str:
    """Return the path for a log. What does not look like a path may be the secret itself."""
    return str(path) if path.is_absolute() and len(str(path)) <= 200 else "of that name"

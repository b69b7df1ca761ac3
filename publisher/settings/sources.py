"""Reads the environment and the file it names into the groups of settings.

Rules of this file:
- Only the mapping that was given counts, never the process's own environment.
- A value that is refused becomes one line, and its default takes its place, so
  that all other problems are still found.
- No line repeats a value or a line of the file.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from publisher.settings.groups import KafkaSettings, OperationSettings, PublisherSettings

_VARIABLES: Final[Mapping[str, type[BaseModel]]] = {
    "wolkvox": OperationSettings,
    "kafka": KafkaSettings,
    "publisher": PublisherSettings,
}
_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "kafka": KafkaSettings,
    "publisher": PublisherSettings,
    "operations": OperationSettings,
}
_CONFIG: Final = "PUBLISHER_CONFIG"

# What pydantic finds by itself, in our words; what our own types refuse says it all.
_TEXTS: Final = {
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_type": "must be text (in the file: in quotes)",
    "path_type": "must be a path (in the file: in quotes)",
}


class Told(BaseSettings):
    """What the sources say, each value checked by itself; the first source counts."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    wolkvox: OperationSettings = OperationSettings()
    kafka: KafkaSettings = KafkaSettings()
    publisher: PublisherSettings = PublisherSettings()
    operations: tuple[OperationSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Two sources: the environment that `read` was given, then the file."""
        del env_settings, dotenv_settings, file_secret_settings
        given = init_settings()
        return (
            _Variables(settings_cls, given["environment"]),
            InitSettingsSource(settings_cls, given["file"]),
        )


class _Variables(PydanticBaseSettingsSource):
    """Variables named after group and setting: `KAFKA_SSL_CAFILE` is `kafka.ssl_cafile`."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environment = environment

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """All of a group that is set."""
        del field
        model = _VARIABLES.get(field_name)
        names = {name: variable(field_name, name) for name in model.model_fields} if model else {}
        told = {
            name: self._environment[as_variable]
            for name, as_variable in names.items()
            if as_variable in self._environment
        }
        return told, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        groups = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: told for name, told in groups.items() if told}


def variable(group: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"{group}_{name}".upper()


def read(environment: Mapping[str, str], problems: list[str]) -> tuple[Told, bool]:
    """The settings, and whether all sources could be read.

    What is refused is told in `problems` and left at its default.
    """
    file = _read_file(environment.get(_CONFIG), problems)
    complete = file is not None
    file = file or {}
    try:
        return Told(environment=environment, file=file), complete  # type: ignore[call-arg]
    except ValidationError as error:
        environment = dict(environment)
        for mistake in error.errors(include_url=False, include_input=False):
            where = mistake["loc"]
            problems.append(f"{_name(where)} {_text(mistake)}")
            environment.pop(variable(str(where[0]), str(where[1])), None)
            table = file.get(str(where[0]), {})
            entry = table[int(where[1])] if isinstance(table, list) else table
            entry.pop(where[2 if isinstance(table, list) else 1], None)
        return Told(environment=environment, file=file), complete  # type: ignore[call-arg]


def hints(environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like misspelt settings (others belong to somebody else)."""
    known = {_CONFIG} | {
        variable(group, name) for group, model in _VARIABLES.items() for name in model.model_fields
    }
    for name in sorted(environment):
        if name.startswith(("WOLKVOX_", "KAFKA_", "PUBLISHER_")) and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=0.85):
                yield f"{name} is not a setting and is ignored: did you mean {meant}?"


def _read_file(path: str | None, problems: list[str]) -> dict[str, Any] | None:
    """The known tables of the file, or None when it cannot be read."""
    if not path:
        return {}
    try:
        with Path(path).open("rb") as file:
            told = tomllib.load(file)
    except (OSError, ValueError) as error:
        # The text of a TOML error names a place, or a character; never a line of the file.
        if isinstance(error, OSError):
            problems.append(f"{_CONFIG}: cannot read {path}: {error.strerror}")
        else:
            problems.append(f"{_CONFIG}: {path} is not TOML: {_place(error)}")
        return None
    found: dict[str, Any] = {}
    for table, content in told.items():
        several = table == "operations"
        if table not in _TABLES:
            names = "[kafka], [publisher] and [[operations]]"
            problems.append(f"{_CONFIG}: unknown table [{table}]: there are {names}")
            continue
        entries = content if several and isinstance(content, list) else [content]
        if several != isinstance(content, list) or not all(isinstance(e, dict) for e in entries):
            wanted = "[[operations]], once for each of them" if several else f"[{table}]"
            problems.append(f"{_CONFIG}: {table} must be written as {wanted}")
        else:
            found[table] = content
        problems += (
            f"{_CONFIG}: unknown name {name} in [{table}]"
            for entry in entries
            if isinstance(entry, dict)
            for name in sorted(entry.keys() - _TABLES[table].model_fields.keys())
        )
    # Operations that cannot be used were meant all the same: none by environment is missed.
    return None if "operations" in told and "operations" not in found else found


def _name(where: tuple[int | str, ...]) -> str:
    if where[0] == "operations":
        return f"operations[{int(where[1]) + 1}].{where[2]}"
    return variable(str(where[0]), str(where[1]))


def _text(mistake: ErrorDetails) -> str:
    kind = mistake["type"]
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    if kind.startswith("int_"):
        return "must be a whole number"
    told = {name: str(value).replace("'", "") for name, value in mistake.get("ctx", {}).items()}
    return _TEXTS.get(kind, "cannot be used as it is").format_map(told)


def _place(error: Exception) -> str:
    found = re.search(r"\(at line \d+, column \d+\)|\(at end of document\)", str(error))
    return found[0].strip("()") if found else "see its first lines"

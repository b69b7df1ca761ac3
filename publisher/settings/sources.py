"""Reads the file that the environment names, and finds misspelt environment variables.

No text of a problem or a hint repeats a value or a line of the file.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from publisher.settings.groups import Group, KafkaSettings, OperationSettings, PublisherSettings

_TABLES: Final[Mapping[str, type[Group]]] = {
    "kafka": KafkaSettings,
    "publisher": PublisherSettings,
    "operations": OperationSettings,
}
_CONFIG: Final = "PUBLISHER_CONFIG"


def hints(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield hints at variables that look like misspelt settings. Other programs own the rest."""
    names = {_CONFIG} | {
        group.variable(name) for group in _TABLES.values() for name in group.model_fields
    }
    for name in sorted(environment):
        if name.startswith(("WOLKVOX_", "KAFKA_", "PUBLISHER_")) and name not in names:
            for similar_name in get_close_matches(name, names, n=1, cutoff=0.85):
                yield f"{name} is not a setting and is ignored: did you mean {similar_name}?"


def read_file(environment: Mapping[str, str], problems: list[str]) -> dict[str, Any] | None:
    """Return the tables of the file that exist in `_TABLES`; None = the file cannot be used."""
    path = environment.get(_CONFIG)
    if not path:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        problems.append(f"{_CONFIG}: cannot read {path}: {error.strerror}")
        return None
    except ValueError as error:
        problems.append(f"{_CONFIG}: {path} is not TOML: {_place(error)}")
        return None
    tables_read: dict[str, Any] = {}
    for table, content in tables.items():
        if table not in _TABLES:
            names = "[kafka], [publisher] and [[operations]]"
            problems.append(f"{_CONFIG}: unknown table [{table}]: there are {names}")
            continue
        is_list = table == "operations"
        entries = content if is_list else [content]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            wanted = "[[operations]], once for each of them" if is_list else f"[{table}]"
            problems.append(f"{_CONFIG}: {table} must be written as {wanted}")
            continue
        tables_read[table] = content
        fields = _TABLES[table].model_fields.keys()
        problems += (
            f"{_CONFIG}: unknown name {name} in [{table}]"
            for entry in entries
            for name in sorted(entry.keys() - fields)
        )
    # A refused table of operations was still meant. So the environment need not name an operation.
    return None if "operations" in tables and "operations" not in tables_read else tables_read


def _place(error: Exception) -> str:
    """Return where the file is broken, as far as the error says. It never quotes a line of it."""
    match = re.search(r"\(at line \d+, column \d+\)|\(at end of document\)", str(error))
    return match[0].strip("()") if match else "see its first lines"

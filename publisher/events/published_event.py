"""Describes an event that is read back from the messages topic, with what its headers say.

Commands compare these events with the report, and rebuild a lost state from them.
"""

from dataclasses import dataclass
from typing import Any

from publisher.model import Instant


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """One event of the messages topic."""

    value: dict[str, Any]
    read_at: Instant
    pass_label: str
    later: bool = False
    """It was committed after the moment that the reader asked about."""
    sequence: int = -1
    """Number of the transaction that published the event."""

"""Names the release of a broker, as far as its protocol shows it.

No request returns the release. But a broker reports which levels of the feature metadata.version
it supports, and every release adds levels (KIP-584, KIP-778). Patch releases look the same.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from aiokafka.protocol.admin import ApiVersionRequest_v0
from aiokafka.protocol.api import RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_RELEASES: Final = {
    1: "3.0",
    2: "3.1",
    3: "3.2",
    4: "3.3",
    8: "3.4",
    9: "3.5",
    12: "3.6",
    15: "3.7",
    20: "3.8",
    21: "3.9",
    22: "4.0",
    26: "4.1",
    28: "4.2",
    30: "4.3",
    31: "4.4",
}
"""The first level of metadata.version that a release added, and that release."""
_LAST_LEVEL: Final = 33
"""The last level of 4.4."""
_HANGING_FROM: Final = 30
"""From this level on, see `hanging_hint`."""
_SUPPORTED_FEATURES: Final = 0
"""Tag of the answer's field that lists the features."""


class _VersionsShown(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "api_versions",
            CompactArray(
                ("api_key", Int16),
                ("min_version", Int16),
                ("max_version", Int16),
                ("tags", TaggedFields),
            ),
        ),
        ("throttle_time_ms", Int32),
        ("tags", TaggedFields),
    )


class ShowVersions(RequestStruct):  # type: ignore[misc]
    """ApiVersions version 3, the first that reports features; aiokafka implements up to 2."""

    FLEXIBLE_VERSION = True
    API_KEY = 18
    API_VERSION = 3
    RESPONSE_TYPE = _VersionsShown
    SCHEMA = Schema(
        ("client_software_name", CompactString("utf-8")),
        ("client_software_version", CompactString("utf-8")),
        ("tags", TaggedFields),
    )

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """The request in a version that the broker supports; the connection calls this to send."""
        if versions.get(self.API_KEY, (0, 0))[1] >= self.API_VERSION:
            return self
        return ApiVersionRequest_v0()

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """The answer to ApiVersions always has the old header, so that every client can read it."""
        return ResponseHeader_v0.decode(read_buffer)


def show_versions() -> ShowVersions:
    return ShowVersions("wolkvox-publisher", "1", {})


_FEATURES: Final = CompactArray(
    ("name", CompactString("utf-8")),
    ("min_version", Int16),
    ("max_version", Int16),
    ("tags", TaggedFields),
)


def metadata_level(answer: Any) -> int | None:
    """The highest level of metadata.version that the broker supports; None = it reports none."""
    tags = getattr(answer, "tags", {})
    features = _FEATURES.decode(BytesIO(tags.get(_SUPPORTED_FEATURES, b"\x01")))
    return {name: highest for name, _, highest, _ in features}.get("metadata.version")


def release(level: int | None) -> str:
    """The release of a broker whose highest metadata.version is `level`."""
    if level is None:
        return "a release before 3.0, or another product"
    if level > _LAST_LEVEL:
        return "Kafka after 4.4"
    return f"Kafka {_RELEASES[max(first for first in _RELEASES if first <= level)]}"


def hanging_hint(level: int | None) -> str | None:
    """The warning for a cluster of one broker of this level; None = there is nothing to warn of."""
    if level is None or level < _HANGING_FROM:
        return None
    return (
        f"a single node of {release(level)} that is killed may leave a transaction open for ever"
        " (seen with 4.3.1 and 4.4.0): consumers see nothing behind it, and the service is held"
        " at its next start (state_blocked); run Kafka 4.2 on a single node"
    )

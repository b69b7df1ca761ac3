"""The few raw requests of Kafka's protocol that the sandbox needs and aiokafka does not offer.

Blocking, one connection per request, old request versions without flexible fields:
enough for a broker on loopback, of no use elsewhere.
"""

import socket
import struct
from dataclasses import dataclass
from typing import Final

_METADATA: Final = 3
_INIT_PRODUCER_ID: Final = 22
_FIND_COORDINATOR: Final = 10
_DESCRIBE_ACLS: Final = 29
_CREATE_ACLS: Final = 30

_RESOURCES: Final = {"TOPIC": 2, "GROUP": 3, "CLUSTER": 4, "TRANSACTIONAL_ID": 5}
_OPERATIONS: Final = {
    "ALL": 2,
    "READ": 3,
    "WRITE": 4,
    "CREATE": 5,
    "DELETE": 6,
    "ALTER": 7,
    "DESCRIBE": 8,
    "CLUSTER_ACTION": 9,
    "DESCRIBE_CONFIGS": 10,
    "ALTER_CONFIGS": 11,
    "IDEMPOTENT_WRITE": 12,
}
_LITERAL, _PREFIXED = 3, 4
_ALLOW: Final = 3


class RefusedError(Exception):
    """The broker answered a request with an error code other than 0."""


@dataclass(frozen=True)
class Right:
    """One ACL: what `user` may do, from any host, on the resources of that name or prefix."""

    user: str
    operation: str
    resource_type: str
    name: str
    prefixed: bool

    @property
    def encoded(self) -> bytes:
        """Its fields in the order that creating and describing share."""
        return (
            struct.pack(">b", _RESOURCES[self.resource_type])
            + _text(self.name)
            + struct.pack(">b", _PREFIXED if self.prefixed else _LITERAL)
            + _text(f"User:{self.user}")
            + _text("*")
            + struct.pack(">bb", _OPERATIONS[self.operation], _ALLOW)
        )


def brokers(bootstrap: str, timeout_secs: float) -> int:
    """How many brokers the cluster's metadata names; 0 while the first one still registers.

    Raises OSError when nobody listens, or nobody answers within `timeout_secs` (per read).
    """
    return len(nodes(bootstrap, timeout_secs))


def nodes(bootstrap: str, timeout_secs: float) -> set[int]:
    """The ids of the brokers that the metadata of this one names. Raises as `brokers` does."""
    no_topics = struct.pack(">i", 0)
    answer = _call(bootstrap, _METADATA, 1, no_topics, timeout_secs)
    (count,) = struct.unpack_from(">i", answer)
    node_ids, at = set(), 4
    for _ in range(count):
        node_id, host_bytes = struct.unpack_from(">ih", answer, at)
        node_ids.add(node_id)
        at += 6 + host_bytes + 4
        (rack_bytes,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack_bytes, 0)
    return node_ids


def out_of_sync(bootstrap: str, timeout_secs: float) -> int:
    """How many partitions miss a replica or a leader, as this broker sees them. Raises OSError."""
    all_topics = struct.pack(">i", -1)
    answer = _call(bootstrap, _METADATA, 1, all_topics, timeout_secs)
    (count,) = struct.unpack_from(">i", answer)
    at = 4
    for _ in range(count):
        _node_id, host_bytes = struct.unpack_from(">ih", answer, at)
        at += 6 + host_bytes + 4
        at += 2 + max(struct.unpack_from(">h", answer, at)[0], 0)
    (topics,) = struct.unpack_from(">i", answer, at + 4)  # behind the controller's id
    at += 8
    missing = 0
    for _ in range(topics):
        _code, name_bytes = struct.unpack_from(">hh", answer, at)
        at += 4 + name_bytes + 1
        (partitions,) = struct.unpack_from(">i", answer, at)
        at += 4
        for _ in range(partitions):
            _code, _partition, leader, replicas = struct.unpack_from(">hiii", answer, at)
            at += 14 + 4 * replicas
            (in_sync,) = struct.unpack_from(">i", answer, at)
            at += 4 + 4 * in_sync
            missing += leader < 0 or in_sync < replicas
    return missing


def open_transactional_id(bootstrap: str, name: str, timeout_secs: float) -> bool:
    """Ask for a producer id, as a transactional producer does first; False = ask again."""
    find = _text(name) + b"\x01"
    found = _call(bootstrap, _FIND_COORDINATOR, 1, find, timeout_secs)
    if found[4:6] != b"\0\0":  # still creating its topic
        return False
    (text_bytes,) = struct.unpack_from(">h", found, 6)
    at = 8 + max(text_bytes, 0) + 4  # behind the error's text and the node's id
    (host_bytes,) = struct.unpack_from(">h", found, at)
    host = found[at + 2 : at + 2 + host_bytes].decode()
    (port,) = struct.unpack_from(">i", found, at + 2 + host_bytes)
    init = _text(name) + struct.pack(">i", 60_000)
    coordinator = f"{host}:{port}"
    return _call(coordinator, _INIT_PRODUCER_ID, 0, init, timeout_secs)[4:6] == b"\0\0"


def allow(bootstrap: str, right: Right, timeout_secs: float) -> None:
    """Create one ACL. The broker goes by it once `is_allowed` says so, a few ms later."""
    body = struct.pack(">i", 1) + right.encoded
    answer = _call(bootstrap, _CREATE_ACLS, 1, body, timeout_secs)
    _throttle, _count, code = struct.unpack_from(">iih", answer)
    if code:
        raise RefusedError(f"creating {right}: error {code}")


def is_allowed(bootstrap: str, right: Right, timeout_secs: float) -> bool:
    """Whether the broker's authorizer knows exactly this ACL."""
    answer = _call(bootstrap, _DESCRIBE_ACLS, 1, right.encoded, timeout_secs)
    _throttle, code, length = struct.unpack_from(">ihh", answer)
    if code:
        raise RefusedError(f"describing {right}: error {code}")
    (resources,) = struct.unpack_from(">i", answer, 8 + max(length, 0))
    return bool(resources)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def _call(bootstrap: str, key: int, version: int, body: bytes, timeout_secs: float) -> bytes:
    """Send one request to the first of these servers; the answer's body."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    header = struct.pack(">hhi", key, version, 1) + _text("sandbox")
    with socket.create_connection((host, int(port)), timeout_secs) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack(">i", _exactly(4, stream.read(4)))
            return _exactly(size, stream.read(size))[4:]  # behind the correlation id


def _exactly(size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise ConnectionResetError("the connection ended inside an answer")
    return data

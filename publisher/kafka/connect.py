"""Makes clients notice soon that a broker hangs.

The port of a broker that hangs stays open, so only a missing answer reveals it. aiokafka waits for
every answer as long as for the answer to a transaction. So a client stands still for that long
whenever it happens to choose a frozen broker for a question that every broker could answer. It
stands still again for each request to the frozen broker, although the cluster has long given that
broker's work to others.
"""

from typing import Any, Final

import aiokafka.conn
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest

ANSWER_SECONDS: Final = 5.0
"""Longest wait for a connection, for a step of its login, and for what every broker can answer."""

_EVERY_BROKER_KNOWS: Final = (FindCoordinatorRequest, MetadataRequest)


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka ships no types
    _request_timeout: float

    async def connect(self) -> Any:
        request_timeout = self._request_timeout
        self._request_timeout = min(request_timeout, ANSWER_SECONDS)
        connected = await super().connect()
        self._request_timeout = request_timeout
        return connected

    def send(self, request: Any, expect_response: bool = True) -> Any:
        request_timeout = self._request_timeout
        if isinstance(request, _EVERY_BROKER_KNOWS):
            self._request_timeout = min(request_timeout, ANSWER_SECONDS)
        try:
            return super().send(request, expect_response)
        finally:
            self._request_timeout = request_timeout


def leave_lost_brokers(client: AIOKafkaClient) -> None:
    """From now on give up the requests to a broker once the cluster no longer names it.

    The client then sends them again, to the broker that has taken over.
    """

    def close_lost(cluster: ClusterMetadata) -> None:
        for (node, _group), connection in [*client._conns.items()]:  # noqa: SLF001 - no other way
            if node != "bootstrap" and cluster.broker_metadata(node) is None:
                connection.close(CloseReason.OUT_OF_SYNC)

    client.cluster.add_listener(close_lost)


aiokafka.conn.AIOKafkaConnection = _Connection

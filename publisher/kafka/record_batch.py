"""Record batches that we encode ourselves and aiokafka only sends.

Stands in for aiokafka's `BatchBuilder`, whose methods of these names its sender
calls. The payload is compressed at once, so that a whole window waits for its
transaction in a fraction of its size.
"""

import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.util import calc_crc32c

from publisher.events.kafka_record import payloads
from publisher.model import Record

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""BaseOffset, Length, LeaderEpoch, Magic, CRC, Attributes, LastOffsetDelta, FirstTimestamp,
MaxTimestamp, ProducerId, ProducerEpoch, BaseSequence, Count (Kafka's "Record Batch")."""
_BEHIND_LENGTH: Final = struct.calcsize(">qi")
_BEHIND_CRC: Final = struct.calcsize(">qiibI")
_TRANSACTIONAL: Final = 0x10
_CODECS: Final[dict[str, tuple[int, Callable[[bytes], bytes]]]] = {
    "gzip": (1, gzip_encode),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    # Level 1 takes four fifths of the time of the usual 3, for the same size (measured).
    "zstd": (4, partial(zstd_encode, level=1)),
}


class RecordBatch:
    """Records of one partition with one timestamp, complete and compressed."""

    def __init__(self, count: int, payload: bytes, timestamp: int, compression: str | None) -> None:
        self._count = count
        self._timestamp = timestamp
        self._payload = payload
        self._attributes = _TRANSACTIONAL
        if compression is not None:
            code, encode = _CODECS[compression]
            compressed = encode(self._payload)
            if len(compressed) < len(self._payload):
                self._payload = compressed
                self._attributes |= code
        self._buffer = b""

    def record_count(self) -> int:
        return self._count

    def size(self) -> int:
        """Bytes on the wire."""
        return _HEADER.size + len(self._payload)

    def close(self) -> None:
        """Nothing can be added anyway."""

    def closed(self) -> bool:
        return True

    def _set_producer_state(self, producer_id: int, epoch: int, base_sequence: int) -> None:
        """Called when the batch is first sent; a retry sends the same bytes again."""
        values = (
            self._attributes, self._count - 1, self._timestamp, self._timestamp, producer_id,
            epoch, base_sequence, self._count,
        )  # fmt: skip
        buffer = bytearray(_HEADER.pack(0, self.size() - _BEHIND_LENGTH, -1, 2, 0, *values))
        buffer += self._payload
        crc = calc_crc32c(memoryview(buffer)[_BEHIND_CRC:])
        struct.pack_into(">I", buffer, _BEHIND_CRC - 4, crc)
        self._buffer = bytes(buffer)

    def _build(self) -> bytes:
        return self._buffer


def pack(
    records: Iterable[Record], timestamp: int, compression: str | None, limit: int
) -> list[RecordBatch]:
    """Batches of at most `limit` bytes, were they not compressed, of one partition's records.

    A record that is larger than the limit gets a batch of its own.
    """
    return [
        RecordBatch(count, payload, timestamp, compression)
        for count, payload in payloads(records, limit - _HEADER.size)
    ]

"""Record batches that we encode ourselves and aiokafka only sends.

Stands in for aiokafka's `BatchBuilder`, whose methods of these names its sender
calls. The payload is compressed at once, so that a whole window waits for its
transaction in a fraction of its size.
"""

import struct
from collections.abc import Callable
from typing import Final

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.util import calc_crc32c

from publisher.rules.wire import record

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
    "zstd": (4, zstd_encode),
}


class RecordBatch:
    """Records of one partition with one timestamp, complete and compressed."""

    def __init__(self, records: list[bytes], timestamp: int, compression: str | None) -> None:
        self._count = len(records)
        self._timestamp = timestamp
        self._payload = b"".join(records)
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


class Packer:
    """Packs the records of one partition into batches, in order."""

    def __init__(self, timestamp: int, compression: str | None, limit: int) -> None:
        self.batches: list[RecordBatch] = []
        self._open: list[bytes] = []
        self._size = 0
        self._timestamp = timestamp
        self._compression = compression
        self._limit = limit

    def append(self, key: bytes | None, value: bytes | None, headers: bytes) -> None:
        """Add a record; one that is larger than the limit gets a batch of its own."""
        encoded = record(len(self._open), key, value, headers)
        self._size += len(encoded)
        if self._size > self._limit and self._open:
            self.finish()
            encoded = record(0, key, value, headers)
            self._size = len(encoded)
        self._open.append(encoded)

    def finish(self) -> None:
        """Close the batch at hand, if there is one."""
        if self._open:
            self.batches.append(RecordBatch(self._open, self._timestamp, self._compression))
            self._open, self._size = [], 0

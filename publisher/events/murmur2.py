"""Computes Kafka's murmur2 hash, as Java's default partitioner uses it.

This is our own code, because the client's (also pure Python) works byte by byte. Ours
takes whole words at once. Source of the constants and of the sign mask:
`org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`.
"""

from struct import Struct

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_WORDS = [Struct(f"<{words}I") for words in range(16)]


def murmur2(data: bytes) -> int:
    """The non-negative hash of a key. The partition is the hash modulo the number of partitions."""
    length = len(data)
    h = _SEED ^ length
    words = length >> 2
    for k in (_WORDS[words] if words < 16 else Struct(f"<{words}I")).unpack_from(data):
        k = k * _M & _MASK  # noqa: PLW2901 - the algorithm's own naming
        h = (h * _M ^ (k ^ k >> 24) * _M) & _MASK
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return (h ^ h >> 15) & 0x7FFFFFFF

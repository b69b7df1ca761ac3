"""Gives memory back to the system after a very large answer.

C's allocator gives back only what is free at the end of its heap. A small object that was
allocated late keeps all memory before it: 185 MB stayed after a window of 200,000 rows.
"""

import asyncio
from typing import Final

from publisher.signals import Signal, WindowPublished

LARGE: Final = 50_000
"""Rows of a very large answer: they take some 50 MB of memory."""
LATER: Final = 1.0
"""Seconds to wait: by then the memory of the window itself is free."""


def watch(signal: Signal) -> None:
    """Give memory back soon after a large window; a listener (`signals.Emit`)."""
    if isinstance(signal, WindowPublished) and signal.rows >= LARGE:
        asyncio.get_running_loop().call_later(LATER, give_back)


def give_back() -> None:
    """Give back all free memory; nothing happens if the C library is not glibc."""
    import ctypes  # noqa: PLC0415 - most processes never need it

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

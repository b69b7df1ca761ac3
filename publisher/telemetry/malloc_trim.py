"""Memory goes back to the system after a very large answer.

C's allocator returns only what is free at the end of its heap. One small object that was
made late keeps everything before it: 185 MB stayed after a window of 200,000 rows.
"""

import asyncio
from typing import Final

from publisher.signals import Signal, WindowPublished

LARGE: Final = 50_000
"""Rows of an answer: some 50 MB of memory."""
LATER: Final = 1.0
"""Seconds until the window itself is forgotten."""


def watch(happened: Signal) -> None:
    """Fits `signals.Emit`."""
    if isinstance(happened, WindowPublished) and happened.rows >= LARGE:
        asyncio.get_running_loop().call_later(LATER, give_back)


def give_back() -> None:
    """Return all that is free; where the C library is not glibc, nothing happens."""
    import ctypes  # noqa: PLC0415 - most processes never need it

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

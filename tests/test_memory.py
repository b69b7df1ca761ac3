"""What a very large window took goes back; smaller ones are not worth it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from publisher.telemetry import malloc_trim
from tests.test_signals import FAILED, PUBLISHED


async def test_only_after_very_large_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(malloc_trim, "LATER", 0.0)
    monkeypatch.setattr(malloc_trim, "give_back", lambda: given.append(1))
    malloc_trim.watch(FAILED)
    malloc_trim.watch(replace(PUBLISHED, rows=malloc_trim.LARGE - 1))
    await asyncio.sleep(0)
    assert not given
    malloc_trim.watch(replace(PUBLISHED, rows=malloc_trim.LARGE))
    assert not given  # the window is still held
    for _ in range(3):
        await asyncio.sleep(0)
    assert given == [1]


def test_what_lies_below_something_that_stays_goes_back() -> None:
    """The allocator alone would keep it."""
    pieces = [bytearray(4_000) for _ in range(20_000)]
    last = bytearray(4_000)
    full = _rss_mib()
    del pieces
    kept = _rss_mib()
    malloc_trim.give_back()
    assert full - _rss_mib() > 50
    assert len(last) == 4_000
    assert kept <= full


def _rss_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

"""Children that print into a file and never outlive us, for the demo and the tests."""

import asyncio
import contextlib
import inspect
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sandbox.kafka import leash

_POLL_SECS: Final = 0.02

patience = 1.0
"""`until` waits for so many times the seconds it is given. The tests raise it: a machine that is
busy with something else makes an event late, which is no finding about what is waited for."""


class ChildError(Exception):
    """A child did not do what was expected; the text holds the end of what it printed."""


async def until(
    condition: Callable[[], Any],
    seconds: float,
    what: str = "",
    every: float = _POLL_SECS,
) -> Any:
    """The first truthy answer of `condition`, awaited if need be. Raises TimeoutError."""
    return await promptly(condition, seconds * patience, what, every)


async def promptly(
    condition: Callable[[], Any],
    seconds: float,
    what: str = "",
    every: float = _POLL_SECS,
) -> Any:
    """The same where the seconds are the promise: nothing makes them longer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(every)


class Child:
    """One command in a session of its own (a Ctrl-C at the terminal is for us, not for it).

    All it prints is appended to `log`. It is killed when this process ends, however that ends.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.began = time.time()
        with log.open("ab") as file:
            self._from = file.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=env,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout
        self.pid = int(self._process.stdout.readline() or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + the signal that ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens to one that has ended."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError, ValueError):  # it ended just now, or was killed by us
            self._process.stdin.write(f"{number.name}\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def kill(self) -> None:
        """End it at once (SIGKILL), if it still runs."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    async def ended(self, seconds: float) -> int:
        """Wait for its end; the exit code. Raises TimeoutError."""
        await promptly(lambda: self.exit_code is not None, seconds, "the end of the child")
        code = self.exit_code
        assert code is not None
        return code

    async def stop(self, seconds: float = 10) -> int:
        """End it in good order (SIGTERM), by force after so long; the exit code."""
        self.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await self.ended(seconds)
        self.kill()
        code = self.exit_code
        assert code is not None
        return code

    async def said(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until it has printed something that matches. Raises ChildError."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output)
            if match is None and self.exit_code is not None:
                match = re.search(pattern, self.output)  # its last words
                if match is None:
                    raise ChildError(f"ended with {self.exit_code}: {self.output[-2000:]}")
            return match

        try:
            match: re.Match[str] = await until(found, seconds)
        except TimeoutError:
            told = f"{pattern!r} not printed within {seconds:g} s: {self.output[-2000:]}"
            raise ChildError(told) from None
        return match

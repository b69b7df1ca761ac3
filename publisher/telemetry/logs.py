"""Writes the log: a line for every signal, and the lines of libraries.

Rules of this file:
- The level says what the reader has to do. error: a person must act. warning: unexpected,
  and recovered from. info: the life of the service, and a line per window. debug: the
  rest. No level has a line per message.
- The event is a capitalised sentence that never changes. What varies is in the fields.
- Of the lines of libraries, only sentences and names of classes come through, a level lower
  than the library's: our own lines say what it means and what to do. The texts of exceptions
  stay out, because they may hold what people wrote.
- Logging never fails, whatever is logged.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO, TypeAlias

import orjson

from publisher.signals import Signal
from publisher.telemetry.log_messages import Line, log_line

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Render: TypeAlias = Callable[[Line], str]

OURS: Final = "publisher"
REPEATED_AFTER: Final = 30.0
"""Seconds within which lines of a library with the same template are written once."""

_LOG = logging.getLogger(OURS)
_LOWERED_BY: Final = logging.WARNING - logging.INFO
_LONGEST_FOREIGN: Final = 300
_DEEPEST_PLACE: Final = 5


def configure(log_format: Literal["json", "console"] | None, level: Level) -> None:
    """Send all logging of the process to standard error, a line for every record.

    `log_format` None means "console" on a terminal, and "json" elsewhere. Warnings and uncaught
    exceptions go to the log, too.
    """
    stream = sys.stderr
    on_terminal = stream.isatty()
    console = log_format == "console" or (log_format is None and on_terminal)
    render = _console(colors=on_terminal) if console else render_json
    ours: int = getattr(logging, level.upper())
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    logging.root.handlers[:] = [Handler(stream, render, ours)]
    # Libraries log from info on: at debug, aiokafka prints every key and value.
    logging.root.setLevel(logging.INFO)
    _LOG.setLevel(ours)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable


def record(signal: Signal) -> None:
    """Log a signal; this is the listener."""
    level, event, fields = log_line(signal)
    if _LOG.isEnabledFor(level):
        _LOG.log(level, event, extra={"fields": fields})


class Handler(logging.Handler):
    """Writes every record of the process; the records of libraries by the rules of this file."""

    def __init__(
        self,
        stream: TextIO,
        render: Render,
        level: int,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._render = render
        self._lowest = level
        self._elapsed = elapsed
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}
        """When a line of a library was last written, and how often it was kept back since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record, if it has to be written. Raises nothing."""
        try:
            line = self._ours(record) if record.name == OURS else self._foreign(record)
            if line is not None:
                self._stream.write(self._render(line) + "\n")
                self._stream.flush()
        except Exception:  # there is nowhere else to report it, and the caller must go on
            self.handleError(record)

    def _ours(self, record: logging.LogRecord) -> Line:
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        return {**_head(record, record.levelno, str(record.msg)), **fields}

    def _foreign(self, record: logging.LogRecord) -> Line | None:
        level = min(record.levelno - _LOWERED_BY, logging.WARNING)
        if level < max(self._lowest, logging.DEBUG):
            return None
        event = sentence(record)
        template = str(record.msg) if record.args else event
        kept_back = self._kept_back((record.name, record.levelno, template))
        if kept_back is None:
            return None
        line = _head(record, level, event)
        line["logger"] = record.name
        if kept_back:
            line["suppressed"] = kept_back
        if record.exc_info and record.exc_info[0]:
            line |= exception(record.exc_info[0], record.exc_info[2])
        return line

    def _kept_back(self, key: tuple[str, int, str]) -> int | None:
        """How often this line was kept back since it was last written; None = keep it back now."""
        now = self._elapsed()
        since, count = self._said.get(key, (now - REPEATED_AFTER, 0))
        if now - since < REPEATED_AFTER:
            self._said[key] = since, count + 1
            return None
        if (
            len(self._said) >= 1_000
        ):  # few templates exist, unless a library formats them beforehand
            self._said.clear()
        self._said[key] = now, 0
        return count


def _head(record: logging.LogRecord, level: int, event: str) -> Line:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {
        "timestamp": moment.replace("+00:00", "Z"),
        "level": logging.getLevelName(level).lower(),
        "event": event,
    }


def sentence(record: logging.LogRecord) -> str:
    """The part of a library's message that cannot hold data, a single line at most.

    Exceptions among the arguments become the names of their classes. asyncio writes out tasks with
    their results and callbacks with their arguments: its messages are cut off before them.
    """
    text = str(record.msg)
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(_harmless(argument) for argument in arguments)
    if arguments:
        with suppress(
            TypeError, ValueError, KeyError
        ):  # the library's mistake; the template says enough
            text = text % arguments
    line = text.partition("\n")[0].strip()
    if record.name == "asyncio":
        for mark in "(<[{:'\"":
            line = line.partition(mark)[0]
    return line[:_LONGEST_FOREIGN].strip() or "Something happened"


def _harmless(argument: object) -> object:
    return type(argument).__name__ if isinstance(argument, BaseException) else argument


def exception(kind: type[BaseException], where: TracebackType | None) -> Line:
    """The class of an exception and its places, the innermost first; never its text."""
    frames = [
        f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{number}"
        for frame, number in traceback.walk_tb(where)
    ]
    return {"exception": kind.__name__, "where": frames[: -_DEEPEST_PLACE - 1 : -1]}


def render_json(line: Line) -> str:
    """The line as a JSON object without line breaks, whatever the fields hold."""
    try:
        return orjson.dumps(line, default=_named, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        pass  # for example lone surrogates, or huge numbers
    try:
        return json.dumps(line, default=_named, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({name: str(line.get(name)) for name in ("timestamp", "level", "event")})


def _named(value: object) -> str:
    return f"<{type(value).__name__}>"


def _console(*, colors: bool) -> Render:
    from structlog.dev import ConsoleRenderer  # noqa: PLC0415 - slow, and no use where logs are JSON

    renderer = ConsoleRenderer(colors=colors, sort_keys=False)
    return lambda line: str(renderer(None, "", dict(line)))


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)
        return
    fields = exception(kind, where)
    _LOG.error("Service crashed because of a bug; please report it", extra={"fields": fields})


def _unraisable(caught: "sys.UnraisableHookArgs") -> None:
    fields = exception(caught.exc_type, caught.exc_traceback)
    _LOG.warning("Bug during cleanup; please report it", extra={"fields": fields})

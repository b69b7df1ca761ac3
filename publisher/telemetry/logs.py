"""The log: one line for each signal, and what libraries have to say.

Rules of this file:
- Levels follow the reader's duty. error: somebody must act. warning: unexpected,
  and recovered from. info: life of the service, and a line per window. debug: the
  rest. Never a line per message.
- The event is a capitalised sentence that never changes; what changes is a field.
- Of what libraries log, only sentences and names of classes come through, a level
  lower than they think: our own lines say what it means and what to do. Texts of
  exceptions stay out, for they may hold what people wrote.
- Whatever is logged, logging does not fail.
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
from publisher.telemetry.log_messages import Line, told

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Render: TypeAlias = Callable[[Line], str]

OURS: Final = "publisher"
REPEATED_AFTER: Final = 30.0
"""Seconds in which a library's line with the same template comes out once."""

_LOG = logging.getLogger(OURS)
_LOWERED_BY: Final = logging.WARNING - logging.INFO
_LONGEST_FOREIGN: Final = 300
_DEEPEST_PLACE: Final = 5


def configure(log_format: Literal["json", "console"] | None, level: Level) -> None:
    """Send all logging of the process to standard error, one line each.

    JSON, or a rendering for people; None = the latter on a terminal. Also takes
    over warnings and what nobody caught.
    """
    stream = sys.stderr
    on_terminal = stream.isatty()
    console = log_format == "console" or (log_format is None and on_terminal)
    render = _console(colors=on_terminal) if console else render_json
    ours: int = getattr(logging, level.upper())
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    logging.root.handlers[:] = [Handler(stream, render, ours)]
    # Of libraries nobody asks for more: aiokafka's debug prints every key and value.
    logging.root.setLevel(logging.INFO)
    _LOG.setLevel(ours)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable


def record(signal: Signal) -> None:
    """Log what happened; the listener."""
    level, event, fields = told(signal)
    if _LOG.isEnabledFor(level):
        _LOG.log(level, event, extra={"fields": fields})


class Handler(logging.Handler):
    """Writes every record of the process; libraries' by the rules above."""

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
        """When a library last said this, and how often it was kept back since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or none. Raises nothing."""
        try:
            line = self._ours(record) if record.name == OURS else self._foreign(record)
            if line is not None:
                self._stream.write(self._render(line) + "\n")
                self._stream.flush()
        except Exception:  # nowhere is left to say it, and whoever logs must not suffer
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
        """Count how often this was kept back since it last came out; None = keep it back now."""
        now = self._elapsed()
        since, count = self._said.get(key, (now - REPEATED_AFTER, 0))
        if now - since < REPEATED_AFTER:
            self._said[key] = since, count + 1
            return None
        if len(self._said) >= 1_000:  # templates are few, unless somebody formats them beforehand
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
    """Say what a library said, as far as it cannot hold data: a line at most.

    Exceptions among the arguments become their class; of asyncio, which writes
    out tasks with their results and callbacks with their arguments, only what
    stands before such things.
    """
    text = str(record.msg)
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(_harmless(argument) for argument in arguments)
    if arguments:
        with suppress(TypeError, ValueError, KeyError):  # its mistake; the template says enough
            text = text % arguments
    line = text.partition("\n")[0].strip()
    if record.name == "asyncio":
        for mark in "(<[{:'\"":
            line = line.partition(mark)[0]
    return line[:_LONGEST_FOREIGN].strip() or "Something happened"


def _harmless(argument: object) -> object:
    return type(argument).__name__ if isinstance(argument, BaseException) else argument


def exception(kind: type[BaseException], where: TracebackType | None) -> Line:
    """Tell class and place of an exception, innermost place first; never its text."""
    frames = [
        f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{number}"
        for frame, number in traceback.walk_tb(where)
    ]
    return {"exception": kind.__name__, "where": frames[: -_DEEPEST_PLACE - 1 : -1]}


def render_json(line: Line) -> str:
    """Write one JSON object without line breaks, whatever the fields hold."""
    try:
        return orjson.dumps(line, default=_named, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        pass  # lone surrogates, huge numbers
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

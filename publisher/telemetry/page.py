"""Renders the page for people at `/`: how far every operation is, and what is wrong.

The page is self-contained: it has no script, and loads no font and no image. All times are UTC.
"""

from collections.abc import Collection
from datetime import UTC
from html import escape
from typing import Final

from publisher.model import Instant
from publisher.signals import WindowPublished
from publisher.state.checkpoint import LIVE
from publisher.telemetry.current_status import Status
from publisher.telemetry.operation_status import OperationStatus, Standing

REFRESH_SECONDS: Final = 5
_UNKNOWN: Final = "&ndash;"
_NOT_KNOWN: Final = "not known yet"
_GAPS_SHOWN: Final = 5
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_STYLE: Final = """
:root { color-scheme: light dark;
  --paper: #f6f7f9; --card: #fff; --ink: #16202c; --soft: #5d6b7a; --line: #e2e6eb;
  --good: #12734a; --good-bg: #e3f4eb; --wait: #85580a; --wait-bg: #fcf1d8;
  --bad: #a92a22; --bad-bg: #fce8e6; --calm: #36516e; --calm-bg: #e6edf5; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #10151b; --card: #181f27; --ink: #e6ebf0; --soft: #94a2b1; --line: #2a343f;
  --good: #6fd3a3; --good-bg: #143427; --wait: #edbf64; --wait-bg: #3a2d10;
  --bad: #ff9c93; --bad-bg: #431c19; --calm: #a3c2e2; --calm-bg: #1f2f40; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.5rem 2rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem;
  margin-bottom: 1.75rem; }
h1 { margin: 0; font-size: 1.5rem; letter-spacing: -.015em; }
h2 { margin: 0; font-size: 1.1rem; overflow-wrap: anywhere; }
header p, footer { color: var(--soft); font-size: .875rem; margin: 0; }
header p:last-child { margin-left: auto; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  margin-bottom: 1.25rem; overflow: hidden; }
.top { display: flex; flex-wrap: wrap; align-items: center; gap: .75rem; padding: 1rem 1.5rem;
  border-bottom: 1px solid var(--line); }
.state { font-size: .8125rem; font-weight: 600; padding: .15rem .7rem; border-radius: 1rem; }
.good { color: var(--good); background: var(--good-bg); }
.wait { color: var(--wait); background: var(--wait-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.calm { color: var(--calm); background: var(--calm-bg); }
.facts { display: grid; grid-template-columns: 13rem 1fr; gap: 1.5rem 2.5rem;
  padding: 1.25rem 1.5rem 1.4rem; }
.lag b { display: block; font-size: 2rem; line-height: 1.2; font-weight: 650;
  letter-spacing: -.025em; }
dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem;
  align-items: baseline; }
dt, .label { color: var(--soft); font-size: .875rem; }
dd { margin: 0; }
small { color: var(--soft); font-size: .875rem; }
.problem { margin: 0; padding: .8rem 1.5rem; font-size: .9375rem; overflow-wrap: anywhere; }
.problem span { display: block; font-size: .8125rem; opacity: .85; }
.past { border-top: 1px solid var(--line); color: var(--soft); }
aside { border-radius: .75rem; padding: .8rem 1.5rem; margin-bottom: 1.25rem;
  overflow-wrap: anywhere; }
footer { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .5rem 0; }
footer span { margin-left: auto; }
a { color: var(--calm); text-underline-offset: .2em; }
@media (max-width: 44rem) {
  .facts, dl { grid-template-columns: 1fr; } dl { gap: 0; } dd { margin-bottom: .6rem; }
  header p:last-child, footer span { margin-left: 0; } }
"""

_WORDS: Final = {
    Standing.HANGING: ("Hangs", "bad"),
    Standing.STOPPING: ("Stopping", "calm"),
    Standing.NEEDS_PERSON: ("Needs a person", "bad"),
    Standing.RETRYING: ("Trying again", "wait"),
    Standing.RESTORING: ("Restoring its state", "calm"),
    Standing.STARTING: ("Starting", "calm"),
    Standing.INCOMPLETE: ("Data missing", "wait"),
    Standing.PUBLISHING: ("Publishing", "good"),
}


def render(status: Status, overdue: Collection[str], now: Instant) -> str:
    """The HTML of the whole page, as of `now`.

    `overdue` holds the names of the operations whose loop hangs.
    """
    articles = "".join(
        _operation(operation, now, hangs=operation.name in overdue, stopping=status.stopping)
        for operation in status.operations.values()
    )
    hints = "".join(f'<aside class="wait">{escape(hint)}</aside>' for hint in status.hints)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}">
<title>Wolkvox publisher</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Wolkvox publisher</h1>
<p>{escape(status.version)}, running for {duration((now - status.started_at).total_seconds())}</p>
<p>{_moment(now)} UTC</p>
</header>
<main>
{articles}{hints}</main>
<footer>
<a href="/status">/status</a><a href="/metrics">/metrics</a>
<a href="/healthz">/healthz</a><a href="/readyz">/readyz</a>
<span>All times are UTC. This page renews itself every {REFRESH_SECONDS} seconds.</span>
</footer>
</body>
</html>
"""


def _operation(operation: OperationStatus, now: Instant, *, hangs: bool, stopping: bool) -> str:
    word, tone = _WORDS[operation.standing(now, hangs=hangs, stopping=stopping)]
    lag = operation.lag_seconds(now)
    behind = _NOT_KNOWN if lag is None else duration(lag)
    rows = [
        ("Covered until", _moment(operation.covered_until)),
        ("Final up to", _moment(operation.cursor)),
        ("Last window", _window(operation.window, now)),
        ("Published", f"{operation.published:,} <small>since the start of this process</small>"),
        ("Remembered ids", f"{operation.ledger_ids:,}" if lag is not None else _UNKNOWN),
        ("Passes behind", _passes(operation, now)),
        ("Parked", _gaps(operation)),
    ]
    if any(backfill.active for backfill in operation.backfills):
        rows.append(("Backfills", _backfills(operation)))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows)
    return f"""<article>
<div class="top"><h2>{escape(operation.name)}</h2><span class="state {tone}">{word}</span></div>
{_problem(operation, now)}{_missing(operation, now)}<div class="facts">
<div class="lag"><span class="label">Behind now</span><b>{behind}</b></div>
<dl>
{facts}</dl>
</div>
{_past_problem(operation, now)}</article>
"""


def _problem(operation: OperationStatus, now: Instant) -> str:
    failure = operation.failure
    if not (operation.failing and failure):
        return ""
    wait = operation.retry_in_seconds(now)
    again = f"next attempt in {duration(wait)}" if wait >= 1 else "trying now"
    tone = "bad" if failure.needs_person else "wait"
    text = escape(failure.text[:1].upper() + failure.text[1:])
    attempts = f"failed {failure.attempt} times" if failure.attempt > 1 else "failed once"
    return (
        f'<p class="problem {tone}">{text}'
        f"<span>{failure.stage} / {failure.reason}, {attempts}, {again}</span></p>\n"
    )


def _missing(operation: OperationStatus, now: Instant) -> str:
    lines = operation.missing(now) if operation.covered_until else []
    text = "<br>".join(escape(line[:1].upper() + line[1:]) for line in lines)
    return f'<p class="problem wait">{text}</p>\n' if lines else ""


def _passes(operation: OperationStatus, now: Instant) -> str:
    """How far every re-read is behind the distance that it keeps."""
    lags = operation.pass_lags(now)
    if not lags:
        return _NOT_KNOWN
    shown = [
        f"{escape(name)} {duration(seconds)}"
        for name, seconds in lags.items()
        if name in operation.rhythms and name != LIVE
    ]
    return ", ".join(shown) or "no re-reads"


def _past_problem(operation: OperationStatus, now: Instant) -> str:
    failure = operation.failure
    if operation.failing or not failure or not operation.failed_at:
        return ""
    ago = duration((now - operation.failed_at).total_seconds())
    return (
        f'<p class="problem past">Last problem, {ago} ago, solved: {escape(failure.text)}'
        f"<span>{failure.stage} / {failure.reason}</span></p>\n"
    )


def _window(window: WindowPublished | None, now: Instant) -> str:
    if window is None:
        return _UNKNOWN
    start, end = _moment(window.window.start), _moment(window.window.end)
    if start[:10] == end[:10]:
        end = end[11:]
    counts = f"{window.rows:,} rows: {window.new:,} new, {window.duplicate:,} known before"
    rejected = sum(window.rejected.values())
    if rejected:
        counts += f", {rejected:,} to the dead letters"
    ago = duration((now - window.committed_at).total_seconds())
    return (
        f"{start} &ndash; {end}<br><small>{escape(window.pass_label)}, {ago} ago; {counts}</small>"
    )


def _gaps(operation: OperationStatus) -> str:
    if operation.covered_until is None:
        return _NOT_KNOWN
    if not operation.gaps:
        return "nothing"
    shown = operation.gaps[-_GAPS_SHOWN:]
    lines = [f"{_moment(gap.start)} &ndash; {_moment(gap.end)}" for gap in shown]
    if len(shown) < len(operation.gaps):
        lines.insert(0, f"{len(operation.gaps)} windows, the last of them:")
    return (
        "<br>".join(lines)
        + f"<br><small>{duration(operation.gap_seconds)} that could not be read; it is tried"
        " again at low priority</small>"
    )


def _backfills(operation: OperationStatus) -> str:
    lines = [
        f"{escape(backfill.id)}: {_moment(backfill.start)} &ndash; {_moment(backfill.end)}"
        f"<br><small>{backfill.standing}, read until {_moment(backfill.cursor)};"
        f" {backfill.rows:,} rows, {backfill.new:,} new</small>"
        for backfill in operation.backfills
        if backfill.active
    ]
    return "<br>".join(lines)


def duration(seconds: float) -> str:
    """The text of a duration, in its two largest units; fractions of a second are dropped."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}\N{NO-BREAK SPACE}{name}")
    return " ".join(part for part in parts[:2] if part[0] != "0") or "0\N{NO-BREAK SPACE}s"


def _moment(instant: Instant | None) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if instant else _UNKNOWN

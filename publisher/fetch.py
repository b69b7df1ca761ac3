"""Asks for the window of a step and classifies the answer.

A usable answer is returned. Every other answer becomes an error that says what to do: wait, ask
for less, or call a person. An answer shows more than its rows: its date, the quota, a record count
that cannot be true. `LoopState` remembers these facts, and signals report them.
"""

import asyncio
from typing import Final

from publisher.context import LoopState, OperationContext
from publisher.errors import NeedsOperator, Reason, Stage, StepError, TooLarge, Transient
from publisher.model import Answer, Instant, iso
from publisher.schedule import quota
from publisher.schedule.passes import NARROWEST, Read
from publisher.schedule.silence import SILENT_POLLS
from publisher.signals import DateMissing, HintGiven, NothingFound, QuotaTold, RequestAnswered
from publisher.state.checkpoint import LIVE
from publisher.wolkvox import responses
from publisher.wolkvox.damage import examine
from publisher.wolkvox.request import SURE_REQUEST, reaches_beyond, request_for
from publisher.wolkvox.responses import Classification, Verdict
from publisher.wolkvox.server_clock import LARGEST, UNDATED_POLLS, too_large

AGAIN_AFTER: Final = 2.0
"""Seconds before the window of a damaged answer is asked for again."""
QUOTA_LIMIT: Final = 1.0
"""Seconds that a question about the quota may take, even if another request is due sooner."""


class Undecodable(Transient):
    """The narrowest window returned the same bytes twice, and no decoder reads them."""

    def __init__(self, text: str, answer: Answer) -> None:
        super().__init__(Stage.READ, Reason.NOT_UNDERSTOOD, text)
        self.answer = answer


async def ask(
    context: OperationContext, loop_state: LoopState, step: Read, now: Instant
) -> tuple[Answer, Classification]:
    """Return the answer for the window of a step. Raises StepError if it cannot be used.

    `now` is the server's time, as far as we know it. The request asks for nothing later.
    """
    narrowest = step.window.width <= NARROWEST
    answer, classification = await _answer(context, loop_state, step, now)
    if classification.verdict is Verdict.NOT_UNDERSTOOD:
        first_examined = examine(answer)
        if first_examined is not None and (first_examined.readable or narrowest):
            await context.clock.sleep(min(AGAIN_AFTER, context.settings.poll_every.total_seconds()))
            del answer
            answer, classification = await _answer(context, loop_state, step, now)
            if classification.verdict is Verdict.NOT_UNDERSTOOD:
                examined = examine(answer)
                if examined is not None and examined.confirms(first_examined):
                    classification = _counted(context, loop_state, step, examined.classification)
                    if not examined.readable:
                        raise Undecodable(classification.text, answer)
    date = responses.server_time(answer)
    match classification.verdict:
        case Verdict.EMPTY if date and reaches_beyond(step.window, now, date):
            loop_state.server.correct(date, answer.received_at)
            raise Transient(
                Stage.READ,
                Reason.CLOCK_AHEAD,
                "no rows, but a part of the window lies in the server's future, which it may"
                " refuse: our clock was ahead; it is asked again up to the server's own time",
            )
        case Verdict.EMPTY if step.window.width > SURE_REQUEST < loop_state.longest:
            loop_state.longest = SURE_REQUEST
            raise TooLarge(
                Stage.READ,
                Reason.TOO_LARGE,
                "no rows in nearly 31 days may be a refusal: less is asked for from now on",
            )
        case Verdict.USE | Verdict.EMPTY:
            return answer, classification
        case Verdict.TOO_LARGE if narrowest and classification.data:
            return answer, classification
        case Verdict.TOO_LARGE:
            raise TooLarge(Stage.READ, Reason.TOO_LARGE, classification.text)
        case Verdict.HOLD:
            raise _error(NeedsOperator, classification)
        case Verdict.WAIT | Verdict.NOT_UNDERSTOOD:
            raise _error(Transient, classification)


def share_wait(context: OperationContext, loop_state: LoopState, step: Read | None = None) -> float:
    """Return the seconds that a request must wait for the hour's share of the quota.

    It is the request of `step`, or without a step any request but a poll of live. A hint is given
    when the share has just been used up.
    """
    now = context.clock.elapsed()
    if loop_state.quota.runs_short(now):
        context.emit(
            HintGiven(
                f"operation {context.operation} has used up the hour's share of its quota"
                f" ({loop_state.quota.hour.size:.0f} at once): live asks once a poll,"
                f" all else once in {loop_state.quota.hour.fill:.0f} s, until less is asked for",
                context.operation,
            )
        )
    return loop_state.quota.wait(now, live=step is not None and step.pass_.label == LIVE)


async def _answer(
    context: OperationContext, loop_state: LoopState, step: Read, now: Instant
) -> tuple[Answer, Classification]:
    """Ask once, and note what the answer shows besides its rows."""
    narrowest = step.window.width <= NARROWEST
    max_bytes = responses.MAX_BYTES if narrowest else context.settings.max_response_bytes
    loop_state.quota.asking(context.clock.elapsed(), live=step.pass_.label == LIVE)
    try:
        answer = await context.source.read(request_for(step.window, context.zone, max_bytes, now))
    except StepError:
        share = loop_state.quota.share
        context.emit(RequestAnswered(context.operation, "failed", 0.0, 0, None, hour_share=share))
        raise
    classification = _counted(context, loop_state, step, responses.classify(answer))
    date = responses.server_time(answer)
    skew = loop_state.server.observe(date, answer.received_at) if date else None
    context.emit(
        RequestAnswered(
            context.operation,
            classification.verdict,
            answer.took,
            len(answer.body),
            skew.total_seconds() if skew is not None else None,
            clock_refused=skew is not None and abs(skew) > LARGEST,
            hour_share=loop_state.quota.share,
        )
    )
    # An answer without a date that is no report may come from a proxy, which shows nothing.
    if date or classification.verdict in (Verdict.USE, Verdict.EMPTY):
        _notice_dates(context, loop_state, dated=date is not None)
    _notice_404s(context, loop_state, classification)
    _notice_rows(context, loop_state, classification)
    loop_state.quota.counted(spent=classification.reason is Reason.QUOTA_SPENT)
    if skew is not None and abs(skew) > LARGEST:
        raise NeedsOperator(Stage.READ, Reason.CLOCK_SKEW, too_large(skew))
    return answer, classification


async def ask_quota(context: OperationContext, loop_state: LoopState, spare_seconds: float) -> None:
    """Ask how much of the daily quota is used. A server that does not answer disturbs nothing.

    `spare_seconds`: the time until the next request is due. The question delays that request by a
    second at most. Then it is cancelled, because two requests must never be in flight.
    """
    ends_at = context.clock.elapsed() + max(spare_seconds, QUOTA_LIMIT)
    loop_state.quota.asking(context.clock.elapsed(), live=False)
    question = asyncio.ensure_future(context.source.token_info())
    numbers, busy_seconds = None, 0.0
    try:
        await context.wait(question, ends_at - context.clock.elapsed())
        if question.done():
            numbers = quota.told_by(question.result())
    except StepError as error:
        busy_seconds = error.retry_after or 0.0
    finally:
        question.cancel()
        await asyncio.wait([question])  # until then it may still be in flight
    loop_state.quota.asked(loop_state.server.now(context.clock.now()), numbers)
    if numbers is not None:
        used, limit = numbers
        context.emit(QuotaTold(context.operation, used, limit))
    # The server may still work on the question, and it refuses a second request meanwhile.
    await context.clock.sleep(max(0.0, min(busy_seconds, ends_at - context.clock.elapsed())))


def _counted(
    context: OperationContext, loop_state: LoopState, step: Read, classification: Classification
) -> Classification:
    """Return the classification, corrected by what we know about the report's record counter.

    When the counter is first proven to lie, a hint says so, once.
    """
    was_trusted = loop_state.counts.largest is None
    classification = loop_state.counts.settled(step.pass_.name, step.window, classification)
    if was_trusted and loop_state.counts.largest and not loop_state.counter_told:
        loop_state.counter_told = True
        context.emit(
            HintGiven(
                f"operation {context.operation}: answers say that they found more records"
                " than they hold, at any width: that number is not believed any more",
                context.operation,
            )
        )
    return classification


def _notice_404s(
    context: OperationContext, loop_state: LoopState, classification: Classification
) -> None:
    """Report a run of 404s that is implausibly long: the server may lack the report."""
    if not classification.not_found:
        loop_state.only_404_since = None
        return
    now = context.clock.now()
    loop_state.only_404_since = loop_state.only_404_since or now
    if now - loop_state.only_404_since >= context.settings.poll_every * SILENT_POLLS:
        context.emit(NothingFound(context.operation, loop_state.only_404_since))
        loop_state.only_404_since = now


def _notice_rows(
    context: OperationContext, loop_state: LoopState, classification: Classification
) -> None:
    """Hint at an operation that never showed a row: its zone may be wrong, or its server."""
    has_rows = bool(classification.data) or (
        loop_state.state is not None and len(loop_state.state.ledger) > 0
    )
    now, poll_every = context.clock.now(), context.settings.poll_every
    since = loop_state.punctuality.never_a_row(now, poll_every, seen=has_rows)
    if since:
        context.emit(
            HintGiven(
                f"operation {context.operation} has not shown one row since {iso(since)}: either"
                f" nobody writes, or its zone {context.zone.name} or its server is wrong;"
                " wolkvox-publisher check compares",
                context.operation,
            )
        )


def _notice_dates(context: OperationContext, loop_state: LoopState, *, dated: bool) -> None:
    """Report that answers have lacked a date for long, so the server's clock is unknown."""
    patience = context.settings.poll_every * UNDATED_POLLS
    since = loop_state.server.undated(context.clock.now(), usable=dated, patience=patience)
    if since:
        context.emit(DateMissing(context.operation, since))


def _error(kind: type[StepError], classification: Classification) -> StepError:
    """Return an error of this class with the text and the reason of the classification."""
    reason = classification.reason or Reason.NOT_UNDERSTOOD
    return kind(Stage.READ, reason, classification.text, retry_after=classification.retry_after)

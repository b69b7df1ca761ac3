"""Ask for one window and judge the answer: what can be used comes back, the rest is raised."""

import asyncio
from typing import Final

from publisher.context import Job, Memory
from publisher.errors import Held, Reason, Stage, StepError, TooLarge, Transient
from publisher.model import Answer, Instant, iso
from publisher.schedule import quota
from publisher.schedule.passes import NARROWEST, Read
from publisher.schedule.silence import SILENT_POLLS
from publisher.signals import DateMissing, HintGiven, NothingFound, QuotaTold, RequestAnswered
from publisher.state.checkpoint import LIVE
from publisher.wolkvox import responses
from publisher.wolkvox.damage import examine
from publisher.wolkvox.request import SURE_REQUEST, reaches_beyond, request_for
from publisher.wolkvox.responses import Judgement, Verdict
from publisher.wolkvox.server_clock import LARGEST, UNDATED_POLLS, too_large

AGAIN_AFTER: Final = 2.0
"""Seconds until a damaged answer is asked for again."""
QUOTA_LIMIT: Final = 1.0
"""Seconds for a question about the quota, even where another request is due sooner."""


class Undecodable(Transient):
    """The narrowest window has brought the same bytes twice, and no decoder reads them."""

    def __init__(self, text: str, answer: Answer) -> None:
        super().__init__(Stage.READ, Reason.NOT_UNDERSTOOD, text)
        self.answer = answer


async def ask(job: Job, memory: Memory, step: Read, now: Instant) -> tuple[Answer, Judgement]:
    """The answer for a step's window, if it can be used; raises what must be done otherwise.

    `now` is the server's time, as far as we know it: nothing later is asked for.
    """
    narrowest = step.window.width <= NARROWEST
    answer, judgement = await _answer(job, memory, step, now)
    if judgement.verdict is Verdict.NOT_UNDERSTOOD:
        first = examine(answer)
        if first is not None and (first.readable or narrowest):
            await job.clock.sleep(min(AGAIN_AFTER, job.settings.poll_every.total_seconds()))
            del answer
            answer, judgement = await _answer(job, memory, step, now)
            if judgement.verdict is Verdict.NOT_UNDERSTOOD:
                second = examine(answer)
                if second is not None and second.confirms(first):
                    judgement = _counted(job, memory, step, second.judgement)
                    if not second.readable:
                        raise Undecodable(judgement.text, answer)
    date = responses.server_time(answer)
    match judgement.verdict:
        case Verdict.EMPTY if date and reaches_beyond(step.window, now, date):
            memory.server.correct(date, answer.received_at)
            raise Transient(
                Stage.READ,
                Reason.CLOCK_AHEAD,
                "no rows, but a part of the window lies in the server's future, which it may"
                " refuse: our clock was ahead; it is asked again up to the server's own time",
            )
        case Verdict.EMPTY if step.window.width > SURE_REQUEST < memory.longest:
            memory.longest = SURE_REQUEST
            raise TooLarge(
                Stage.READ,
                Reason.TOO_LARGE,
                "no rows in nearly 31 days may be a refusal: less is asked for from now on",
            )
        case Verdict.USE | Verdict.EMPTY:
            return answer, judgement
        case Verdict.TOO_LARGE if narrowest and judgement.data:
            return answer, judgement
        case Verdict.TOO_LARGE:
            raise TooLarge(Stage.READ, Reason.TOO_LARGE, judgement.text)
        case Verdict.HOLD:
            raise _error(Held, judgement)
        case Verdict.WAIT | Verdict.NOT_UNDERSTOOD:
            raise _error(Transient, judgement)


def share_wait(job: Job, memory: Memory, step: Read | None = None) -> float:
    """Seconds that the hour's share of the quota makes the step's request wait, or any other."""
    now = job.clock.elapsed()
    if memory.quota.runs_short(now):
        job.emit(
            HintGiven(
                f"operation {job.operation} has used up the hour's share of its quota"
                f" ({memory.quota.hour.size:.0f} at once): live asks once a poll,"
                f" all else once in {memory.quota.hour.fill:.0f} s, until less is asked for",
                job.operation,
            )
        )
    return memory.quota.wait(now, live=step is not None and step.pass_.label == LIVE)


async def _answer(job: Job, memory: Memory, step: Read, now: Instant) -> tuple[Answer, Judgement]:
    """Ask once, and notice what the answer says besides its rows."""
    narrowest = step.window.width <= NARROWEST
    budget = responses.MAX_BYTES if narrowest else job.settings.max_response_bytes
    memory.quota.asking(job.clock.elapsed(), live=step.pass_.label == LIVE)
    try:
        answer = await job.source.read(request_for(step.window, job.zone, budget, now))
    except StepError:
        share = memory.quota.share
        job.emit(RequestAnswered(job.operation, "failed", 0.0, 0, None, hour_share=share))
        raise
    judgement = _counted(job, memory, step, responses.judge(answer))
    date = responses.server_time(answer)
    skew = memory.server.observe(date, answer.received_at) if date else None
    job.emit(
        RequestAnswered(
            job.operation,
            judgement.verdict,
            answer.took,
            len(answer.body),
            skew.total_seconds() if skew is not None else None,
            clock_refused=skew is not None and abs(skew) > LARGEST,
            hour_share=memory.quota.share,
        )
    )
    if date or judgement.verdict in (
        Verdict.USE,
        Verdict.EMPTY,
    ):  # a proxy's own answer says nothing
        _notice_dates(job, memory, dated=date is not None)
    _notice_404s(job, memory, judgement)
    _notice_rows(job, memory, judgement)
    memory.quota.counted(spent=judgement.reason is Reason.QUOTA_SPENT)
    if skew is not None and abs(skew) > LARGEST:
        raise Held(Stage.READ, Reason.CLOCK_SKEW, too_large(skew))
    return answer, judgement


async def ask_quota(job: Job, memory: Memory, spare_seconds: float) -> None:
    """Ask how much of the daily quota is used; a server that does not answer disturbs nothing.

    `spare_seconds`: until another request is due. It is not delayed by more than a second: the
    question is given up then, because two requests must never be in flight.
    """
    ends_at = job.clock.elapsed() + max(spare_seconds, QUOTA_LIMIT)
    memory.quota.asking(job.clock.elapsed(), live=False)
    question = asyncio.ensure_future(job.source.token_info())
    numbers, busy = None, 0.0
    try:
        await job.wait(question, ends_at - job.clock.elapsed())
        if question.done():
            numbers = quota.told_by(question.result())
    except StepError as error:
        busy = error.retry_after or 0.0
    finally:
        question.cancel()
        await asyncio.wait([question])  # only then it is no longer on the wire
    memory.quota.asked(memory.server.now(job.clock.now()), numbers)
    if numbers is not None:
        used, limit = numbers
        job.emit(QuotaTold(job.operation, used, limit))
    # The server may still be working on the question, and refuses a second one at a time.
    await job.clock.sleep(max(0.0, min(busy, ends_at - job.clock.elapsed())))


def _counted(job: Job, memory: Memory, step: Read, judgement: Judgement) -> Judgement:
    """The judgement by what is known of the report's counter; said once."""
    new = memory.counts.largest is None
    judgement = memory.counts.settled(step.pass_.name, step.window, judgement)
    if new and memory.counts.largest and not memory.counter_told:
        memory.counter_told = True
        job.emit(
            HintGiven(
                f"operation {job.operation}: answers say that they found more records"
                " than they hold, at any width: that number is not believed any more",
                job.operation,
            )
        )
    return judgement


def _notice_404s(job: Job, memory: Memory, judgement: Judgement) -> None:
    """Only 404s for implausibly long may be a server without the report."""
    if not judgement.not_found:
        memory.only_404_since = None
        return
    now = job.clock.now()
    memory.only_404_since = memory.only_404_since or now
    if now - memory.only_404_since >= job.settings.poll_every * SILENT_POLLS:
        job.emit(NothingFound(job.operation, memory.only_404_since))
        memory.only_404_since = now


def _notice_rows(job: Job, memory: Memory, judgement: Judgement) -> None:
    """An operation that has never shown a row may have a wrong zone, or be another one."""
    seen = bool(judgement.data) or (memory.state is not None and len(memory.state.ledger) > 0)
    now, poll_every = job.clock.now(), job.settings.poll_every
    since = memory.punctuality.never_a_row(now, poll_every, seen=seen)
    if since:
        job.emit(
            HintGiven(
                f"operation {job.operation} has not shown one row since {iso(since)}: either nobody"
                f" writes, or its zone {job.zone.name} or its server is wrong; wolkvox-publisher"
                " check compares",
                job.operation,
            )
        )


def _notice_dates(job: Job, memory: Memory, *, dated: bool) -> None:
    """Without a date for long nobody knows the server's clock."""
    patience = job.settings.poll_every * UNDATED_POLLS
    since = memory.server.undated(job.clock.now(), usable=dated, patience=patience)
    if since:
        job.emit(DateMissing(job.operation, since))


def _error(kind: type[StepError], judgement: Judgement) -> StepError:
    reason = judgement.reason or Reason.NOT_UNDERSTOOD
    return kind(Stage.READ, reason, judgement.text, retry_after=judgement.retry_after)

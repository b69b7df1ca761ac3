"""Ask for one window and judge the answer: what can be used comes back, the rest is raised."""

from publisher.errors import Held, Reason, Stage, StepError, TooLarge, Transient
from publisher.job import Job, Memory
from publisher.model import Answer
from publisher.rules import quota, upstream
from publisher.rules.schedule import NARROWEST, REPAIRING, Read
from publisher.rules.silence import SILENT_POLLS
from publisher.rules.skew import LARGEST, too_large
from publisher.rules.upstream import Judgement, Verdict
from publisher.signals import NothingFound, QuotaTold, RequestAnswered


async def ask(job: Job, memory: Memory, step: Read) -> tuple[Answer, Judgement]:
    """The answer for a step's window, if it can be used; raises what must be done otherwise."""
    narrowest = step.window.width <= NARROWEST
    budget = upstream.MAX_BYTES if narrowest else job.settings.max_response_bytes
    try:
        answer = await job.source.read(upstream.request_for(step.window, job.zone, budget))
    except StepError:
        job.emit(RequestAnswered(job.operation, "failed", 0.0, 0, None))
        raise
    judgement = upstream.judge(answer, lenient=memory.puzzled > 0 or step.pass_ is REPAIRING)
    date = upstream.server_time(answer)
    skew = memory.server.observe(date, answer.received_at) if date else None
    job.emit(
        RequestAnswered(
            job.operation,
            judgement.verdict,
            answer.took,
            len(answer.body),
            skew.total_seconds() if skew is not None else None,
        )
    )
    memory.puzzled = memory.puzzled + 1 if judgement.verdict is Verdict.NOT_UNDERSTOOD else 0
    _notice_404s(job, memory, judgement)
    memory.quota.counted(spent=judgement.reason is Reason.QUOTA_SPENT)
    if skew is not None and abs(skew) > LARGEST:
        raise Held(Stage.READ, Reason.CLOCK_SKEW, too_large(skew))
    match judgement.verdict:
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


async def ask_quota(job: Job, memory: Memory) -> None:
    """Ask how much of the daily quota is used; a server that does not tell disturbs nothing."""
    told, busy = None, 0.0
    try:
        told = quota.told_by(await job.source.token_info())
    except StepError as error:
        busy = error.retry_after or 0.0
    memory.quota.asked(memory.server.now(job.clock.now()), told)
    if told is not None:
        used, limit = told
        job.emit(QuotaTold(job.operation, used, limit))
    # The server may still be working on the question, and refuses a second one at a time.
    await job.clock.sleep(busy)


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


def _error(kind: type[StepError], judgement: Judgement) -> StepError:
    reason = judgement.reason or Reason.NOT_UNDERSTOOD
    return kind(Stage.READ, reason, judgement.text, retry_after=judgement.retry_after)

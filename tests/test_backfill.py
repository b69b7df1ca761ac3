"""History beside live, in process: each message once, live on time, whatever people order.

Time is driven, nothing sleeps. Replay a failed trial with `BACKFILL_SEED=n python -m pytest
tests/test_backfill.py -k trial`.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import ClassVar

import pytest

from publisher.context import LoopState, OperationContext
from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Backfill, Instant, Progress, Request, Standing, Window
from publisher.pipeline import run
from publisher.schedule.attempts import REST, TRIES
from publisher.schedule.backfill_pass import (
    BACKFILLING,
    KEPT,
    BackfillRequest,
    Stride,
    meanwhile,
    outlived,
    with_requests,
)
from publisher.schedule.passes import Read, Wait, passes_of
from publisher.schedule.second_reading import Second
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven, RepairFailed, Signal, StepFailed, WindowPublished
from publisher.state import state
from publisher.state.checkpoint import Entry
from publisher.state.state import Successor
from publisher.telemetry import log_messages
from publisher.wolkvox.timezone import Zone
from tests.fakes import (
    NOON,
    Chat,
    Crash,
    FakeClock,
    FakeReport,
    Fate,
    MemoryCluster,
    MemoryKafka,
    Said,
    ids_of,
)
from tests.test_flow import OPERATION, checkpoint_in, values

HOUR = timedelta(hours=1)
POLL = timedelta(minutes=5)
SEED = os.environ.get("BACKFILL_SEED")
TRIALS = int(os.environ.get("BACKFILL_TRIALS", "12"))


class MemoryOrders:
    """Fits `context.BackfillRequests`."""

    def __init__(self, *backfill_requests: BackfillRequest) -> None:
        self.stand = {
            backfill_request.id: backfill_request for backfill_request in backfill_requests
        }

    async def read(self) -> Sequence[BackfillRequest] | None:
        return list(self.stand.values())

    def want(self, id_: str, wanted: Standing) -> None:
        self.stand[id_] = replace(self.stand[id_], wanted=wanted)


class NoOrders(MemoryOrders):
    """A broker that has just started, or lost the topic: nothing can be seen."""

    async def read(self) -> Sequence[BackfillRequest] | None:
        return None


class Trial:
    """A world with a past, a publisher that crashes, and somebody who cannot make up his mind."""

    def __init__(
        self, seed: int, *, again: bool = False, faults: float = 0.1, horizon: str = "6h"
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.end = NOON + 8 * HOUR
        self.calm = NOON + 3 * HOUR
        self.clock = FakeClock(NOON)
        self.start = NOON - (30 * HOUR if again else timedelta())
        self.settings = PublisherSettings.model_validate(
            {
                "poll_every": POLL,
                "rereads": [HOUR],
                "start": self.start.isoformat(),
                "max_window": "2h",
                "horizon": horizon,
            }
        )
        self.range = Window(NOON - 20 * HOUR, NOON - HOUR * rng.uniform(0, 1))
        backfill_request = BackfillRequest(
            "1", self.range.start, self.range.end, again, Standing.RUNNING
        )
        self.backfill_requests = MemoryOrders() if again else MemoryOrders(backfill_request)
        self.backfill_request = backfill_request
        self.faults = faults
        self.cancel_beyond: Instant | None = None
        """Somebody cancels it once it has read so far, for good."""
        self.chats = [self._chat(number) for number in range(150)]
        self.report = FakeReport(self.clock, self.chats, rng, trouble=self._trouble)
        self.kafka = MemoryKafka()
        self.kafka.fate = self._fate
        self.signals: list[Signal] = []

    def _chat(self, number: int) -> Chat:
        rng, chat = self.rng, Chat(f"{186_000_000 + number}")
        at = (NOON - 24 * HOUR + 28 * HOUR * rng.random()).replace(microsecond=0)
        for index in range(rng.randrange(1, 6)):
            at += timedelta(seconds=rng.choice([0, 1, rng.randrange(300)]))
            fields = {
                "channel": "web", "from": "AGENT", "from_name": "x", "to_name": "y",
                "message": f"{number} {index}", "customer_id": "1",
            }  # fmt: skip
            chat.said.append(Said(at, fields, at, at))
        return chat

    def _fate(self) -> Fate:
        self.clock.advance(self.rng.uniform(0, 2))
        if self.clock.true > self.calm or self.rng.random() > self.faults:
            return Fate.DONE
        return self.rng.choice(list(Fate))

    def _trouble(self, _request: Request) -> Answer | None:
        self._change_mind()
        if self.clock.true > self.calm or self.rng.random() > self.faults:
            return None
        match self.rng.randrange(3):
            case 0:
                raise Crash
            case 1:
                raise Transient(Stage.READ, Reason.TIMEOUT, "slow")
            case _:
                raise Transient(Stage.READ, Reason.UNREACHABLE, "no way")

    def _change_mind(self) -> None:
        if self.cancel_beyond and self._read_until() > self.cancel_beyond:
            self.backfill_requests.want("1", Standing.CANCELLED)
        elif "1" in self.backfill_requests.stand:
            minds = [Standing.RUNNING, Standing.PAUSED] if self.faults else [Standing.RUNNING]
            calm = self.clock.true > self.calm
            self.backfill_requests.want("1", Standing.RUNNING if calm else self.rng.choice(minds))

    def _read_until(self) -> Instant:
        """As the log says."""
        found = checkpoint_in(self.kafka).backfills if OPERATION in self.kafka.events else ()
        return max((one.cursor for one in found), default=self.range.start)

    async def run(self, until: Instant) -> None:
        while self.clock.true < until:
            self.clock.until = until
            context = OperationContext(
                operation=OPERATION, zone=Zone("America/Bogota"), settings=self.settings,
                source=self.report, log=MemoryCluster(self.kafka).log(OPERATION),
                clock=self.clock, emit=self.signals.append, beat=lambda _: None,
                jitter=self.rng.random, backfill_requests=self.backfill_requests,
            )  # fmt: skip
            try:
                await run(context)
            except Crash:
                self.clock.advance(self.rng.choice([1.0, 30.0]))

    async def settle(self, calm: Instant) -> None:
        """Run until then, and an hour without faults, which the re-reads need."""
        await self.run(calm)
        self.faults, self.calm = 0.0, NOON
        await self.run(max(calm, self.clock.true) + HOUR)

    def published(self) -> Counter[str]:
        return Counter(event["event_id"] for event in values(self.kafka.events[OPERATION]))

    def texts(self) -> Counter[str]:
        return Counter(event["message"] for event in values(self.kafka.events[OPERATION]))

    def filed(self, begin: Instant, end: Instant) -> set[str]:
        every = [said for chat in self.chats for said in chat.said]
        return {said.fields["message"] for said in every if begin <= said.filed < end}

    @property
    def backfill(self) -> Backfill:
        (found,) = checkpoint_in(self.kafka).backfills
        return found


def seeds() -> list[int]:
    return [int(SEED)] if SEED else random.SystemRandom().sample(range(10**9), TRIALS)


async def test_trial_each_once() -> None:
    """Crashes, pauses, resumes: of the range and of live nothing is lost, nothing comes twice."""
    for seed in seeds():
        trial = Trial(seed)
        await trial.run(trial.end)
        replay = f"BACKFILL_SEED={seed}"
        assert trial.backfill.standing is Standing.DONE, replay
        got = trial.texts()
        assert set(got.values()) == {1}, replay
        must = trial.filed(trial.range.start, trial.range.end)
        must |= trial.filed(trial.start, trial.end)
        assert must <= got.keys(), replay


async def test_trial_again_exactly_once_more() -> None:
    """What was published comes a second time under its id, whatever crashes; not a third time.

    The horizon is shorter than the range is old: some of it is no longer known at all.
    """
    for seed in seeds():
        trial = Trial(seed, again=True)
        begin = trial.calm
        await trial.run(begin)
        trial.faults, trial.calm = 0.0, NOON
        await trial.run(begin + HOUR)  # settled
        before = trial.texts()
        assert set(before.values()) == {1}
        trial.faults, trial.calm = 0.1, begin + 3 * HOUR
        trial.backfill_requests = MemoryOrders(trial.backfill_request)
        await trial.run(trial.end)
        replay = f"BACKFILL_SEED={seed}"
        assert trial.backfill.standing is Standing.DONE, replay
        pad = timedelta(seconds=10)
        inside = trial.filed(trial.range.start, trial.range.end)
        around = trial.filed(trial.range.start - pad, trial.range.end + pad)
        texts = trial.texts()
        assert {texts[text] for text in inside} == {2}, replay
        assert {texts[text] for text in texts.keys() - around} == {1}, replay
        assert len(trial.published()) == len(texts), f"another id, {replay}"


@pytest.mark.parametrize("again", [False, True])
async def test_trial_cancelled_in_mid_range(again: bool) -> None:
    """What is read stays published and known, what is not is as it was; the range can be had anew.

    Crashes, pauses, re-reads before and after, as ever. A third of the trials: each is three runs.
    """
    compared = 0
    for seed in seeds()[: TRIALS // 3 or 1]:
        trial = Trial(seed, again=again, horizon="80h")
        rng, replay = trial.rng, f"BACKFILL_SEED={seed}"
        began = NOON
        if again:
            began = trial.calm
            await trial.settle(began)
            assert set(trial.texts().values()) == {1}, replay
            trial.faults, trial.calm = 0.1, began + 3 * HOUR
        trial.cancel_beyond = trial.range.start + trial.range.width * rng.uniform(0, 0.5)
        trial.backfill_requests = MemoryOrders(trial.backfill_request)
        await trial.settle(began + 3 * HOUR)
        cancelled = trial.backfill
        assert cancelled.standing is Standing.CANCELLED, replay
        assert trial.cancel_beyond < cancelled.cursor < trial.range.end, replay
        pad = timedelta(seconds=10)
        times = 2 if again else 1
        read = trial.filed(trial.range.start, cancelled.cursor)
        unread = trial.filed(cancelled.cursor + pad, trial.range.end)
        unread -= set() if again else trial.filed(trial.start - pad, trial.end)
        after = trial.texts()
        assert {after[text] for text in read} <= {times}, replay
        compared += len(read)
        assert {after[text] for text in unread} <= {times - 1}, replay
        assert {*after.values()} <= {1, times}, replay
        # The same range once more: only what was never published is new.
        trial.cancel_beyond = None
        trial.faults, trial.calm = 0.1, trial.clock.true + HOUR
        trial.backfill_requests.stand["2"] = replace(trial.backfill_request, id="2", again=False)
        await trial.settle(trial.calm)
        whole = trial.texts()
        assert whole >= after, replay
        assert {text for text in whole if whole[text] > 1} == {
            text for text in after if after[text] > 1
        }, replay
        assert trial.filed(trial.range.start, trial.range.end) <= whole.keys(), replay
        # And published again from its begin: each once more, whatever the first had come to.
        trial.faults, trial.calm = 0.1, trial.clock.true + 2 * HOUR
        trial.backfill_requests.stand["3"] = replace(trial.backfill_request, id="3", again=True)
        await trial.settle(trial.calm)
        last = trial.texts()
        inside = trial.filed(trial.range.start, trial.range.end)
        assert {last[text] - whole[text] for text in inside} == {1}, replay
        around = trial.filed(trial.range.start - pad, trial.range.end + pad)
        assert {last[text] - whole[text] for text in whole.keys() - around} == {0}, replay
        assert len(trial.published()) == len(last), f"another id, {replay}"
    assert compared or SEED  # a walk may be cancelled before it met a message, not every one


async def test_live_is_on_time_beside_it() -> None:
    """At most one answer of the backfill stands between live and its time."""
    trial = Trial(7, faults=0.0)
    await trial.run(NOON + 2 * HOUR)
    assert trial.backfill.standing is Standing.DONE
    windows = [one for one in trial.signals if isinstance(one, WindowPublished)]
    history = [one for one in windows if one.pass_label == "backfill"]
    assert len(history) > 8
    slowest = timedelta(seconds=2 * (3 + 2) + 1)  # an answer and a commit, of it and of live
    for one in windows[3:]:
        assert one.committed_at - one.covered_until <= POLL + slowest
    assert max(one.window.width for one in history) == 2 * HOUR


async def test_an_answer_that_takes_a_poll_starves_neither_history_nor_re_reads() -> None:
    """Live and the others take turns where live is due again as soon as it is answered."""
    trial = Trial(7, faults=0.0)
    poll_every = timedelta(seconds=10)
    trial.settings = trial.settings.model_copy(
        update={"poll_every": poll_every, "overlap": poll_every}
    )
    at_once = trial.report.read

    async def slowly(request: Request) -> Answer:
        sent_at = trial.clock.now()
        answer = await at_once(request)
        trial.clock.advance(poll_every.total_seconds())
        took = answer.took + poll_every.total_seconds()
        return replace(answer, sent_at=sent_at, received_at=trial.clock.now(), took=took)

    trial.report.read = slowly  # type: ignore[method-assign]
    end = NOON + 2 * HOUR
    await trial.run(end)
    assert trial.backfill.standing is Standing.DONE
    turn = poll_every + timedelta(seconds=5)
    windows = [one for one in trial.signals if isinstance(one, WindowPublished)]
    for one in windows[3:]:
        assert one.committed_at - one.covered_until <= 3 * turn
    for pass_ in passes_of(trial.settings)[1:]:
        done = checkpoint_in(trial.kafka).passes[pass_.name]
        assert end - pass_.delay - done.covered_until <= pass_.cadence + 3 * turn, pass_.name


async def test_cancelled_it_ends_where_it_is() -> None:
    """What it has published stays; nothing more is asked; resuming changes nothing."""
    trial = Trial(7, faults=0.0)
    trial.backfill_requests.stand["1"] = replace(trial.backfill_request, wanted=Standing.CANCELLED)
    trial._change_mind = lambda: None  # type: ignore[method-assign]
    await trial.run(NOON + HOUR)
    assert trial.backfill.standing is Standing.CANCELLED
    trial.backfill_requests.want("1", Standing.RUNNING)
    await trial.run(NOON + 2 * HOUR)
    assert trial.backfill.standing is Standing.CANCELLED
    windows = [one for one in trial.signals if isinstance(one, WindowPublished)]
    assert not [one for one in windows if one.pass_label == "backfill"]


async def test_orders_that_cannot_be_read_do_not_stop_live() -> None:
    """It is told once, and live goes on."""
    trial = Trial(7, faults=0.0)

    class Deaf(MemoryOrders):
        looks: ClassVar[list[Instant]] = []

        async def read(self) -> Sequence[BackfillRequest] | None:
            self.looks.append(trial.clock.true)
            raise Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")

    trial.backfill_requests = commands_unreadable = Deaf()
    await trial.run(NOON + HOUR)
    assert 55 <= len(commands_unreadable.looks) <= 60, "once a minute"
    hints = [one for one in trial.signals if isinstance(one, HintGiven)]
    assert [hint.text for hint in hints] == ["orders cannot be read: Kafka cannot be reached"]
    assert checkpoint_in(trial.kafka).live.covered_until > NOON + HOUR - 2 * POLL


@pytest.mark.parametrize("again", [False, True])
async def test_orders_that_cannot_be_seen_are_not_taken_for_none(again: bool) -> None:
    """What has ended would be forgotten, and obeyed anew once its order is seen again."""
    trial = Trial(7, faults=0.0, again=again)
    await trial.run(NOON + HOUR)
    backfill_requests = trial.backfill_requests = MemoryOrders(trial.backfill_request)
    await trial.run(NOON + 4 * HOUR)
    done, texts = trial.backfill, trial.texts()
    assert done.standing is Standing.DONE
    trial.backfill_requests = NoOrders()
    await trial.run(NOON + 5 * HOUR)
    assert trial.backfill == done
    trial.backfill_requests = backfill_requests
    await trial.run(NOON + 6 * HOUR)
    assert trial.backfill == done
    assert {trial.texts()[text] for text in texts} == ({1, 2} if again else {1})


async def test_a_window_that_fails_is_told_and_read_later() -> None:
    """Nothing of the live loop waits for it, and half of it is asked for a poll later."""
    trial = Trial(7, faults=0.0)
    failed: list[Request] = []

    def trouble(request: Request) -> Answer | None:
        """The whole of history fails for half an hour."""
        if request.date_end < "20261120060000" and trial.clock.true < NOON + HOUR / 2:
            failed.append(request)
            raise Transient(Stage.READ, Reason.TIMEOUT, "slow")
        return None

    trial.report = FakeReport(trial.clock, trial.chats, trial.rng, trouble=trouble)
    await trial.run(NOON + 4 * HOUR)
    heard = [one for one in trial.signals if isinstance(one, RepairFailed)]
    assert 4 <= len(failed) == len(heard) <= 8
    assert log_messages.log_line(heard[0])[1] == "Window of a backfill failed; trying again later"
    assert [one for one in trial.signals if isinstance(one, StepFailed)] == []
    assert trial.backfill.standing is Standing.DONE


async def test_history_goes_on_soon_after_the_report_answers_again() -> None:
    """It failed at more polls than a backfill has requests a day; live was answered all along."""
    trial = Trial(7, faults=0.0)
    poll, recovered = timedelta(minutes=1), NOON + 9 * HOUR
    trial.settings = trial.settings.model_copy(update={"poll_every": poll})
    asked: list[tuple[Instant, bool]] = []

    def trouble(request: Request) -> Answer | None:
        if request.date_end < "20261120060000":
            asked.append((trial.clock.true, trial.clock.true >= recovered))
            if trial.clock.true < recovered:
                raise Transient(Stage.READ, Reason.SERVER_ERROR, "busy")
        return None

    trial.report = FakeReport(trial.clock, trial.chats, trial.rng, trouble=trouble)
    await trial.run(recovered + HOUR)
    assert trial.backfill.standing is Standing.DONE
    answered = [at for at, answers in asked if answers]
    assert answered[0] - recovered <= 12 * poll
    failed = [at for at, answers in asked if not answers]
    assert max(b - a for a, b in pairwise(failed)) <= 12 * poll + timedelta(seconds=10)
    assert len(failed) <= TRIES + 9 * HOUR / (REST * poll) + 1


@pytest.mark.parametrize("polls", [1, 30, 288, 3000])
def test_failures_in_a_row_do_not_use_up_the_day(polls: int) -> None:
    """Of whoever shares the day's requests: a backfill, and what is read a second time."""
    stride = Stride.starting(PublisherSettings())
    other = Second.starting(PublisherSettings(), stride).stride
    window, now = Window(NOON - HOUR, NOON), NOON
    tried: dict[int, list[Instant]] = {id(stride): [now], id(other): [now]}
    while now < NOON + polls * POLL:
        for each in (stride, other):
            wake = each.wake(now)
            assert wake is not None, "the day is spent"
            if wake <= now:
                each.failed(window, now, halve=False)
                tried[id(each)].append(now)
        now += POLL
    for moments in tried.values():
        assert max(later - earlier for earlier, later in pairwise([*moments, now])) <= 12 * POLL
    for _ in range(298):
        assert stride.wake(now) is not None
        stride.answered(window, now, 0, 0.1)
    for _ in range(2):
        stride.answered(window, now, 0, 0.1)
    assert stride.wake(now) is None
    assert other.wake(now) is None
    assert stride.wake(now - 2 * HOUR) is not None, "the clock has gone back"


def test_windows_that_fail_now_and_then_cost_the_day_s_requests() -> None:
    """Too large, half of it, twice as much again, too large: tries are for what fails for long."""
    stride, now, requests = Stride.starting(PublisherSettings()), NOON, 0
    while now < NOON + 24 * HOUR:
        if stride.wake(now) == now:
            requests += 1
            if requests % 2:
                stride.failed(Window(NOON - HOUR, NOON), now, halve=True)
            else:
                stride.answered(Window(NOON - HOUR, NOON), now, 0, 0.1)
        now += POLL / 2
    assert requests == 300


def test_an_api_that_answers_again_brings_the_next_request_forward() -> None:
    loop_state = LoopState.starting(PublisherSettings())
    strides = loop_state.stride, loop_state.second.stride
    for stride in strides:
        for number in range(40):
            if stride.wake(NOON + number * POLL) == NOON + number * POLL:
                stride.failed(Window(NOON - HOUR, NOON), NOON + number * POLL, halve=False)
    now = NOON + 40 * POLL
    assert all(stride.wake(now) != now for stride in strides)
    loop_state.attempt = 1
    live = Read(loop_state.passes[0], Window(NOON, NOON + POLL), ends_round=True)
    loop_state.published(live, now, 0, 0.1)
    assert [stride.wake(now) for stride in strides] == [now, now]


def one_of(**more: object) -> Backfill:
    told = Backfill(
        "1", NOON, NOON + HOUR, again=False, cursor=NOON, standing=Standing.RUNNING, since=3
    )
    return replace(told, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("standing", Standing)
def test_the_journal_of_a_range_stays_until_the_backfill_has_ended(standing: Standing) -> None:
    """However old: what lies in it must be known for published when it is read."""
    horizon = timedelta(days=31)
    told, _ = state.first(OPERATION, "America/Bogota", NOON, "now", ["live"])
    told.checkpoint = replace(told.checkpoint, backfills=(one_of(standing=standing),))
    for sequence, at in [(1, NOON), (2, NOON + timedelta(days=40))]:
        end = at + POLL
        entry = Entry(sequence, "live", at, end, end, 1, 1, 0, 0)
        ids = ids_of({f"{at:%Y-%m-%d %H}": [sequence]})
        told.apply(told.successor(entry, {"live": Progress(end, end)}, ids, horizon), horizon)
    kept = standing in (Standing.RUNNING, Standing.PAUSED)
    assert (len(told.journal) == 2) is kept
    assert told.ledger.knows("2026-11-20 12", 1) is kept


def order_of(
    id_: str = "1", *, again: bool = False, wanted: Standing = Standing.RUNNING
) -> BackfillRequest:
    return BackfillRequest(id_, NOON, NOON + HOUR, again, wanted)


def test_an_order_obeyed_twice_changes_nothing() -> None:
    first = with_requests((), [order_of(), order_of("2")], 4)
    assert [one.since for one in first] == [4, 4]
    assert with_requests(first, [order_of(), order_of("2")], 9) == first


@pytest.mark.parametrize("ended", [Standing.DONE, Standing.CANCELLED])
def test_what_has_ended_stays_ended_and_goes_with_its_order(ended: Standing) -> None:
    over = (one_of(standing=ended),)
    assert with_requests(over, [order_of()], 9) == over
    assert with_requests(over, [], 9) == ()
    assert with_requests((one_of(),), [], 9) == (one_of(),)


def test_only_one_publishes_again_at_a_time() -> None:
    backfill_requests = [order_of("1", again=True), order_of("2", again=True)]
    first = with_requests((), backfill_requests, 4)
    assert [one.id for one in first] == ["1"]
    over = (replace(first[0], standing=Standing.DONE),)
    assert [(one.id, one.since) for one in with_requests(over, backfill_requests, 9)] == [
        ("1", 4),
        ("2", 9),
    ]


def test_orders_are_removed_before_their_ends_are_forgotten() -> None:
    """However often, and whoever sees what when: nothing that has ended is taken up once more."""
    names = [f"{number:03}" for number in range(40)]
    stand: list[BackfillRequest] = []
    known: tuple[Backfill, ...] = ()
    for sequence, name in enumerate(names):
        stand.append(order_of(name))
        gone = outlived(stand, known)
        stand = [one for one in stand if one.id not in gone]
        before = {one.id for one in known}
        known = with_requests(known, stand, sequence)
        assert {one.id for one in known} - before == {name}
        assert len(known) <= KEPT + 2
        if sequence % 7:  # the others go on
            known = tuple(
                replace(one, standing=Standing.DONE) if one.id == name else one for one in known
            )
        else:
            known = tuple(
                replace(one, standing=Standing.CANCELLED) if one.id < name else one for one in known
            )
    assert [one.id for one in stand][-KEPT:] == names[-KEPT:]


def test_what_has_not_ended_and_what_waits_is_never_removed() -> None:
    names = [f"{number:03}" for number in range(30)]
    backfill_requests = [order_of(name) for name in names]
    ended = [one_of(id=name, standing=Standing.DONE) for name in names[5:25]]
    active = [one_of(id=name, standing=Standing.PAUSED) for name in names[25:28]]
    assert outlived(backfill_requests, [*ended, *active]) == names[5 : 25 - KEPT]
    assert outlived(backfill_requests, [*ended[:KEPT], *active]) == []
    assert outlived([], ended) == []


def test_a_cancelled_one_that_waits_for_its_turn_ends_at_once() -> None:
    backfill_requests = [
        order_of("1", again=True),
        order_of("2", again=True, wanted=Standing.CANCELLED),
    ]
    assert [one.standing for one in with_requests((), backfill_requests, 4)] == [
        Standing.RUNNING,
        Standing.CANCELLED,
    ]


@pytest.mark.parametrize("wanted", [Standing.RUNNING, Standing.PAUSED])
def test_one_that_follows_a_cancelled_one_begins_anew(wanted: Standing) -> None:
    """In one commit: memory must not take for published what came out for the other one."""
    told, record = state.first(OPERATION, "America/Bogota", NOON, "now", ["live"])
    written = {record.key: record.value}

    def apply(successor: Successor) -> None:
        told.apply(successor, HOUR * 24 * 31)
        written.update({one.key: one.value for one in successor.records})

    def publish(number: int) -> None:
        window = Entry(
            told.checkpoint.sequence + 1, "backfill", NOON, NOON + POLL, NOON, 1, 1, 0, 0
        )
        ids = ids_of({"2026-11-20 12": [number]})
        apply(told.successor(window, told.checkpoint.passes, ids, HOUR * 24 * 31))

    def want(*backfill_requests: BackfillRequest) -> None:
        found = with_requests(
            told.checkpoint.backfills, backfill_requests, told.checkpoint.sequence + 1
        )
        apply(told.with_backfills(found))

    want(order_of("1", again=True))
    publish(1)
    want(order_of("1", again=True, wanted=Standing.PAUSED))
    publish(2)
    assert told.again is not None
    assert told.again.published_ids("2026-11-20 12", {1, 2}) == {1, 2}, "a pause forgets nothing"
    cancelled = order_of("1", again=True, wanted=Standing.CANCELLED)
    want(cancelled, order_of("2", again=True, wanted=wanted))
    publish(3)
    restored = state.restore(OPERATION, {key: value for key, value in written.items() if value})
    assert restored is not None
    for one in (told, restored):
        assert [each.standing for each in one.checkpoint.backfills] == [Standing.CANCELLED, wanted]
        assert one.again is not None
        assert one.again.published_ids("2026-11-20 12", {1, 2, 3}) == {3}
        assert one.ledger.published_ids("2026-11-20 12", {1, 2, 3}) == {1, 2, 3}
    want(cancelled, order_of("2", again=True, wanted=Standing.CANCELLED))
    assert told.again is None


def test_history_waits_for_everything_else_and_for_its_share_of_the_quota() -> None:
    now = NOON + 9 * HOUR
    stride = Stride.starting(PublisherSettings())
    wait = Wait(now + POLL)
    due = Read(BACKFILLING, Window(NOON, NOON + HOUR), ends_round=True)
    assert meanwhile(due, [one_of()], stride, now, ()) is due
    assert meanwhile(wait, [one_of(standing=Standing.PAUSED)], stride, now, ()) is wait
    assert meanwhile(wait, [one_of()], stride, NOON + POLL, ()) is wait, "too young"
    assert isinstance(meanwhile(wait, [one_of()], stride, now, ()), Read)
    stride.budget.spent.extend([now] * 300)
    assert meanwhile(wait, [one_of()], stride, now, ()) is wait
    assert isinstance(meanwhile(wait, [one_of()], stride, now + 24 * HOUR, ()), Read)

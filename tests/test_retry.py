"""Pauses grow, end, and never keep the service away from its work for long."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import (
    Fenced,
    NeedsOperator,
    OutcomeUnknown,
    PublisherError,
    Reason,
    Stage,
    TooLarge,
    Transient,
)
from publisher.schedule.retry import pause

FIVE = timedelta(minutes=5)
JITTER = st.floats(0, 1, exclude_max=True)
POLLS = st.integers(1, 86_400).map(lambda seconds: timedelta(seconds=seconds))


def read_failed(retry_after: float | None = None) -> Transient:
    return Transient(Stage.READ, Reason.TIMEOUT, "x", retry_after=retry_after)


ERRORS: list[PublisherError] = [
    read_failed(),
    Transient(Stage.COMMIT, Reason.KAFKA_TIMEOUT, "x"),
    Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "x"),
    Transient(Stage.LOOP, Reason.UNEXPECTED, "x"),
    TooLarge(Stage.READ, Reason.TOO_LARGE, "x"),
    NeedsOperator(Stage.READ, Reason.TOKEN_REFUSED, "x"),
    NeedsOperator(Stage.RESTORE, Reason.STATE_LOST, "x"),
    OutcomeUnknown(Reason.OUTCOME_UNKNOWN, "x"),
]


@settings(deadline=None)
@given(st.sampled_from(ERRORS), st.integers(1, 10_000), POLLS, JITTER)
def test_no_pause_is_longer_than_two_polls(
    error: PublisherError, attempt: int, poll: timedelta, jitter: float
) -> None:
    """Whatever the fault was, work goes on within three polls of its end."""
    assert 0 < pause(error, attempt, poll, jitter) <= 2 * poll.total_seconds()


@settings(deadline=None)
@given(st.sampled_from([*ERRORS, Fenced("x")]), st.integers(1, 40), POLLS, JITTER)
def test_pauses_grow_up_to_a_limit(
    error: PublisherError, attempt: int, poll: timedelta, jitter: float
) -> None:
    """Each attempt waits at least as long as the one before it, at most twice as long."""
    first, second = (pause(error, number, poll, jitter) for number in (attempt, attempt + 1))
    assert first <= second <= 2 * first


@settings(deadline=None)
@given(st.sampled_from([*ERRORS, Fenced("x")]), st.integers(1, 40), JITTER, JITTER)
def test_jitter_spreads_by_a_quarter(
    error: PublisherError, attempt: int, one: float, other: float
) -> None:
    """Replicas that fail together do not come back together, nor far apart."""
    small, large = sorted([one, other])
    assert pause(error, attempt, FIVE, small) <= pause(error, attempt, FIVE, large)
    assert pause(error, attempt, FIVE, 0) == 0.75 * pause(error, attempt, FIVE, 1)


@pytest.mark.parametrize(
    ("error", "first", "longest"),
    [
        (ERRORS[0], 1, 600),  # the API: up to two polls
        (ERRORS[2], 1, 60),  # Kafka comes back sooner, and a restore costs no quota
        (ERRORS[3], 1, 600),  # what comes behind a request costs one each time
        (ERRORS[7], 1, 600),
        (ERRORS[5], 150, 600),  # a person takes a while
        (Fenced("x"), 80, 900),  # whoever took over must not be fenced again at once
    ],
)
def test_first_and_longest_pauses(error: PublisherError, first: float, longest: float) -> None:
    """Each kind of fault has its own pace."""
    assert pause(error, 1, FIVE, 1) == first
    assert pause(error, 50, FIVE, 1) == longest


@settings(deadline=None)
@given(st.floats(0, 3600), st.integers(1, 40), JITTER)
def test_a_server_that_asks_for_more_gets_it(asked: float, attempt: int, jitter: float) -> None:
    """Retry-After counts as it is, without jitter, and never shortens a pause."""
    own = pause(read_failed(), attempt, FIVE, jitter)
    assert pause(read_failed(asked), attempt, FIVE, jitter) == max(own, asked)


def test_a_short_poll_makes_short_pauses() -> None:
    """With a poll of one second nothing waits for a minute."""
    second = timedelta(seconds=1)
    assert pause(ERRORS[1], 50, second, 1) == 2
    assert pause(ERRORS[0], 1, timedelta(milliseconds=100), 1) == pytest.approx(0.1)

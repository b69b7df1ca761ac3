"""Lateness: the histogram against all values, the proposal, and a run against a real Kafka."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Final

import orjson
from hypothesis import given
from hypothesis import strategies as st

from publisher.commands.lateness import estimate, rendered
from publisher.commands.lateness.estimate import Ages, Measured
from publisher.settings import PublisherSettings
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.commands import command
from tests.harness import rig

ZERO: Final = datetime(2026, 11, 20, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
WEEK: Final = timedelta(days=7)


@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.5, 0.9, 0.99, 0.999, 1.0]),
)
def test_a_quantile_is_never_too_small_and_nine_percent_too_large_at_most(
    seconds: list[int], share: float
) -> None:
    ages = Ages()
    for each in seconds:
        ages.add(timedelta(seconds=each))
    true = sorted(seconds)[max(ceil(len(seconds) * share), 1) - 1]
    found = ages.quantile(share)
    assert found is not None
    assert true <= found.total_seconds() + 1e-3
    assert found.total_seconds() <= true * 1.0906
    assert len(ages.buckets) <= 8 * 24


def measured(
    live: Mapping[timedelta, int], late: Mapping[timedelta, int], span: timedelta = WEEK
) -> Measured:
    """So many of each age, by live and by re-reads, read over this span at the defaults."""
    found = Measured(PublisherSettings())
    for label, counts in (("live", live), ("reread", late)):
        for age, count in counts.items():
            for number in range(count):
                read_at = ZERO + span * (number / max(count - 1, 1))
                found.add(label, read_at - age, read_at)
    return found


def test_too_few_or_too_short_propose_nothing() -> None:
    assert estimate.proposal(Measured(PublisherSettings())) is None
    assert estimate.proposal(measured({MINUTE: 999}, {})) is None
    assert estimate.proposal(measured({MINUTE: 5000}, {}, span=timedelta(hours=107))) is None
    assert estimate.proposal(measured({MINUTE: 5000}, {}, span=timedelta(hours=108))) is not None


def test_what_is_read_while_catching_up_tells_nothing() -> None:
    """An outage of two days must not look like a report two days late."""
    found = measured({4 * MINUTE: 5000, 48 * HOUR: 5000}, {})
    assert found.telling == 5000
    proposed = estimate.proposal(found)
    assert proposed is not None
    assert proposed.overlap == 5 * MINUTE


def test_rereads_stay_while_they_find_something_and_the_longest_always() -> None:
    proposed = estimate.proposal(measured({4 * MINUTE: 99_950}, {7 * HOUR: 50}))
    assert proposed is not None
    assert proposed.overlap == 5 * MINUTE
    assert proposed.rereads == (6 * HOUR, 72 * HOUR)
    # Rounds of 36 h take two windows: 2/3 of a round a day, twice.
    assert round(proposed.requests, 2) == round(288 + 8 + 4 / 3 + 4, 2)


def test_much_that_is_late_doubles_the_overlap() -> None:
    proposed = estimate.proposal(measured({4 * MINUTE: 9_900}, {80 * MINUTE: 100}))
    assert proposed is not None
    assert proposed.overlap == 30 * MINUTE
    assert proposed.rereads == (1 * HOUR, 72 * HOUR)


def test_what_the_longest_finds_calls_for_a_longer_one() -> None:
    proposed = estimate.proposal(measured({4 * MINUTE: 99_999}, {100 * HOUR: 1}))
    assert proposed is not None
    assert proposed.rereads == (72 * HOUR, 144 * HOUR)
    assert proposed.horizon == 216 * HOUR + timedelta(days=1)


@given(
    st.dictionaries(st.integers(1, 40), st.integers(0, 400), max_size=4),
    st.dictionaries(st.integers(61, 9000), st.integers(0, 40), max_size=4),
)
def test_a_proposal_is_one_that_the_settings_accept(
    live: dict[int, int], late: dict[int, int]
) -> None:
    """Whatever was measured: ages beyond the overlap, and never without a re-read that proves."""
    proposed = estimate.proposal(
        measured(
            {MINUTE * age: count for age, count in live.items()} | {30 * MINUTE / 31: 1000},
            {MINUTE * age: count for age, count in late.items()},
        )
    )
    assert proposed is not None
    assert proposed.rereads
    assert all(age > proposed.overlap >= MINUTE for age in proposed.rereads)
    assert proposed.horizon >= max(proposed.rereads) * 1.5


async def test_of_what_a_service_has_published(kafka: Broker, tmp_path: Path) -> None:
    """Every message is counted, what somebody else wrote is not, and little is called little."""
    world = {"history": "3m", "late": 0.0, "hypothesis": "H2"}
    calm = {"PUBLISHER_POLL_EVERY": "1h", "PUBLISHER_OVERLAP": "1s", "PUBLISHER_REREADS": "2h"}
    async with rig(kafka.bootstrap, tmp_path, world, {**calm, "PUBLISHER_START": "-2m"}) as one:
        code, out, err = await command(one.settings, "lateness", "--json")
        assert (code, err, orjson.loads(out)["messages"]) == (0, "", 0)
        publisher = one.start()
        told = await publisher.logged(15, event="Window published")
        await publisher.stop()
        async with kafka_tools.producing(kafka.bootstrap) as producer:
            await producer.send_and_wait(one.topic, b"x", headers=[("wolkvox_pass", b"live")])
        code, out, err = await command(one.settings, "lateness", "--json")
        assert (code, err) == (0, "")
        found = orjson.loads(out)
        assert found["messages"] == found["passes"]["live"]["messages"] == told["new"] > 0
        assert 0 < found["passes"]["live"]["quantiles"]["1.0"] < 200
        assert found["rereads"] == [{"age": "2h", "found": 0}]
        assert found["proposal"] is None
        code, out, err = await command(one.settings, "lateness")
        assert (code, err) == (0, "")
        assert "Too little for a proposal" in out
        assert out.isascii()
        refused = {**one.settings, "KAFKA_BOOTSTRAP_SERVERS": "localhost:1"}
        code, out, err = await command(refused, "lateness")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("wolkvox-publisher: the messages cannot be read: ")


async def test_each_operation_by_itself(
    kafka: Broker, topics: dict[str, str], tmp_path: Path
) -> None:
    """One is late and one is not: each gets its own proposal, and whoever is not set counts not."""
    config = tmp_path / "publisher.toml"
    config.write_text(
        "".join(
            f'[[operations]]\nname = "{name}"\nserver = "{name[-4:]}"\ntoken = "token-{name}"\n'
            for name in ("wv0010", "wv0024")
        )
    )
    settings = {**topics, "PUBLISHER_CONFIG": str(config), "PUBLISHER_REREADS": "1h,3h"}
    topic = topics["PUBLISHER_MESSAGES_TOPIC"]
    await kafka_tools.create(kafka.bootstrap, topic)
    ages = {"wv0010": (4 * MINUTE, "live"), "wv0024": (80 * MINUTE, "reread")}
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        for name in (*ages, "wv0099"):
            age, label = ages.get(name, (200 * HOUR, "reread"))
            for number in range(1000):
                read_at = ZERO + 6 * HOUR * (number / 999)
                told = {
                    "ce_source": name,
                    "ce_time": (read_at - age).isoformat(),
                    "wolkvox_read_at": read_at.isoformat(),
                    "wolkvox_pass": label,
                }
                headers = [(key, value.encode()) for key, value in told.items()]
                await producer.send(topic, b"x", headers=headers)
    code, out, err = await command(settings, "lateness", "--json")
    assert (code, err) == (0, "")
    found = orjson.loads(out)
    assert found["messages"] == 2000
    prompt, late = found["operations"]
    assert [prompt["operation"], late["operation"]] == ["wv0010", "wv0024"]
    assert prompt["messages"] == late["messages"] == 1000
    assert prompt["proposal"]["PUBLISHER_OVERLAP"] == "5m"
    assert prompt["proposal"]["PUBLISHER_REREADS"] == "3h"
    assert late["proposal"]["PUBLISHER_OVERLAP"] == "30m"
    assert late["proposal"]["PUBLISHER_REREADS"] == "1h,3h"
    code, out, err = await command(settings, "lateness")
    assert (code, err) == (0, "")
    assert out.count("Proposal") == 3
    assert out.index("2,000 messages") < out.index("Operation wv0010") < out.index("=5m")
    assert out.index("Operation wv0024 by itself") < out.rindex("PUBLISHER_REREADS=1h,3h")


def test_for_a_person() -> None:
    found = measured({4 * MINUTE: 9_900}, {80 * MINUTE: 100})
    lines = list(rendered(found, WEEK))
    assert "  the re-read at 1h found 100" in lines
    assert max(map(len, lines)) <= 80
    assert "  PUBLISHER_OVERLAP=30m   (now 15m)" in lines
    assert "  PUBLISHER_REREADS=1h,3d   (now 1h,6h,1d,3d)" in lines

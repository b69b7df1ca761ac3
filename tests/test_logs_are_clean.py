"""At log level debug, in trouble or not: no token, no password, no text, no name, no phone."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from sandbox.kafka import USERS, Broker
from sandbox.processes import until
from tests.harness import TOKEN, Fields, Publisher, rig, tell

PERSONAL: Final = (
    *("message", "from_name", "to_name", "agent_name", "customer_name"),
    *("customer_phone", "customer_id"),
)
PUBLIC: Final = frozenset({"chat_bot", "<a href="})
SHORTEST: Final = 6
"""Shorter values, like "Ok", stand in any text by chance."""

FAULTS: Final = (
    *("wrong_token", "php_warning", "html", "cut_body", "invalid_utf8", "lone_surrogate"),
    *("control_characters", "nan", "bom", "data_object", "code_in_body", "found_more"),
    *("broken_row", "broken_conversation", "conversation_missing", "wrong_types"),
    *("format_changed", "broken_transfer", "reset", "redirect", "mutate", "server_error"),
)

MARKED: Final[Fields] = {
    "conn_id": "okapi-1",
    "agent_name": "AgentOkapiName",
    "customer_name": "CustomerOkapiName",
}
MARKS: Final = re.compile("okapi", re.IGNORECASE)
"""No field of these conversations may come out, the conn_id included, in whatever spelling."""


def marked_conversations() -> list[Fields]:
    """Rows of every fate: published, too large, rejected; all fields hold the mark."""
    base = {
        "channel": "okapi-channel",
        "from": "CUSTOMER",
        "from_name": "FromOkapiName",
        "to_name": "ToOkapiName",
        "customer_id": "okapi-document",
        "customer_phone": "okapi-phone",
        "okapi_field": {"okapi": ["okapi"]},
    }
    date = (datetime.now(ZoneInfo("America/Bogota")) - timedelta(seconds=2)).strftime(
        "%Y-%m-%d %H:%M:%S"
    )
    good: Fields = {**base, "date": date, "message": "what Okapi wrote"}
    rows: list[Fields] = [
        good,
        {**good, "message": "what Okapi wrote at length " * 200},
        {**good, "date": "okapi date"},
        {**good, "date": {"okapi": "date"}},
        {**good, "message": ["okapi", {"okapi": 1}]},
        {**good, "from": {"okapi": "sender"}},
    ]
    return [
        {**MARKED, "conversation": rows},
        {**MARKED, "conn_id": {"okapi": 2}, "conversation": [good]},
        {**MARKED, "conn_id": "0", "conversation": [good, good]},
    ]


async def test_nothing_personal_is_printed(kafka: Broker, tmp_path: Path) -> None:
    """Everything printed in a run at level debug, with traffic and faults, is fit for anybody."""
    user, password = "admin", USERS["admin"]
    settings = {
        "PUBLISHER_LOG_LEVEL": "debug",
        "PUBLISHER_POLL_EVERY": "300ms",
        "PUBLISHER_OVERLAP": "2s",
        "PUBLISHER_START": "-12m",
        "PUBLISHER_MAX_EVENT_BYTES": "2000",
        "KAFKA_BOOTSTRAP_SERVERS": kafka.secure_bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": password,
        "KAFKA_SSL_CAFILE": str(kafka.cafile),
    }
    world = {"history": "10m", "late": 0.0, "long_texts": 0.02}
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        wrong = one.start(KAFKA_SASL_PASSWORD="wrong-okapi-password")
        await wrong.logged(reason="kafka_authentication")
        await wrong.stop()
        publisher = one.start()

        async def caught_up() -> bool:
            return await publisher.metric("lag_seconds") < 3

        # What a fault alters in history would not be shown again.
        await publisher.logged(event="Window published")
        await until(caught_up, 30, "history to be published")
        await one.api.say(marked_conversations())
        for kind in FAULTS:
            await one.api.fault(kind, count=1)

        async def all_struck() -> bool:
            return not any(fault["used"] == 0 for fault in (await one.api.faults())["on"])

        await until(all_struck, 60, "all faults to strike")
        found = await one.settled(30)
        assert not found.lost, found
        pages = [(await publisher.get(path))[1] for path in ("/metrics", "/", "/readyz")]
        assert await publisher.stop() == 0
        told = "\n".join([wrong.child.output, publisher.child.output, *pages])
        truth = await one.api.truth()
        secrets = {TOKEN, password, "wrong-okapi-password", *values_of(truth)}
        shown = sorted(secret for secret in secrets if secret in told)
        assert not shown, shown[:10]
        marks = [line for line in told.splitlines() if MARKS.search(line)]
        assert not marks, marks[:10]
        assert _said_enough(publisher)
        letters = [value for _, value in await one.dead_letters()]
        assert any(MARKS.search(value.decode(errors="replace")) for value in letters)
        tell(f"{len(secrets)} values looked for in {len(told) / 1e3:.0f} kB of output: none there")


def _said_enough(publisher: Publisher) -> bool:
    """The run was at debug, and in trouble."""
    levels = {line.get("level") for line in publisher.lines}
    return {"debug", "info", "warning", "error"} <= levels


def values_of(truth: list[Fields]) -> set[str]:
    """What people are called, wrote and can be reached by; pieces that no encoding changes."""
    found = set()
    for row in truth:
        for name in PERSONAL:
            for value in (row.get(name), row["_earlier"].get(name)):
                for piece in re.split(r"[\n\t\"\\]", value) if isinstance(value, str) else ():
                    if len(piece.strip()) >= SHORTEST and piece not in PUBLIC:
                        found.add(piece)
    return found

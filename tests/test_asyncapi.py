"""The AsyncAPI document of the topics says what is published, and says it as AsyncAPI wants."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError

from publisher.commands.dead_letters.replay_batch import DONE
from publisher.commands.dead_letters.stored_letter import Letter, Letters, replayed
from publisher.events import dead_letter, revisions
from publisher.events.encode import EVENT_TYPE
from publisher.events.rows import RejectReason
from publisher.kafka import commands_topic
from publisher.kafka.topics import (
    _STATE_CONFIG,
    DEAD_LETTERS_PARTITIONS,
    MESSAGES_PARTITIONS,
    STATE_PARTITIONS,
)
from publisher.model import Standing, StateRecord, Window
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.schedule.passes import passes_of
from publisher.settings import PublisherSettings
from publisher.state import state
from tests.fakes import Seen, seen
from tests.fetched import Missing, prepared
from tests.test_schemas import (
    CHAT,
    EVENTS,
    MINUTE,
    OPERATION,
    READ_AT,
    ROW,
    SCHEMAS,
    START,
    checkpoint,
    example,
    journal,
    line_of,
    owner,
    record_of,
    revision_of,
    schema,
)
from tests.test_state_format import publication_of

DOCUMENT: Final[dict[str, Any]] = json.loads((SCHEMAS / "asyncapi.json").read_bytes())
CHANNELS: Final[dict[str, Any]] = DOCUMENT["channels"]
MESSAGES: Final[dict[str, Any]] = DOCUMENT["components"]["messages"]
PROMISES: Final = {"delivery", "key", "partitioner", "ordering", "retention"}


def text_of(headers: list[tuple[str, bytes]]) -> dict[str, str]:
    return {name: content.decode() for name, content in headers}


def published() -> tuple[list[Seen], list[Seen], list[StateRecord]]:
    """What one window writes: its events, its dead letters, its state."""
    names = [pass_.name for pass_ in passes_of(PublisherSettings())]
    known, _ = state.first(OPERATION, "America/Bogota", START, "now", names)
    chat = {**CHAT, "conversation": [dict(ROW), {**ROW, "date": "never"}]}
    batch = publication_of(known, [chat]).batch
    return list(map(seen, batch.events)), list(map(seen, batch.dead_letters)), list(batch.state)


def says(name: str, *, key: bytes | None, headers: dict[str, str] | None, value: Any) -> None:
    """Check a record against the message of that name. Raises ValidationError."""
    message = MESSAGES[name]
    if key is not None:
        Draft202012Validator(message["bindings"]["kafka"]["key"]).validate(key.decode())
    assert (headers is None) == ("headers" not in message)
    for part, told in (("headers", headers), ("payload", value)):
        if told is not None and "schema" in message.get(part, {}):
            schema(named(message[part])).validate(told)


def named(part: dict[str, Any]) -> str:
    """The name of the schema file that the document refers to."""
    found = re.fullmatch(r"\./([a-z-]+)\.v1\.schema\.json", part["schema"]["$ref"])
    assert found
    return found[1]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, inner in part.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


# --- the document itself --------------------------------------------------------------------------


def test_it_is_an_asyncapi_document() -> None:
    """By the official JSON Schema of AsyncAPI 3.0.0, with its bindings for Kafka."""
    try:
        folder = prepared(Path(__file__).parent / "asyncapi", ["npm", "ci", "--ignore-scripts"])
    except Missing as missing:
        pytest.skip(str(missing))
    official = json.loads(
        (folder / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json").read_bytes()
    )
    validator = Draft7Validator(official)
    validator.validate(DOCUMENT)
    spoilt = json.loads(json.dumps(DOCUMENT))
    spoilt["channels"]["state"]["bindings"]["kafka"]["partitions"] = 0
    with pytest.raises(ValidationError):  # it does look at what is said of Kafka
        validator.validate(spoilt)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 10
    for reference in found:
        file, _, path = reference.partition("#")
        if file:
            assert (SCHEMAS / file).exists(), reference
            continue
        part: Any = DOCUMENT
        for step in path.strip("/").split("/"):
            part = part[step]


def test_every_schema_is_told_of() -> None:
    told = {file for file in references(DOCUMENT) if file.startswith("./")}
    assert told == {f"./{path.name}" for path in SCHEMAS.glob("*.schema.json")}


def test_every_channel_makes_every_kind_of_promise() -> None:
    for channel in CHANNELS.values():
        assert channel["x-promises"].keys() == PROMISES
        assert "read_committed" in channel["x-promises"]["delivery"]


# --- what is really written -----------------------------------------------------------------------


def test_the_topics_are_those_that_are_made() -> None:
    defaults = PublisherSettings()
    assert {
        name: (channel["address"], channel["bindings"]["kafka"]["partitions"])
        for name, channel in CHANNELS.items()
    } == {
        "messages": (defaults.messages_topic, MESSAGES_PARTITIONS),
        "revisions": (f"{defaults.messages_topic}.revisions", MESSAGES_PARTITIONS),
        "deadLetters": (defaults.dead_letters_topic, DEAD_LETTERS_PARTITIONS),
        "state": (defaults.state_topic, STATE_PARTITIONS),
        "commands": (defaults.commands_topic, STATE_PARTITIONS),
    }
    told = CHANNELS["state"]["bindings"]["kafka"]["topicConfiguration"]
    assert told["cleanup.policy"] == [_STATE_CONFIG["cleanup.policy"]]
    assert str(told["delete.retention.ms"]) == _STATE_CONFIG["delete.retention.ms"]


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_as_it_says(name: str) -> None:
    key, value, headers, _ = record_of(name)
    says("message", key=key, headers=text_of(headers), value=json.loads(value))
    assert MESSAGES["message"]["name"] == EVENT_TYPE


def test_the_example_in_it_is_the_one_that_is_compared_byte_by_byte() -> None:
    [told] = MESSAGES["message"]["examples"]
    record = json.loads(example("event.record"))
    assert told["headers"] == record["headers"]
    assert told["payload"] == record["value"]


def test_a_revision_is_as_it_says() -> None:
    key, value, headers, _ = revision_of({}, {"feeling": "positive"})
    says("messageRevised", key=key, headers=text_of(headers), value=json.loads(value))
    assert MESSAGES["messageRevised"]["name"] == revisions.EVENT_TYPE
    [told] = MESSAGES["messageRevised"]["examples"]
    record = json.loads(example("event-revised.record"))
    assert told["headers"] == record["headers"]
    assert told["payload"] == record["value"]
    assert not PublisherSettings().revisions_topic, "the address is a proposal"


def test_what_a_window_writes_is_as_it_says() -> None:
    events, letters, (entry, after) = published()
    for key, value, headers, _ in events:
        says("message", key=key, headers=text_of(headers), value=json.loads(value))
    for key, value, headers, _ in letters:
        says("deadLetter", key=key, headers=text_of(headers), value=value)
    assert events
    assert letters
    assert entry.value
    assert after.value
    says("journal", key=entry.key, headers=None, value=line_of(entry.value))
    says("checkpoint", key=after.key, headers=None, value=json.loads(after.value))


def test_a_dead_letter() -> None:
    """Key, headers and bytes of the row that could not be an event."""
    _, [(key, value, headers, _)], _ = published()
    told = json.loads(example("dead-letter.record"))
    assert key is not None
    assert {"key": key.decode(), "headers": text_of(headers), "value": value.decode()} == told
    assert MESSAGES["deadLetter"]["headers"]["schema"]["$ref"].endswith("headers.v1.schema.json")


def test_a_dead_letter_in_parts_is_as_it_says() -> None:
    letter = dead_letter.DeadLetter(RejectReason.ANSWER_UNDECODABLE, "answer", b"x" * 25)
    origin = dead_letter.Origin(OPERATION, "reread", Window(START, START + MINUTE), READ_AT)
    parts = list(dead_letter.records([letter], origin, 10))
    assert len(parts) == 3
    for key, value, headers, _ in map(seen, parts):
        says("deadLetter", key=key, headers=text_of(headers), value=value)


@pytest.mark.parametrize("outcome", sorted(DONE))
def test_what_ends_a_dead_letter_is_as_it_says(outcome: str) -> None:
    letter = dead_letter.DeadLetter(RejectReason.ROW_INVALID, "data[0]", b"5")
    origin = dead_letter.Origin(OPERATION, "reread", Window(START, START + MINUTE), READ_AT)
    [(key, value, headers, _)] = map(seen, dead_letter.records([letter], origin, 10))
    found = Letters({OPERATION: OPERATION}).add(headers, value, READ_AT)
    assert isinstance(found, Letter)
    end = seen(replayed(found, outcome, READ_AT), with_value=False)
    assert (end.key, end.value) == (key, b"")
    says("deadLetterReplayed", key=end.key, headers=text_of(end.headers), value=None)
    readme = (SCHEMAS / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in end.header)


@pytest.mark.parametrize("reason", RejectReason)
def test_every_reason_is_known(reason: RejectReason) -> None:
    assert reason in schema("dead-letter-headers").schema["properties"]["reason"]["enum"]


def test_the_state_is_as_it_says() -> None:
    [entry] = journal()
    for name, record in (("checkpoint", checkpoint()), ("owner", owner()), ("journal", entry)):
        assert record.value
        says(name, key=record.key, headers=None, value=line_of(record.value))
        for other in {"checkpoint", "owner", "journal"} - {name}:
            with pytest.raises(ValidationError):
                says(other, key=record.key, headers=None, value=None)


def test_a_command_is_as_it_says() -> None:
    backfill_request = BackfillRequest(
        "20261120T150000-0f0f", START, START + MINUTE, again=False, wanted=Standing.RUNNING
    )
    value = json.loads(commands_topic._encoded(backfill_request))
    says("command", key=f"{OPERATION}/{backfill_request.id}".encode(), headers=None, value=value)


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("event-headers", {"ce_type": "wolkvox.chat.message.v2"}),
        ("event-headers", {"surprise": "1"}),
        ("event-headers", {"wolkvox_pass": "reread-1h"}),
        ("dead-letter-headers", {"part": "-1"}),
        ("dead-letter-headers", {"position": "somewhere"}),
    ],
)
def test_the_schemas_of_headers_refuse_what_is_none(name: str, spoilt: dict[str, str]) -> None:
    [event, *_], [letter, *_], _ = published()
    headers = text_of((event if name == "event-headers" else letter)[2])
    schema(name).validate(headers)
    with pytest.raises(ValidationError):
        schema(name).validate({**headers, **spoilt})

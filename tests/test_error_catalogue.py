"""docs/reference/errors.md: every message is in it, none that is gone, and each was provoked."""

import re
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from publisher.commands.check import api_checks, topic_checks
from publisher.commands.check.checklist import Check, Checklist, GiveUpError, State, trying
from publisher.commands.check.kafka_context import Inside
from publisher.errors import (
    Fenced,
    NeedsOperator,
    OutcomeUnknown,
    PublisherError,
    Reason,
    SettingsError,
    Stage,
)
from publisher.kafka import probe as kafka_probe
from publisher.kafka.client_errors import closed_door, outcome_unknown, translated
from publisher.kafka.clients import Clients
from publisher.kafka.cluster import Cluster
from publisher.kafka.topics import UNKNOWN_TOPIC, wanted_topics
from publisher.settings import Settings, load
from publisher.signals import (
    DateMissing,
    DatesOff,
    EventsGone,
    NothingFound,
    ServiceStopped,
    Signal,
    ZoneChanged,
)
from publisher.state import checkpoint, journal, state
from publisher.telemetry.log_messages import log_line
from publisher.wolkvox.client import transient
from publisher.wolkvox.responses import ROW_CAP, classify
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import Author, ids_of
from tests.messages import ROOT, Entry, catalogue, spoken_by, template, texts_of
from tests.test_docs import LOG_LINES
from tests.test_signals import NOON, PUBLISHED
from tests.test_upstream import CHAT, answer, envelope, said

ENTRIES: Final = catalogue()
FILES: Final = [*sorted((ROOT / "publisher").rglob("*.py")), ROOT / "deploy" / "healthcheck.py"]

SILENT: Final = {
    "publisher/cli.py": "help texts",
    "publisher/telemetry/gauges.py": "descriptions of metrics",
    "publisher/commands/verify/textfile.py": "descriptions of metrics",
    "publisher/telemetry/operation_status.py": "what the page and `status` say beside the state",
    "publisher/telemetry/metrics.py": "descriptions of metrics",
    "publisher/telemetry/page.py": "the page, which shows messages of others",
    "publisher/events/dead_letter.py": "mistakes of ours, told as unexpected",
    "publisher/wolkvox/timezone.py": "why a row becomes a dead letter",
    "publisher/model.py": "mistakes of ours, told as unexpected",
}
"""Files whose texts are no messages, and why."""

NO_MESSAGES: Final = {
    # the events that carry a message, which stand in the introduction
    "Something looks wrong", "Step failed: action required",
    # what went well
    "Parked window repaired", "Backfill requests applied",
    "missing; Kafka will create it for the first transaction",
    "a release before 3.0, or another product",
    "First start, state created", "Request not answered",
    # words of the vendor, and of asyncio, that are looked for
    "does not exist", "Future exception was never retrieved",
    # pieces of other things
    "rows look like {}; WOLKVOX_TIMEZONE={} has it",
    # what aiokafka asks of a request, which is sent to newer brokers only
    "Kafka is older than 2.5",
    "Value error, ", r"\(at line \d+, column \d+\)|\(at end of document\)",
    "an instant needs an offset",
    # what `status` prints
    "The running service at {}, version {}", "No running service; the state topic {}",
    "All times are UTC; it is {}", "Operation {} by itself", "has not begun yet", ", possibly cut",
    "last window  {}, {} to {}: {} rows, {} new, {} known before, {} rejected",
    "parked       {} to {}: could not be read yet",
    "backfill     {} {}, {} to {}: read until {}, {} rows, {} new",
    "published    {} events since the service started", "{}, next attempt in {}",
    # what `backfill` prints
    "{}  ordered: {} to {} of {}", "{}  {}  {} {}  {} to {}{}: {} rows, {} new{}",
    ", {} rows/s, {} to go", "No backfill was ordered",
    # what `check` prints
    "Checking, at most 15 seconds ...", "Nothing failed, hints: {}. ", "{}The service can run.",
    ", {} not tried because of that",
    # what `dead-letters` prints
    "{} events", ": nothing to replay", "a dry run: nothing was published; --publish does it",
    # what `state` prints
    "{} tells of no operation", ", not in the settings: state forget removes it",
    "forgotten", "would be forgotten (add --yes)",
    "{}: {} records {}; its events stay in the messages topic",
    "{}: {} records, {} bytes",
    "{}\n  began at {}, zone {}, covered until {}, cursor {}\n  {} ids in {} windows, {} parked,"
    " {} backfills",
    # what `gaps` and `coverage` print
    "parked: it failed while others answered, repair reads it again", "not read yet",
    "possibly cut by the report's row cap", "read longer ago than the journal remembers",
    "before the operation began", "nothing is missing", "{}: nothing lies between --from and --to",
    "{}: {} between {} and {} (UTC)", "read when it was {} old or older",
    "{}, days of {}, {} minutes a cell; times below are local",
    # where all is well
    "left to the proxy of the environment (HTTPS_PROXY)", "{} is an address already",
    "port {} accepts connections", "agreed on, and the certificate is trusted",
    "the token is accepted; {} rows of the last hour {}",
    "the token is accepted; no rows in the last hour {}",
    "the token is accepted; no rows in the last hour {} (a 404, which is also what a server without"
    " this report says)",
    "the token is accepted; the last hour holds more rows than one answer may {}: the service asks"
    " for less at a time",
    "the server's and ours differ by {} s", "{} minutes old, by {}",
    "it speaks Kafka, {}", "{}: each as it names itself", "the right ones, when it is created",
    "rights are not told", "we may write as {}", "the brokers allow {} s, {} s are needed",
    "missing; the service will create it at its first start (partitions {}, replicas {})",
    "can be restored; live goes on at {}", "none yet; the first start will create it",
    "missing, so nothing was ordered; the first backfill will create it"
    " (partitions {}, replicas {})", "we may read and write", "{}, before a backfill is ordered",
    "there (partitions {}); we may read, others order backfills",
    # commands that it names
    "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{} {} {}",
    "--transactional-id {} --resource-pattern-type prefixed",
    # and what it adds to messages, where the service itself would simply wait
    " (if the service is running, that is it: nothing is wrong then; it was asked {} times)",
    "; all tokens of the operation share it: find out who else uses it; a longer"
    " PUBLISHER_POLL_EVERY or fewer PUBLISHER_REREADS save requests",
    "; try again in some minutes, and ask the vendor when it lasts",
    "; try again in some minutes: who else asks this server?",
    " ({} s here; the service waits for {} s): try again in some minutes, and ask the vendor when"
    " it lasts",
    # what `lateness` prints
    "{} messages of the last {}, read over {}", "  the re-read at {} found {}", "   as it is",
    "How old they were when they were first read, at most:",
    "Too little for a proposal: it takes {} messages that live found in its rhythm or a re-read"
    " found (here {}), read over {} or more (here {}).",
    "Let the service run on, or look further back with --last.",
    "  PUBLISHER_HORIZON={}   (needed by the longest)",
    "  costs about {} requests a day (now {}), of {} for each licence",
    # the summary of `preview`
    "masked: {}; --show-text shows them", "{}: ended at --limit {}",
    "{}: {} events of the last {}{}, from {} rows in {} requests, {} s",
    "{}: {} to the dead letters ({})", "{}: possibly cut by the report: {}",
    # what `verify` and `state rebuild` print
    "nothing could be compared",
    "{} to {}: {} rows, {} events; {} missing ({} repaired), {} doubled, {} extra,"
    " {} changed",
    "NOT JUDGED in whole",
    "not vouched for, and not repaired, from {} to {}: what was published of that time is not"
    " remembered",
    "not judged before {}: the topic has deleted older events",
    "not judged after {}: live has not settled it yet", "nothing before {} was ever asked for",
    "  and {} more: --json shows them all", "would be rebuilt (add --yes)",
    "{}: {} from {} events; live goes on at {}",
    "{}: no events in {}: nothing to rebuild",
}  # fmt: skip


def is_message(text: str) -> bool:
    """Three words or more: what people read."""
    return len(re.findall(r"[A-Za-z]{2,}", text.replace("{}", "x"))) >= 3 and text.count(" ") >= 2


def named(words: str) -> Entry:
    """The one entry that these words stand for."""
    found = [entry for entry in ENTRIES if entry.text == words] or [
        entry for entry in ENTRIES if words in entry.text
    ]
    assert len(found) == 1, (words, [entry.text for entry in found])
    return found[0]


def is_entry(words: str, text: str, reason: Reason | None = None) -> bool:
    """Whether a message is the entry of these words, from its first to its last letter."""
    entry = named(words)
    pattern = ".+".join(re.escape(part) for part in entry.text.split("{}"))
    return bool(re.fullmatch(pattern, text)) and entry.reasons == ((reason,) if reason else ())


# --- the catalogue and the code -------------------------------------------------------------------


def test_the_catalogue_is_read() -> None:
    """Each item has its cause and its cure; none stands there twice."""
    text = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    assert len(ENTRIES) == text.count("\n- **`") > 100
    assert len({entry.text for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_message_of_the_code_has_an_entry(path: Path) -> None:
    """Found as texts of three words and more, wherever in the file they stand."""
    if str(path.relative_to(ROOT)) in SILENT:
        return
    known = {entry.text for entry in ENTRIES}
    known |= {entry.text.removeprefix("{} ") for entry in ENTRIES}  # settings: NAME and what it is
    known |= {part for entry in ENTRIES for part in entry.parts}
    missing = [
        f"{path.name}:{line}: {text}"
        for line, text in texts_of(path)
        if is_message(text) and text not in known | NO_MESSAGES
    ]
    assert not missing


def test_every_entry_is_a_message_of_the_code() -> None:
    """None describes what was renamed or removed."""
    code = {text for path in FILES for _, text in texts_of(path)}
    gone = [
        entry.text
        for entry in ENTRIES
        if entry.text not in code and entry.text.removeprefix("{} ") not in code
    ]
    assert not gone


def test_every_exemption_is_needed() -> None:
    code = {text for path in FILES for _, text in texts_of(path)}
    assert code >= NO_MESSAGES
    assert {str(path.relative_to(ROOT)) for path in FILES} >= SILENT.keys()


def test_every_reason_has_an_entry() -> None:
    found = {reason for entry in ENTRIES for reason in entry.reasons}
    # Nothing raises this one: what it was meant for is a log line of its own.
    assert found == set(Reason) - LOG_LINES


# --- provoked here --------------------------------------------------------------------------------

NEEDED: Final = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "the-token"}


def problem(tmp_path: Path, toml: str = "", **environment: str) -> str:
    """The one thing that is wrong with these settings."""
    given = {name: value for name, value in {**NEEDED, **environment}.items() if value != "-"}
    if toml:
        (tmp_path / "publisher.toml").write_text(toml, encoding="utf-8")
        given["PUBLISHER_CONFIG"] = str(tmp_path / "publisher.toml")
    with pytest.raises(SettingsError) as raised:
        load(given)
    [only] = raised.value.problems
    return only


SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "{} must be one of {}": {"KAFKA_SECURITY_PROTOCOL": "TLS"},
    "{} must be at least {}": {"PUBLISHER_MAX_EVENT_BYTES": "1"},
    "{} must be at most {}": {"PUBLISHER_HTTP_PORT": "70000"},
    "{} must be a whole number": {"PUBLISHER_HTTP_PORT": "http"},
    "{} must not be empty": {"PUBLISHER_TRANSACTIONAL_ID": ""},
    "must be text (in the file": {"toml": "[publisher]\ntransactional_id = 1\n"},
    "must be a path (in the file": {"toml": "[kafka]\nssl_cafile = 1\n"},
    "{} cannot be used as it is": {"toml": "[publisher]\nhttp_port = inf\n"},
    "{} is not a duration": {"PUBLISHER_POLL_EVERY": "5"},
    "{} is too long": {"PUBLISHER_OVERLAP": "9999d"},
    "{} must be greater than zero": {"PUBLISHER_POLL_EVERY": "0s"},
    "is not a list of durations": {"toml": "[publisher]\nrereads = 1\n"},
    "{} is not a start": {"PUBLISHER_START": "yesterday"},
    "{} is not a topic name": {"PUBLISHER_STATE_TOPIC": "a topic"},
    "{} is not an IANA time zone": {"WOLKVOX_TIMEZONE": "Bogota"},
    "{} is not a base URL": {"WOLKVOX_URL": "wv0010.wolkvox.com"},
    "must not hold a user name": {"WOLKVOX_URL": "https://me:secret@wv0010.wolkvox.com"},
    "must be four digits as text": {"WOLKVOX_SERVER": "8"},
    "is missing: the four digits": {"WOLKVOX_SERVER": "-"},
    "{} must be letters, digits": {"WOLKVOX_NAME": "a name"},
    "is missing: set it or": {"WOLKVOX_TOKEN": "-"},
    "must be printable ASCII": {"WOLKVOX_TOKEN": "the token"},
    "are both set": {"WOLKVOX_TOKEN_FILE": "/run/secrets/token"},
    "cannot read the file {}: {}": {"WOLKVOX_TOKEN": "-", "WOLKVOX_TOKEN_FILE": "/nowhere/token"},
    "it is not text": {"WOLKVOX_TOKEN": "-", "WOLKVOX_TOKEN_FILE": sys.executable},
    "{}: the file {} is empty": {"WOLKVOX_TOKEN": "-", "WOLKVOX_TOKEN_FILE": "/dev/null"},
    "describe one operation and [[operations]]": {
        "toml": '[[operations]]\nserver = "0024"\ntoken = "another"\n'
    },
    "two of them have equal": {
        "WOLKVOX_SERVER": "-", "WOLKVOX_TOKEN": "-",
        "toml": '[[operations]]\nserver = "0024"\ntoken = "a"\n'
        '[[operations]]\nserver = "0025"\ntoken = "a"\n',
    },
    "PUBLISHER_HORIZON must be": {"PUBLISHER_HORIZON": "1d"},
    "an age must be greater": {"PUBLISHER_REREADS": "0s"},
    "PUBLISHER_MAX_WINDOW must be at least 1s": {"PUBLISHER_MAX_WINDOW": "10ms"},
    "PUBLISHER_MAX_WINDOW must be at most 31d": {
        "PUBLISHER_MAX_WINDOW": "40d", "PUBLISHER_HORIZON": "90d",
    },
    "PUBLISHER_*_TOPIC: ": {"PUBLISHER_STATE_TOPIC": "wolkvox.messages"},
    "PUBLISHER_STATE_TOPIC must not hold": {"PUBLISHER_STATE_TOPIC": "state.{operation}"},
    "PUBLISHER_COMMANDS_TOPIC must not hold": {"PUBLISHER_COMMANDS_TOPIC": "c.{operation}"},
    "KAFKA_SASL_USERNAME is missing": {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD": "secret",
    },
    "KAFKA_SASL_PASSWORD is missing": {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me",
    },
    "go together: set both or none": {"KAFKA_SSL_CERTFILE": __file__},
    "{}: there is no file {}": {"KAFKA_SSL_CAFILE": "/nowhere/ca.pem"},
    "PUBLISHER_CONFIG: cannot read": {"PUBLISHER_CONFIG": "/nowhere/publisher.toml"},
    "is not TOML": {"toml": "[publisher]\npoll_every = 5m\n"},
    "PUBLISHER_CONFIG: unknown table": {"toml": "[publishers]\n"},
    "must be written as": {"toml": "[[publisher]]\n"},
    "PUBLISHER_CONFIG: unknown name": {"toml": "[publisher]\npol_every = '5m'\n"},
}  # fmt: skip


@pytest.mark.parametrize("words", SETTINGS)
def test_a_setting_that_cannot_work(words: str, tmp_path: Path) -> None:
    assert is_entry(words, problem(tmp_path, **SETTINGS[words]))


def settings_of(**environment: str) -> Settings:
    return load({**NEEDED, **environment})


FILES_OF_TLS: Final = {
    "KAFKA_SSL_CAFILE: ": ("KAFKA_SSL_CAFILE",),
    "KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: ": ("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"),
}


@pytest.mark.parametrize("words", FILES_OF_TLS)
def test_a_file_that_is_no_certificate(words: str, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk", encoding="utf-8")
    given = dict.fromkeys(FILES_OF_TLS[words], str(tmp_path / "junk.pem"))
    with pytest.raises(SettingsError) as raised:
        Clients(settings_of(KAFKA_SECURITY_PROTOCOL="SSL", **given))
    assert is_entry(words, str(raised.value))


HINTS: Final = {
    "ages within PUBLISHER_OVERLAP": {"PUBLISHER_REREADS": "5m"},
    "is not a setting and is ignored": {"PUBLISHER_POL_EVERY": "5m"},
}


@pytest.mark.parametrize("words", HINTS)
def test_a_setting_that_looks_wrong(words: str) -> None:
    [hint] = settings_of(**HINTS[words]).hints
    assert is_entry(words, hint)


API: Final[Mapping[str, Callable[[], Any]]] = {
    "the server saw no token": lambda: said(401, "no token 1"),
    "the token is wrong": lambda: said(403, "please validate token 1"),
    "somebody else is using": lambda: said(403, "simultaneous 1"),
    "the daily quota": lambda: said(403, "token limit 1"),
    "the server refuses for now": lambda: said(403, ""),
    "refuses the request as malformed": lambda: said(400, ""),
    "does not know the report": lambda: said(400, "does not exist 1"),
    "the server redirects": lambda: classify(answer(302, b"")),
    "a 404 that does not mean": lambda: said(404, ""),
    "the server gave up": lambda: said(408, ""),
    "the server asks for fewer": lambda: said(429, ""),
    "a problem of its own": lambda: said(503, ""),
    "the server finds the window": lambda: said(413, ""),
    "larger than the memory budget": lambda: classify(answer(200, b"", oversized=True)),
    "the report's row cap": lambda: classify(answer(200, envelope(data=[CHAT] * ROW_CAP))),
    "not the JSON object": lambda: classify(answer(200, b"[]")),
    "no list of conversations": lambda: classify(answer(200, envelope(data=None))),
    "200 and an error at once": lambda: classify(answer(200, envelope(error="x", data=[CHAT]))),
    "found records and holds none": lambda: classify(
        answer(200, envelope(msg="3 records were found", data=[]))
    ),
    "there are no rows and holds some": lambda: classify(
        answer(404, envelope("404", "NOT FOUND", "Validate dates entered", [CHAT]))
    ),
    "the server answers with status": lambda: said(418, ""),
    "the body is empty": lambda: classify(answer(200, b" ")),
    "the body is not the JSON": lambda: classify(answer(200, b"<html>")),
}


@pytest.mark.parametrize("words", API)
def test_what_the_api_says(words: str) -> None:
    found = API[words]()
    assert is_entry(words, found.text, found.reason)


def refused(errno: int) -> OSError:
    return OSError(errno, "not repeated")


KEY: Final[Any] = aiohttp.client_reqrep.ConnectionKey(
    "host", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
INFO: Final[Any] = None
UNTRUSTED: Final = ssl.SSLCertVerificationError(1, "not repeated")
UNTRUSTED.verify_message = "self-signed certificate"
WAY: Final[Mapping[str, Exception]] = {
    "cannot reach {}: {}; check": aiohttp.ClientConnectorError(KEY, refused(111)),
    "its name is not known here (DNS)": aiohttp.ClientConnectorDNSError(KEY, refused(2)),
    "cannot trust {}: {}; check": aiohttp.ClientConnectorCertificateError(KEY, UNTRUSTED),
    "another certificate": aiohttp.ServerFingerprintMismatch(b"", b"", "host", 443),
    "TLS cannot be agreed on": aiohttp.ClientConnectorSSLError(KEY, refused(1)),
    "no address that can be asked": aiohttp.InvalidURL("x"),
    "cannot reach the proxy": aiohttp.ClientProxyConnectionError(KEY, refused(111)),
    "the proxy on the way to {} refuses": aiohttp.ClientHttpProxyError(INFO, (), status=407),
    "did not finish its answer in time": TimeoutError(),
    "was cut, or cannot be": aiohttp.ClientPayloadError(),
    "the answer of {} is not HTTP": aiohttp.ClientResponseError(INFO, ()),
    "closed the connection before": aiohttp.ServerDisconnectedError(),
}
"""Which error of aiohttp means what, tests/test_source.py finds out with real servers."""


@pytest.mark.parametrize("words", WAY)
def test_the_way_to_the_api(words: str) -> None:
    found = transient(WAY[words], "host:443")
    assert is_entry(words, str(found), found.reason)


DOORS: Final[Mapping[str, BaseException]] = {
    "{} cannot be reached (nobody listens there)": ConnectionRefusedError(),
    "{} cannot be reached ({}): check KAFKA_BOOTSTRAP_SERVERS": TimeoutError(),
    "{} refuses user name or password": SaslAuthenticationFailed(),
    "{} does not offer this mechanism": UnsupportedSaslMechanismError(),
    "{} shows a certificate that is not trusted": UNTRUSTED,
    "{} does not speak TLS with us": ssl.SSLError(1, "x"),
}
"""Which of them a real broker answers with, tests/test_kafka_security.py finds out."""


@pytest.mark.parametrize("words", DOORS)
def test_the_way_to_kafka(words: str) -> None:
    found = closed_door("host:9092", DOORS[words], 10)
    assert is_entry(words, str(found), found.reason)


CLIENT: Final[Mapping[str, PublisherError]] = {
    "Kafka forbids our transactional id": translated(
        TransactionalIdAuthorizationFailed(), Stage.RESTORE
    ),
    "Kafka forbids the use of topic {}: grant WRITE": translated(
        TopicAuthorizationFailedError("a-topic"), Stage.COMMIT
    ),
    "Kafka cannot be reached: ": translated(KafkaConnectionError(), Stage.RESTORE),
    "Kafka did not answer in time": translated(TimeoutError(), Stage.RESTORE),
    "Kafka refused ({})": translated(PolicyViolationError(), Stage.RESTORE),
    "a topic takes smaller records": outcome_unknown(MessageSizeTooLargeError()),
    "Kafka did not take a transaction": outcome_unknown(KafkaTimeoutError()),
    "Kafka has ended our transaction": outcome_unknown(ProducerFenced()),
}
"""Which error a real broker answers with, tests/test_kafka.py finds out."""


@pytest.mark.parametrize("words", CLIENT)
def test_what_kafka_says(words: str) -> None:
    assert is_entry(words, str(CLIENT[words]), CLIENT[words].reason)


def damaged(**changes: Any) -> PublisherError:
    """How a restore of a state with these changes ends."""
    first, _ = state.first("wv0010", "America/Bogota", NOON, "now", ["live"])
    written = checkpoint.encode_checkpoint(replace(first.checkpoint, **changes))
    return lost({written.key: written.value})


def lost(live: Mapping[bytes, bytes | None]) -> PublisherError:
    with pytest.raises(NeedsOperator) as raised:
        state.restore("wv0010", {key: value or b"" for key, value in live.items()})
    return raised.value


def cut_journal() -> PublisherError:
    entry = checkpoint.Entry(1, "live", NOON, NOON, NOON, 1, 1, 0, 0)
    [written] = journal.journal_parts("wv0010", entry, ids_of({"2026-11-20 12": [1]}))
    assert written.value
    with pytest.raises(NeedsOperator) as raised:
        journal.decode_journal(written.value[:-1])
    return raised.value


STATE: Final[Mapping[str, Callable[[], PublisherError]]] = {
    "no checkpoint": lambda: lost({b"journal/wv0010/1/0": b""}),
    "has lost journal records": lambda: damaged(journal_records=2),
    "a journal record of the state topic": cut_journal,
    "is written in format": lambda: lost({b"checkpoint/wv0010": b'{"format": 9}'}),
}


@pytest.mark.parametrize("words", STATE)
def test_a_state_that_cannot_be_used(words: str) -> None:
    found = STATE[words]()
    assert is_entry(words, str(found), found.reason)


EVENTS: Final[Mapping[str, Signal]] = {
    "every answer was 404": NothingFound("wv0010", NOON),
    "gone from their topic": EventsGone("wolkvox.messages"),
    "no usable Date header": DateMissing("wv0010", NOON),
    "far off the server's clock": DatesOff("wv0010", -21_600.0),
    "Time zone changed": ZoneChanged("wv0010", "America/Bogota", "Europe/Madrid", ()),
    "possibly cut by the report": replace(PUBLISHED, possibly_cut=True),
    "from a damaged answer": replace(PUBLISHED, lenient=True),
    "some rows to the dead letters": replace(PUBLISHED, rejected={"row_invalid": 1}),
    "in the middle of a step": ServiceStopped(clean=False),
}


@pytest.mark.parametrize("words", EVENTS)
def test_an_event_of_the_log(words: str) -> None:
    """Its sentence is the entry; its hint or problem stands in the entry's cause."""
    _, event, fields = log_line(EVENTS[words])
    entry = named(words)
    assert event == entry.text
    assert {fields[name] for name in ("hint", "problem") if name in fields} <= {"", *entry.parts}


# --- provoked here on a real Kafka ----------------------------------------------------------------

ON_KAFKA: Final = (
    "names no broker that can be reached",
    "is missing and could not be created",
    "the state changed since",
    "another process has taken over",
)


async def test_on_a_real_kafka(kafka: Broker, topics: dict[str, str]) -> None:
    """What no other test asks the words of."""
    found: list[PublisherError] = []
    given = settings_of(**topics)
    found.append(await Clients(given)._diagnosis())  # every server of the list lets us in
    twin = topics["PUBLISHER_MESSAGES_TOPIC"].replace(".", "_")
    await kafka_tools.create(kafka.bootstrap, twin)  # Kafka refuses names that differ so
    async with AsyncExitStack() as stack:
        first, second = Cluster(given, lambda _: None), Cluster(given, lambda _: None)
        for cluster in (first, second):
            stack.push_async_callback(cluster.close)
        with pytest.raises(NeedsOperator) as not_created:
            await first.log("wv0010").restore()
        found.append(not_created.value)
        await kafka_tools.delete(kafka.bootstrap, twin)
        author = Author("wv0010")
        await first.log("wv0010").restore()
        await first.log("wv0010").commit(author.first())
        with pytest.raises(OutcomeUnknown) as moved_on:
            await first.log("wv0010").commit(author.first())
        found.append(moved_on.value)
        await second.log("wv0010").restore()
        await second.log("wv0010").commit(author.window([]))
        with pytest.raises(Fenced) as fenced:
            await first.log("wv0010").commit(author.window([]))
        found.append(fenced.value)
    for words, error in zip(ON_KAFKA, found, strict=True):
        assert is_entry(words, str(error), error.reason), str(error)


# --- provoked here in the commands ----------------------------------------------------------------

TOPIC: Final = "wolkvox.messages"


async def time_is_over(check: Check) -> None:
    check.trying = True
    Checklist([check]).end(12)


async def no_date(check: Check) -> None:
    api_checks._look_at_clock(check, answer(200, b""))


async def strange_date(check: Check) -> None:
    found = answer(200, envelope(data=[{"conversation": [{"date": "today"}]}]))
    api_checks._look_at_rows(check, settings_of().operations[0], (found, classify(found)), None)


def dated(by: timedelta) -> Callable[[Check], Awaitable[None]]:
    """The newest row lies so far from now, by the zone of the settings."""

    async def look(check: Check) -> None:
        now = NOON.astimezone(ZoneInfo("America/Bogota")) + by
        found = answer(200, envelope(data=[{"conversation": [{"date": f"{now:%F %T}"}]}]))
        api_checks._look_at_rows(check, settings_of().operations[0], (found, classify(found)), None)

    return look


async def no_row(check: Check) -> None:
    found = answer(404, envelope(code="404", msg="Validate dates entered"))
    asked = found, classify(found)
    api_checks._look_at_rows(check, settings_of().operations[0], asked, asked)


async def too_many_ahead(check: Check) -> None:
    many, none = (
        replace(answer(200, b""), oversized=True),
        answer(404, envelope(code="404", msg="Validate dates entered")),
    )
    asked = (many, classify(many)), (none, classify(none))
    api_checks._look_at_rows(check, settings_of().operations[0], *asked)


def shown(code: int) -> Inside:
    """A cluster that shows our topic so."""
    topics = {TOPIC: kafka_probe.Topic(code, 0, None)}
    cluster = kafka_probe.Cluster({1: "host:9092"}, 1, topics)
    given = settings_of()
    return Inside(given, wanted_topics(given, "wv0010"), cluster, None, None, 1, 1)


async def no_leader(check: Check) -> None:
    await topic_checks._rights(shown(5), TOPIC, check)


async def no_controller(check: Check) -> None:
    with pytest.MonkeyPatch.context() as patch:
        answers = AsyncMock(return_value=kafka_probe.NOT_CONTROLLER)
        patch.setattr(kafka_probe, "could_create", answers)
        await topic_checks._rights(shown(UNKNOWN_TOPIC), TOPIC, check)


async def old_kafka(check: Check) -> None:
    with suppress(GiveUpError), trying(check):
        kafka_probe._ShowCluster([], False, False, True).prepare({3: (0, 7)})


CHECKS: Final[Mapping[str, Callable[[Check], Awaitable[None]]]] = {
    "the other side hangs, or is very slow": time_is_over,
    "has no Date header": no_date,
    "is not of the form that the report": strange_date,
    "minutes in the future by": dated(timedelta(hours=8)),
    "either nobody has written since": dated(timedelta(hours=-3)),
    "none in the last day": no_row,
    "many lie in the future": too_many_ahead,
    "Kafka cannot say anything of topic": no_leader,
    "only the controller knows": no_controller,
    "Kafka is older than 2.3": old_kafka,
}


@pytest.mark.parametrize("words", CHECKS)
async def test_what_a_check_finds(words: str) -> None:
    """Where no other test has what it takes: more than one broker, an old one, an odd answer."""
    check = Check("a group", "a check")
    await CHECKS[words](check)
    assert check.state in (State.FAILED, State.HINT)
    assert is_entry(words, check.text)


# --- provoked elsewhere ---------------------------------------------------------------------------

ELSEWHERE: Final = {
    "of its range: what was published of it is forgotten": (
        "test_forgotten.py::test_a_backfill_skips_what_is_forgotten_and_says_so"
    ),
    "has not shown one row": "test_lag.py::test_an_operation_without_a_row_is_told_of",
    "FROM must lie before TO": "test_verify.py::test_what_cannot_be_meant",
    "--metrics-file: {} cannot be written": (
        "test_verify.py::test_the_result_is_written_as_metrics"
    ),
    "nothing was published yet, or its state is lost": (
        "test_verify.py::test_before_anything_was_published"
    ),
    "its messages topic {} is not there": "test_verify.py::test_before_anything_was_published",
    "lost its state, too, and": ("test_rebuild_together.py::test_operations_that_share_a_topic"),
    "its state is whole, there is nothing to rebuild": (
        "test_rebuild.py::test_a_lost_state_is_rebuilt"
    ),
    "order them anew if wanted": "test_rebuild.py::test_a_lost_state_is_rebuilt",
    "earlier ones may come again": "test_rebuild.py::test_a_topic_that_has_deleted_events",
    "an event that this version did not write": "test_rebuild.py::test_an_event_of_somebody_else",
    "PUBLISHER_START is ignored": "test_flow.py::test_a_changed_start_is_ignored_and_said_so",
    "a part of the window lies in the server's future": (
        "test_request_limits.py::test_a_fast_clock_at_the_first_start"
    ),
    "no rows in nearly 31 days": (
        "test_request_limits.py::test_nothing_in_a_month_is_asked_for_in_less"
    ),
    "found more records than they hold": (
        "test_counts.py::test_a_counter_that_lies_costs_next_to_nothing"
    ),
    "the hour's share of its quota": (
        "test_quota.py::test_nothing_spends_more_than_its_share_of_an_hour"
    ),
    "shows rows again": (
        "test_silence.py::test_a_server_without_the_report_for_two_days_loses_nothing"
    ),
    "PUBLISHER_HTTP_PORT: port {}": "test_ops.py::test_a_taken_port_is_told_in_one_line",
    "rows cannot be understood: the report's format has changed": (
        "test_flow.py::test_a_changed_format_is_held"
    ),
    "the server's clock is": "test_flow.py::test_a_clock_that_is_hours_wrong_is_held",
    "grant DESCRIBE and WRITE on all its topics": "test_operator.py::test_missing_rights",
    "or grant CREATE": (
        "test_kafka_security.py::test_without_the_right_to_create_topics_somebody_else_must"
    ),
    "cannot be checked: grant DESCRIBE_CONFIGS": (
        "test_kafka_security.py::test_the_minimal_rights_suffice"
    ),
    ": with anything but compact": "test_kafka.py::test_a_topic_that_would_not_work_is_refused",
    "raise it to": "test_kafka.py::test_a_topic_that_would_not_work_is_refused",
    "is compacted: that would": "test_kafka.py::test_a_topic_that_would_not_work_is_refused",
    "bytes (max.message.bytes): set": "test_kafka.py::test_a_topic_that_would_not_work_is_refused",
    "partitions and needs": "test_kafka.py::test_a_topic_that_would_not_work_is_refused",
    "unexpected {} at {}": "test_flow.py::test_a_mistake_in_the_rules_does_not_end_the_loop",
    "what was published is not known until it ends": (
        "test_kafka.py::test_a_foreign_transaction_that_hides_the_tail_is_refused"
    ),
    "is empty, but the messages topic holds events": (
        "test_operator.py::test_an_emptied_state_topic"
    ),
    "so far: set it back to": "test_flow.py::test_another_time_zone_is_held",
    ": its loop has died": "test_ops.py::test_healthz_names_the_loop_that_died",
    ": its loop hangs, ": "test_ops.py::test_healthz_names_the_loop_that_hangs",
    ": state not restored": "test_ops.py::test_readyz_waits_for_every_operation",
    "the service is stopping": "test_ops.py::test_readyz_ends_with_a_stop",
    "Service crashed because of a bug": (
        "test_signals.py::test_what_nobody_caught_is_told_by_class_and_place"
    ),
    "Bug during cleanup": (
        "test_signals.py::test_an_error_in_a_finalizer_is_told_by_class_and_place"
    ),
    "Window parked; continuing with the others": (
        "test_signals.py::test_a_parked_window_and_its_repair_are_told"
    ),
    "Parked window failed again": "test_signals.py::test_a_parked_window_and_its_repair_are_told",
    "Second reading of a window failed; trying again later": (
        "test_signals.py::test_a_second_reading_that_fails_is_logged"
    ),
    "to have backfills": "test_check.py::test_orders_that_could_not_be_read",
    "orders cannot be read": ("test_backfill.py::test_orders_that_cannot_be_read_do_not_stop_live"),
    "Window of a backfill failed; trying again later": (
        "test_backfill.py::test_a_window_that_fails_is_told_and_read_later"
    ),
    "that this version cannot read": (
        "test_backfill_kafka.py::test_a_record_that_is_no_order_and_a_topic_that_forgets"
    ),
    "Kafka would forget what was ordered": (
        "test_backfill_kafka.py::test_a_record_that_is_no_order_and_a_topic_that_forgets"
    ),
    "must be an instant with its offset": "test_backfill_kafka.py::test_what_cannot_be_ordered",
    "TO lies in the future": "test_backfill_kafka.py::test_what_cannot_be_ordered",
    "has no backfill of this id": ("test_backfill_kafka.py::test_history_beside_live_over_a_kill"),
    "order its range anew": "test_backfill_kafka.py::test_history_beside_live_over_a_kill",
    "no answer on port": "test_container.py::test_no_service_is_unhealthy_with_one_line",
    "does NTP run here?": "test_check.py::test_clocks_that_differ",
    "servers let us in": "test_check.py::test_one_server_of_two",
    "Kafka says that its brokers are at": (
        "test_check.py::test_nothing_is_made_where_brokers_make_topics_by_themselves"
    ),
    "was set back to transaction": (
        "test_log_contract.py::test_a_state_that_was_set_back_is_noticed"
    ),
    "set back cannot be noticed": (
        "test_secure_kafka.py::test_each_look_at_the_settings_is_needed"
    ),
    "too few brokers are up": "test_replicas.py::test_the_text_names_brokers",
    "may lose acknowledged records": "test_replicas.py::test_what_endangers_records",
    "Kafka has one broker only": "test_check.py::test_all_is_well",
    "cannot be checked: grant DESCRIBE and": "test_check.py::test_the_minimal_rights",
    "can be restored, but the messages topic": "test_check_state.py::test_events_that_are_gone",
    "a single node of": "test_replicas.py::test_the_release_of_a_broker",
    "the brokers allow transactions of": (
        "test_check.py::test_nothing_is_made_where_brokers_make_topics_by_themselves"
    ),
    "Kafka forbids {} on topic": "test_check.py::test_describe_without_write",
    "cannot be seen without DESCRIBE_CONFIGS": "test_check.py::test_the_minimal_rights",
    "--operation: there is no": "test_preview.py::test_what_cannot_be_meant",
    "the service does not answer at": (
        "test_status.py::test_the_service_tells_and_once_it_is_killed_its_state_topic"
    ),
    "PUBLISHER_HTTP_PORT is 0": (
        "test_status.py::test_a_service_that_runs_elsewhere_notices_nothing"
    ),
    "--url is not an address": "test_status.py::test_an_address_that_is_none",
    "the state topic cannot be read: {}": "test_status.py::test_nothing_runs_at_all",
    "did not answer within": "test_status.py::test_a_cluster_without_our_topic_and_one_that_hangs",
    "shows no topic": "test_status.py::test_a_cluster_without_our_topic_and_one_that_hangs",
    "this answer is as old as its begin": (
        "test_status.py::test_an_undecided_transaction_does_not_keep_the_answer_back"
    ),
    "{} cannot be read: {}": "test_coverage.py::test_what_the_commands_refuse",
    "is not a date with offset: write": "test_coverage.py::test_what_the_commands_refuse",
    "has not begun: there is nothing to tell": "test_coverage.py::test_what_the_commands_refuse",
    "days: choose a later --from": "test_coverage.py::test_what_the_commands_refuse",
    "there is no dead letter": "test_replayed_letters.py::test_what_is_wrong_is_said",
    "dead letters have an id that begins with": (
        "test_replayed_letters.py::test_what_is_wrong_is_said"
    ),
    "are missing: they are older than": "test_replayed_letters.py::test_what_is_wrong_is_said",
    "choose what to replay": "test_replayed_letters.py::test_what_is_wrong_is_said",
    "--reason must be one of": "test_replayed_letters.py::test_what_is_wrong_is_said",
    "would begin anew and publish its past twice": (
        "test_remembered.py::test_a_removed_operation_is_forgotten"
    ),
    "tells nothing of an operation": "test_remembered.py::test_a_removed_operation_is_forgotten",
    "starts for the first time, but": "test_label.py::test_another_name_is_another_operation",
    "a service seems to run": "test_replayed_letters.py::test_letters_come_out_once",
    "has no state in the state topic": "test_replayed_letters.py::test_what_is_wrong_is_said",
    "the replay ended early": "test_replayed_letters.py::test_what_is_wrong_is_said",
}
"""Which words of a message some other test asserts."""


@pytest.mark.parametrize("words", ELSEWHERE)
def test_the_other_test_speaks_of_it(words: str) -> None:
    file, _, test = ELSEWHERE[words].partition("::")
    texts = spoken_by(file)[test]
    for piece in template(words).split("{}"):
        assert any(piece.strip() in text for text in texts), piece


def test_every_entry_is_provoked() -> None:
    tables = (SETTINGS, FILES_OF_TLS, HINTS, API, WAY, DOORS, CLIENT, STATE, EVENTS, CHECKS)
    words = [*ON_KAFKA, *ELSEWHERE, *(key for table in tables for key in table)]
    provoked = [named(one).text for one in words]
    assert not {entry.text for entry in ENTRIES} - set(provoked)
    assert len(provoked) == len(set(provoked))

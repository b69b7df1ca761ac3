"""Ways into a secured Kafka, and what is said at a closed door: one line, no secret."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from publisher.errors import (
    NeedsOperator,
    OutcomeUnknown,
    PublisherError,
    Reason,
    SettingsError,
    Transient,
)
from publisher.kafka.cluster import Cluster
from publisher.signals import HintGiven, Signal
from publisher.state import state
from sandbox.kafka import USERS, Broker
from sandbox.kafka.config import free_ports
from sandbox.kafka.tls import issue
from tests.fakes import Author, event, same, settings_of

Env = dict[str, str]
OPERATION = "wv0010"
WRONG_PASSWORD = "not-the-password-4711"
NO_LISTENER = f"127.0.0.1:{free_ports().plaintext}"

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
DOORS = [
    ("PLAINTEXT", ""),
    ("SSL", ""),
    *(("SASL_PLAINTEXT", mechanism) for mechanism in MECHANISMS),
    *(("SASL_SSL", mechanism) for mechanism in MECHANISMS),
]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def through(
    kafka: Broker, protocol: str, mechanism: str = "SCRAM-SHA-512", user: str = "admin"
) -> Env:
    """The settings that lead through this door."""
    address = {
        "PLAINTEXT": kafka.bootstrap,
        "SSL": kafka.ssl_bootstrap,
        "SASL_PLAINTEXT": kafka.sasl_plaintext_bootstrap,
        "SASL_SSL": kafka.secure_bootstrap,
    }[protocol]
    told = {"KAFKA_BOOTSTRAP_SERVERS": address, "KAFKA_SECURITY_PROTOCOL": protocol}
    if protocol.endswith("SSL"):
        told["KAFKA_SSL_CAFILE"] = str(kafka.cafile)
    if protocol.startswith("SASL"):
        told |= {
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": user,
            "KAFKA_SASL_PASSWORD": USERS[user],
        }
    return told


class Publisher:
    """One process, as far as Kafka sees it."""

    def __init__(
        self, environment: Env, stack: AsyncExitStack, author: Author | None = None
    ) -> None:
        self.signals: list[Signal] = []
        self.cluster = Cluster(settings_of(environment, OPERATION), self.signals.append)
        self.log = self.cluster.log(OPERATION)
        self.author = author or Author(OPERATION)
        stack.push_async_callback(self.cluster.close)

    async def live(self) -> None:
        """A start, a window, and a restore that knows all there is."""
        if not (await self.log.restore()).records:
            await self.log.commit(self.author.first())
        events = [event("186067512", b"one")]
        await self.log.commit(self.author.window(events, [event(None, b"bad")]))
        self.author.committed()
        told = await self.log.restore()
        assert same(state.restore(OPERATION, told.records), self.author.state)

    @property
    def hints(self) -> list[str]:
        return [signal.text for signal in self.signals if isinstance(signal, HintGiven)]


async def refusal(environment: Env, stack: AsyncExitStack) -> PublisherError:
    """What is raised at the first start: one line, soon, without a secret."""
    began = time.monotonic()
    with pytest.raises(PublisherError) as raised:
        await Publisher(environment, stack).live()
    assert time.monotonic() - began < 8
    text = str(raised.value)
    assert text.strip()
    assert "\n" not in text
    assert raised.value.__cause__ is None  # a traceback would print its text, too
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    for secret in (*USERS.values(), WRONG_PASSWORD, "the-token", "token-of"):
        assert secret not in text
    return raised.value


async def test_every_door_leads_in(kafka: Broker, topics: Env, stack: AsyncExitStack) -> None:
    """All protocols and mechanisms publish and restore, one after the other."""
    author = Author(OPERATION)
    for protocol, mechanism in DOORS:
        publisher = Publisher({**topics, **through(kafka, protocol, mechanism)}, stack, author)
        await publisher.live()


async def test_a_client_certificate_is_a_name(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """With KAFKA_SSL_CERTFILE we come as its common name, and have that user's rights only."""
    environment = {
        **topics,
        **through(kafka, "SSL"),
        "KAFKA_SSL_CERTFILE": str(kafka.certfile),
        "KAFKA_SSL_KEYFILE": str(kafka.keyfile),
    }
    assert (await refusal(environment, stack)).reason is Reason.KAFKA_AUTHORIZATION
    await everything(kafka, topics, "alice")
    await Publisher(environment, stack).live()


# --- rights ---------------------------------------------------------------------------

MINIMUM = {
    "WRITE messages": ("WRITE", "TOPIC", "PUBLISHER_MESSAGES_TOPIC"),
    "WRITE dead letters": ("WRITE", "TOPIC", "PUBLISHER_DEAD_LETTERS_TOPIC"),
    "WRITE state": ("WRITE", "TOPIC", "PUBLISHER_STATE_TOPIC"),
    "READ state": ("READ", "TOPIC", "PUBLISHER_STATE_TOPIC"),
    "WRITE transactional id": ("WRITE", "TRANSACTIONAL_ID", "PUBLISHER_TRANSACTIONAL_ID"),
}


def grant(kafka: Broker, topics: Env, user: str, right: str) -> None:
    operation, kind, setting = MINIMUM[right]
    kafka.allow(user, operation, kind, topics[setting], prefixed=kind == "TRANSACTIONAL_ID")


async def everything(kafka: Broker, topics: Env, user: str, *, but: str = "") -> None:
    """Give all of the minimum but one right; the topics are there already."""
    async with AsyncExitStack() as stack:
        await Publisher(topics, stack).log.restore()  # by a super user: creates them
    for right in MINIMUM:
        if right != but:
            grant(kafka, topics, user, right)


async def test_the_minimal_rights_suffice(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """Five rights are the true minimum where the topics exist.

    WRITE on each of the three topics, READ on the state topic, WRITE on the transactional ids
    with the prefix PUBLISHER_TRANSACTIONAL_ID. Nothing on cluster or group. Without
    DESCRIBE_CONFIGS the settings of the topics go unchecked, which is said. Where the topics
    are missing: CREATE on each of them, besides.
    """
    await everything(kafka, topics, "bob")
    publisher = Publisher({**topics, **through(kafka, "SASL_SSL", user="bob")}, stack)
    await publisher.live()
    successor = Publisher({**topics, **through(kafka, "SASL_SSL", user="bob")}, stack)
    told = await successor.log.restore()
    assert same(state.restore(OPERATION, told.records), publisher.author.state)
    unchecked = "cannot be checked: grant DESCRIBE_CONFIGS"
    # Of each topic once, though it has restored twice.
    assert sum(unchecked in hint for hint in publisher.hints) == 3
    [other] = [hint for hint in publisher.hints if unchecked not in hint]
    assert "READ" in other
    assert topics["PUBLISHER_MESSAGES_TOPIC"] in other
    unstable = await publisher.cluster.unstable_offsets(
        [topics["PUBLISHER_MESSAGES_TOPIC"], topics["PUBLISHER_STATE_TOPIC"]]
    )
    assert len(unstable) == 2


@pytest.mark.parametrize("missing", MINIMUM)
async def test_every_one_of_the_minimal_rights_is_needed(
    kafka: Broker, topics: Env, stack: AsyncExitStack, missing: str
) -> None:
    """Without any one of them the first start fails, and what is said names the right."""
    await everything(kafka, topics, "bob", but=missing)
    environment = {**topics, **through(kafka, "SASL_SSL", user="bob")}
    error = await refusal(environment, stack)
    assert error.needs_person
    assert error.reason is Reason.KAFKA_AUTHORIZATION
    operation, kind, setting = MINIMUM[missing]
    assert operation in str(error)
    assert (topics[setting] if kind == "TOPIC" else setting) in str(error)


async def test_a_right_that_is_missing_mid_way_stops_the_window(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """DESCRIBE without WRITE: the commit fails whole and is no success to anybody (hazard 2)."""
    await everything(kafka, topics, "bob", but="WRITE dead letters")
    kafka.allow("bob", "DESCRIBE", "TOPIC", topics["PUBLISHER_DEAD_LETTERS_TOPIC"])
    publisher = Publisher({**topics, **through(kafka, "SASL_SSL", user="bob")}, stack)
    await publisher.log.restore()
    await publisher.log.commit(publisher.author.first())
    for _ in range(2):
        window = publisher.author.window([event("1", b"one")], [event(None, b"bad")])
        with pytest.raises(OutcomeUnknown) as raised:
            await publisher.log.commit(window)
        assert raised.value.needs_person
        assert raised.value.reason is Reason.KAFKA_AUTHORIZATION
        assert topics["PUBLISHER_DEAD_LETTERS_TOPIC"] in str(raised.value)
    told = await publisher.log.restore()
    assert same(state.restore(OPERATION, told.records), publisher.author.state)
    await publisher.log.commit(publisher.author.window([event("1", b"one")]))


async def test_without_the_right_to_create_topics_somebody_else_must(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """Missing topics that we may not create: held, with what to create; with CREATE we do it."""
    for right in MINIMUM:
        grant(kafka, topics, "bob", right)
    environment = {**topics, **through(kafka, "SASL_SSL", user="bob")}
    error = await refusal(environment, stack)
    assert isinstance(error, NeedsOperator)
    assert error.reason is Reason.KAFKA_AUTHORIZATION
    assert "or grant CREATE" in str(error)
    names = [topics[f"PUBLISHER_{which}_TOPIC"] for which in ("MESSAGES", "DEAD_LETTERS", "STATE")]
    assert any(name in str(error) for name in names)
    for name in names:
        kafka.allow("bob", "CREATE", "TOPIC", name)
    await Publisher(environment, stack).live()


# --- closed doors ---------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_a_wrong_password_needs_a_person(
    kafka: Broker, topics: Env, stack: AsyncExitStack, protocol: str, mechanism: str
) -> None:
    """Held; names the two settings, and neither value."""
    wrong = {"KAFKA_SASL_PASSWORD": WRONG_PASSWORD}
    error = await refusal({**topics, **through(kafka, protocol, mechanism), **wrong}, stack)
    assert isinstance(error, NeedsOperator)
    assert error.reason is Reason.KAFKA_AUTHENTICATION
    assert "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in str(error)


async def test_an_unknown_user_needs_a_person(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """Held, like a wrong password."""
    wrong = {"KAFKA_SASL_USERNAME": "nobody"}
    error = await refusal({**topics, **through(kafka, "SASL_SSL"), **wrong}, stack)
    assert isinstance(error, NeedsOperator)
    assert "KAFKA_SASL_USERNAME" in str(error)


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
async def test_a_wrong_certificate_authority_needs_a_person(
    kafka: Broker, topics: Env, stack: AsyncExitStack, tmp_path: Path, protocol: str
) -> None:
    """Held; names KAFKA_SSL_CAFILE, whether it is another one or the system's."""
    other = {"KAFKA_SSL_CAFILE": str(issue(tmp_path, client_name="x").ca)}
    error = await refusal({**topics, **through(kafka, protocol), **other}, stack)
    assert isinstance(error, NeedsOperator)
    assert error.reason is Reason.KAFKA_AUTHENTICATION
    assert "KAFKA_SSL_CAFILE" in str(error)
    environment = {**topics, **through(kafka, protocol)}
    del environment["KAFKA_SSL_CAFILE"]
    assert "KAFKA_SSL_CAFILE" in str(await refusal(environment, stack))


async def test_a_certificate_for_another_name_needs_a_person(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """The server's certificate names 127.0.0.1; the same server under another name is refused."""
    address = kafka.ssl_bootstrap.replace("127.0.0.1", "127.0.0.2")
    environment = {**topics, **through(kafka, "SSL"), "KAFKA_BOOTSTRAP_SERVERS": address}
    error = await refusal(environment, stack)
    assert "KAFKA_BOOTSTRAP_SERVERS" in str(error) or "host name" in str(error)


@pytest.mark.parametrize(
    ("speaks", "listens"),
    [
        ("PLAINTEXT", "SSL"),
        ("PLAINTEXT", "SASL_SSL"),
        ("PLAINTEXT", "SASL_PLAINTEXT"),
        ("SASL_PLAINTEXT", "SASL_SSL"),
        ("SASL_PLAINTEXT", "PLAINTEXT"),
        ("SSL", "PLAINTEXT"),
        ("SSL", "SASL_PLAINTEXT"),
        ("SSL", "SASL_SSL"),
        ("SASL_SSL", "SASL_PLAINTEXT"),
        ("SASL_SSL", "SSL"),
    ],
)
async def test_the_wrong_protocol_is_named(
    kafka: Broker, topics: Env, stack: AsyncExitStack, speaks: str, listens: str
) -> None:
    """Whoever speaks another protocol than the port is told to check KAFKA_SECURITY_PROTOCOL."""
    environment = {
        **topics,
        **through(kafka, speaks),
        "KAFKA_BOOTSTRAP_SERVERS": through(kafka, listens)["KAFKA_BOOTSTRAP_SERVERS"],
    }
    error = await refusal(environment, stack)
    assert "KAFKA_SECURITY_PROTOCOL" in str(error)


async def test_nobody_listening_heals_by_itself(topics: Env, stack: AsyncExitStack) -> None:
    """Transient; names the address and KAFKA_BOOTSTRAP_SERVERS."""
    error = await refusal({**topics, "KAFKA_BOOTSTRAP_SERVERS": NO_LISTENER}, stack)
    assert isinstance(error, Transient)
    assert error.reason is Reason.KAFKA_UNREACHABLE
    assert NO_LISTENER in str(error)
    assert "KAFKA_BOOTSTRAP_SERVERS" in str(error)


async def test_an_unknown_host_is_named(topics: Env, stack: AsyncExitStack) -> None:
    """Transient, since name servers come and go."""
    error = await refusal({**topics, "KAFKA_BOOTSTRAP_SERVERS": "no-such-host.invalid:9092"}, stack)
    assert isinstance(error, Transient)
    assert "no-such-host.invalid:9092" in str(error)
    assert "KAFKA_BOOTSTRAP_SERVERS" in str(error)


async def test_one_server_of_the_list_is_enough(
    kafka: Broker, topics: Env, stack: AsyncExitStack
) -> None:
    """A dead one before it changes nothing, once the topics are there.

    A first start waits for it, because the topics are to have a replica there (decision 0029).
    """
    await Publisher(topics, stack).log.restore()
    both = f"{NO_LISTENER}, {kafka.bootstrap}"
    await Publisher({**topics, "KAFKA_BOOTSTRAP_SERVERS": both}, stack).live()


async def test_files_that_are_no_certificates_are_settings_errors(
    kafka: Broker, topics: Env, tmp_path: Path
) -> None:
    """Before anything is tried, and named."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk", encoding="utf-8")
    secure = {**topics, **through(kafka, "SSL")}
    with pytest.raises(SettingsError, match="KAFKA_SSL_CAFILE"):
        Cluster(settings_of({**secure, "KAFKA_SSL_CAFILE": str(junk)}), lambda _: None)
    pair = {"KAFKA_SSL_CERTFILE": str(junk), "KAFKA_SSL_KEYFILE": str(kafka.keyfile)}
    with pytest.raises(SettingsError, match="KAFKA_SSL_CERTFILE"):
        Cluster(settings_of({**secure, **pair}), lambda _: None)

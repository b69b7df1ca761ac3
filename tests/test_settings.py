"""Settings are what they are said to be, and whoever got them wrong learns everything at once."""

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import SettingsError
from publisher.settings import Settings, duration, duration_text, load, start_instant

TOKEN = "0a1b2c3d4e5f"
ONE = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": TOKEN}
SECRET = "s3cr3t-w0rd"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def told(**more: str) -> Settings:
    return load(ONE | more)


def problems(environment: Mapping[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(environment)
    assert str(raised.value) == "\n".join(raised.value.problems)
    for line in raised.value.problems:
        assert "\n" not in line
        assert not line.endswith((".", " "))
    return raised.value.problems


def toml(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return {"PUBLISHER_CONFIG": str(path)}


OPERATIONS = f"""
[[operations]]
server = "0010"
token = "{TOKEN}"
[[operations]]
name = "chile"
url = "https://proxy.test/base/"
token = "other"
timezone = "America/Santiago"
"""


def test_one_operation_needs_a_server_and_a_token() -> None:
    """Everything else has the default that the design names."""
    found = told()
    (operation,) = found.operations
    assert (operation.name, operation.url) == ("wv0010", "https://wv0010.wolkvox.com")
    assert (operation.token, operation.timezone) == (TOKEN, "America/Bogota")
    assert found.kafka.model_dump(exclude_none=True) == {
        "bootstrap_servers": "localhost:9092",
        "security_protocol": "PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "compression_type": "zstd",
    }
    assert found.publisher.model_dump() == {
        "poll_every": timedelta(minutes=5),
        "overlap": timedelta(minutes=15),
        "max_window": DAY,
        "rereads": (HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR),
        "start": "now",
        "horizon": 31 * DAY,
        "messages_topic": "wolkvox.messages",
        "dead_letters_topic": "wolkvox.messages.dead-letters",
        "state_topic": "wolkvox.publisher.state",
        "commands_topic": "wolkvox.publisher.commands",
        "revisions_topic": "",
        "transactional_id": "wolkvox-publisher",
        "max_event_bytes": 1_000_000,
        "max_response_bytes": 16_777_216,
        "http_port": 9108,
        "log_format": None,
        "log_level": "info",
    }
    assert (found.sasl_password, found.hints) == (None, ())


def value_of(found: Settings, name: str) -> Any:
    """What a variable has become."""
    group, _, field = name.lower().partition("_")
    if group == "wolkvox":
        return getattr(found.operations[0], field)
    return getattr(getattr(found, group), field)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("WOLKVOX_NAME", "ventas", "ventas"),
        ("WOLKVOX_URL", "http://localhost:8080/base/", "http://localhost:8080/base"),
        ("WOLKVOX_TIMEZONE", "Europe/Madrid", "Europe/Madrid"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2", "a:1,b:2"),
        ("KAFKA_SECURITY_PROTOCOL", "ssl", "SSL"),
        ("KAFKA_SASL_MECHANISM", "scram-sha-512", "SCRAM-SHA-512"),
        ("KAFKA_SASL_USERNAME", "ana", "ana"),
        ("KAFKA_SSL_CAFILE", __file__, Path(__file__)),
        ("KAFKA_COMPRESSION_TYPE", "LZ4", "lz4"),
        ("PUBLISHER_POLL_EVERY", "30s", timedelta(seconds=30)),
        ("PUBLISHER_OVERLAP", "0s", timedelta()),
        ("PUBLISHER_MAX_WINDOW", "1h30m", timedelta(minutes=90)),
        ("PUBLISHER_REREADS", " 6h , 1h,60m", (HOUR, 6 * HOUR)),
        ("PUBLISHER_REREADS", "", ()),
        ("PUBLISHER_START", "-24h", "-24h"),
        ("PUBLISHER_START", "2026-11-20T00:00:00-05:00", "2026-11-20T00:00:00-05:00"),
        ("PUBLISHER_HORIZON", "90d", 90 * DAY),
        ("PUBLISHER_MESSAGES_TOPIC", "chat.{operation}", "chat.{operation}"),
        ("PUBLISHER_DEAD_LETTERS_TOPIC", "dead.{operation}", "dead.{operation}"),
        ("PUBLISHER_STATE_TOPIC", "state", "state"),
        ("PUBLISHER_TRANSACTIONAL_ID", "x", "x"),
        ("PUBLISHER_MAX_EVENT_BYTES", "900000", 900_000),
        ("PUBLISHER_MAX_RESPONSE_BYTES", "1000000", 1_000_000),
        ("PUBLISHER_HTTP_PORT", "0", 0),
        ("PUBLISHER_LOG_FORMAT", "JSON", "json"),
        ("PUBLISHER_LOG_LEVEL", "Debug", "debug"),
    ],
)
def test_every_setting_can_be_told_by_variable_and_by_file(
    tmp_path: Path, name: str, text: str, value: object
) -> None:
    """The same name in upper case with a prefix, or in lower case in its table."""
    assert value_of(told(**{name: text}), name) == value
    group, _, field = name.lower().partition("_")
    if group == "wolkvox":
        content = f'[[operations]]\nserver = "0010"\ntoken = "{TOKEN}"\n{field} = "{text}"'
        assert value_of(load(toml(tmp_path, content)), name) == value
    else:
        environment = ONE | toml(tmp_path, f'[{group}]\n{field} = "{text}"')
        assert value_of(load(environment), name) == value


def test_topics_are_templates_of_the_operation() -> None:
    """`{operation}` stands for its name."""
    found = told(PUBLISHER_MESSAGES_TOPIC="chat.{operation}")
    assert found.messages_topic("wv0010") == "chat.wv0010"
    assert found.dead_letters_topic("wv0010") == "wolkvox.messages.dead-letters"


def test_the_file_describes_several_operations(tmp_path: Path) -> None:
    """Each with its own server, token and zone; a URL needs a name instead of the server."""
    one, other = load(toml(tmp_path, OPERATIONS)).operations
    assert (one.name, one.url, one.timezone) == (
        "wv0010", "https://wv0010.wolkvox.com", "America/Bogota",
    )  # fmt: skip
    assert (other.name, other.url, other.timezone) == (
        "chile", "https://proxy.test/base", "America/Santiago",
    )  # fmt: skip
    assert (one.token, other.token) == (TOKEN, "other")


def test_toml_types_are_taken_as_they_are(tmp_path: Path) -> None:
    """Numbers, lists and instants need no quotes in the file."""
    content = (
        '[publisher]\nhttp_port = 80\nrereads = ["1h", "2h"]\nstart = 2026-11-20T00:00:00-05:00\n'
    )
    found = load(ONE | toml(tmp_path, content)).publisher
    assert (found.http_port, found.rereads) == (80, (HOUR, 2 * HOUR))
    assert start_instant(found.start, datetime.now(UTC)) == datetime(2026, 11, 20, 5, tzinfo=UTC)


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    """Setting by setting: what the environment does not name is the file's."""
    environment = toml(tmp_path, '[publisher]\npoll_every = "1m"\noverlap = "2m"\n')
    found = load(ONE | environment | {"PUBLISHER_POLL_EVERY": "3m"}).publisher
    assert (found.poll_every, found.overlap) == (timedelta(minutes=3), timedelta(minutes=2))


def test_only_the_given_mapping_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own environment is not looked at, neither for values nor for problems."""
    monkeypatch.setenv("PUBLISHER_HTTP_PORT", "80")
    monkeypatch.setenv("WOLKVOX_TOKEN", "theirs")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "nonsense")
    monkeypatch.setenv("PUBLISHER_CONFIG", "/nowhere")
    assert told().publisher.http_port == 9108
    assert any("WOLKVOX_TOKEN is missing" in line for line in problems({"WOLKVOX_SERVER": "0010"}))


def test_other_programs_variables_do_not_matter() -> None:
    """Names that merely begin like ours, or like a group, belong to somebody else."""
    found = told(
        KAFKA="/opt/kafka", PUBLISHER="x", WOLKVOX="{", OPERATIONS="[1", KAFKA_HEAP_OPTS="-Xmx1g",
        wolkvox_token="theirs", publisher_http_port="80",
    )  # fmt: skip
    assert found == told()


def test_by_default_the_process_environment_is_read() -> None:
    """`load()` without an argument is what the command calls."""
    script = "from publisher.settings import load; print(load().operations[0].name)"
    environment = {"PATH": os.environ["PATH"], **ONE}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "wv0010\n"


# Secrets


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    """`*_FILE` names a file; white space around the secret does not belong to it."""
    path = tmp_path / "secret"
    path.write_text(f"  {SECRET}\n")
    assert load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN_FILE": str(path)}).operations[
        0
    ].token == (SECRET)
    found = told(
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_USERNAME="ana",
        KAFKA_SASL_PASSWORD_FILE=str(path),
    )
    assert found.sasl_password == SECRET
    content = f'[[operations]]\nserver = "0010"\ntoken_file = "{path}"\n'
    assert load(toml(tmp_path, content)).operations[0].token == SECRET


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff", "it is not text")],
)
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("WOLKVOX_TOKEN_FILE", {"WOLKVOX_SERVER": "0010"}),
        (
            "KAFKA_SASL_PASSWORD_FILE",
            ONE | {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "ana"},
        ),
    ],
)
def test_a_secrets_file_that_cannot_be_used_is_told_once(
    tmp_path: Path, content: bytes | None, why: str, name: str, more: dict[str, str]
) -> None:
    """One line: which setting, which file, why."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    (line,) = problems(more | {name: str(path)})
    assert line.startswith(f"{name}: ")
    assert str(path) in line
    assert why in line


def test_a_secret_and_its_file_are_not_both_set() -> None:
    """Nobody could tell which one counts."""
    assert problems(ONE | {"WOLKVOX_TOKEN_FILE": "/x"}) == [
        "WOLKVOX_TOKEN and WOLKVOX_TOKEN_FILE are both set: keep one of the two"
    ]


def test_secrets_are_never_shown() -> None:
    """Neither in the settings' repr nor in their str, whatever is printed of them."""
    found = told(
        WOLKVOX_TOKEN=SECRET,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_USERNAME="ana",
        KAFKA_SASL_PASSWORD=SECRET,
    )
    assert found.operations[0].token == found.sasl_password == SECRET
    for shown in (found, found.operations, found.kafka, found.publisher, found.kafka.model_dump()):
        assert SECRET not in f"{shown} {shown!r}"


BAD = f"{SECRET} \N{SNOWMAN}"


@pytest.mark.parametrize(
    "name",
    [
        "WOLKVOX_SERVER", "WOLKVOX_TOKEN", "WOLKVOX_URL", "WOLKVOX_NAME", "WOLKVOX_TIMEZONE",
        "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM", "KAFKA_COMPRESSION_TYPE",
        "PUBLISHER_POLL_EVERY", "PUBLISHER_OVERLAP", "PUBLISHER_MAX_WINDOW", "PUBLISHER_REREADS",
        "PUBLISHER_START", "PUBLISHER_HORIZON", "PUBLISHER_MESSAGES_TOPIC",
        "PUBLISHER_DEAD_LETTERS_TOPIC", "PUBLISHER_STATE_TOPIC", "PUBLISHER_COMMANDS_TOPIC",
        "PUBLISHER_MAX_EVENT_BYTES",
        "PUBLISHER_MAX_RESPONSE_BYTES", "PUBLISHER_HTTP_PORT", "PUBLISHER_LOG_FORMAT",
        "PUBLISHER_LOG_LEVEL",
    ],
)  # fmt: skip
def test_a_refused_value_is_named_and_never_repeated(name: str) -> None:
    """A secret in the wrong variable does not end up in a log; one line says what to write."""
    (line,) = problems(ONE | {name: BAD})
    assert line.startswith((f"{name} is ", f"{name} must "))
    assert SECRET not in line
    assert "Input" not in line
    assert "value" not in line.lower()


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    """It would be shown wherever the address is."""
    assert problems(ONE | {"WOLKVOX_URL": f"https://ana:{SECRET}@x.test"}) == [
        "WOLKVOX_URL must not hold a user name or password"
    ]


def test_a_broken_file_is_not_repeated(tmp_path: Path) -> None:
    """The place is told, never the line: it may hold a token."""
    (line,) = problems(ONE | toml(tmp_path, f'[[operations]]\ntoken = "{SECRET}\n'))
    assert "is not TOML: at line 2, column" in line
    assert SECRET not in line


# All problems at once


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Values, cross-checks, the file and every operation: one line each."""
    content = """
    [kafka]
    bootstrap_servers = 5
    colour = "red"
    [publisher]
    log_level = "loud"
    [other]
    [[operations]]
    server = 10
    token = "a b"
    [[operations]]
    url = "ftp://x"
    name = "a"
    [[operations]]
    server = "0011"
    name = "with space"
    token = 5
    """
    environment = toml(tmp_path, content) | {
        "PUBLISHER_HTTP_PORT": "80a",
        "PUBLISHER_MAX_EVENT_BYTES": "5",
        "PUBLISHER_HORIZON": "2d",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SSL_CERTFILE": "/nowhere",
    }
    assert problems(environment) == [
        "PUBLISHER_CONFIG: unknown name colour in [kafka]",
        "PUBLISHER_CONFIG: unknown table [other]: there are [kafka], [publisher] and"
        " [[operations]]",
        "KAFKA_BOOTSTRAP_SERVERS must be text (in the file: in quotes)",
        "PUBLISHER_MAX_EVENT_BYTES must be at least 1000",
        "PUBLISHER_HTTP_PORT must be a whole number",
        "PUBLISHER_LOG_LEVEL must be one of debug, info, warning or error",
        "operations[1].server must be four digits as text, such as 0010 (in YAML and TOML quote"
        ' it: "0010"; an unquoted 0010 is the number 8)',
        "operations[2].url is not a base URL such as https://wv0010.wolkvox.com",
        "operations[3].token must be text (in the file: in quotes)",
        "operations[1].token must be printable ASCII without spaces",
        "operations[2].token is missing: set it or operations[2].token_file",
        "operations[3].name must be letters, digits, '.', '_' and '-' only",
        "PUBLISHER_HORIZON must be at least 132h (1.5 x the longest of PUBLISHER_REREADS +"
        " PUBLISHER_MAX_WINDOW), or a re-read would publish twice",
        "KAFKA_SASL_USERNAME is missing: SASL_SSL needs it",
        "KAFKA_SASL_PASSWORD is missing: SASL_SSL needs it",
        "KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE go together: set both or none",
        "KAFKA_SSL_CERTFILE: there is no file /nowhere",
    ]


def test_nothing_told_misses_server_and_token() -> None:
    """An empty environment names what is needed, and no more."""
    assert problems({}) == [
        "WOLKVOX_SERVER is missing: the four digits of wvNNNN.wolkvox.com",
        "WOLKVOX_TOKEN is missing: set it or WOLKVOX_TOKEN_FILE",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "[[operations]]\nserver = 10\ntoken = 'a'",
        "[operations]\nserver = '0010'\ntoken = 'a'",
        "operations = 5",
        "operations = [5]",
        "[[operations]]\nserver = '0010'",
    ],
)
def test_broken_operations_do_not_miss_one_by_environment(tmp_path: Path, content: str) -> None:
    """Whoever writes [[operations]] wants no WOLKVOX_SERVER: only what is broken is told."""
    (line,) = problems(toml(tmp_path, content))
    assert "operations" in line
    assert "WOLKVOX" not in line


def test_an_unreadable_file_is_the_problem(tmp_path: Path) -> None:
    """What seems to be missing may stand in it; what is wrong without it is told as well."""
    missing = {"PUBLISHER_CONFIG": str(tmp_path / "none")}
    (line,) = problems(missing)
    assert line == f"PUBLISHER_CONFIG: cannot read {tmp_path / 'none'}: No such file or directory"
    lines = problems(missing | {"PUBLISHER_HTTP_PORT": "x", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"})
    assert lines[1:] == ["PUBLISHER_HTTP_PORT must be a whole number"]
    (line,) = problems({"PUBLISHER_CONFIG": str(tmp_path)})
    assert line.endswith("Is a directory")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"= 5", b"[a\n", b"\x00", b'x = "'])
def test_a_file_that_is_not_toml_is_the_problem(tmp_path: Path, content: bytes) -> None:
    """One line that says so."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    (line,) = problems({"PUBLISHER_CONFIG": str(path)})
    assert line.startswith(f"PUBLISHER_CONFIG: {path} is not TOML: ")


DURATION = "is not a duration: write a number with a unit, like 30s, 5m, 1h or 3d"
BEGIN = (
    "is not a start: write now, a duration back like -24h,"
    " or an instant with offset like 2026-11-20T00:00:00-05:00"
)
SERVER = (
    "must be four digits as text, such as 0010 (in YAML and TOML quote it:"
    ' "0010"; an unquoted 0010 is the number 8)'
)
SHARED = "must not hold {operation}: all operations share it"
TOPIC = "is not a topic name: letters, digits, '.', '_' and '-' only"
PROTOCOL = "must be one of PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
URL = "is not a base URL such as https://wv0010.wolkvox.com"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PUBLISHER_MAX_WINDOW", "500ms", "must be at least 1s, the report's resolution"),
        ("PUBLISHER_MAX_WINDOW", "0s", "must be greater than zero"),
        ("PUBLISHER_POLL_EVERY", "300", DURATION),
        ("PUBLISHER_OVERLAP", "99999999999d", "is too long: write at most 3650d"),
        ("PUBLISHER_REREADS", "1h,6", DURATION),
        ("PUBLISHER_START", "yesterday", BEGIN),
        ("PUBLISHER_START", "2026-11-20T00:00:00", BEGIN),
        ("PUBLISHER_STATE_TOPIC", "s.{operation}", SHARED),
        ("PUBLISHER_COMMANDS_TOPIC", "s.{operation}", SHARED),
        ("PUBLISHER_STATE_TOPIC", "a b", TOPIC),
        ("PUBLISHER_HTTP_PORT", "65536", "must be at most 65535"),
        ("PUBLISHER_HTTP_PORT", "80.5", "must be a whole number"),
        ("PUBLISHER_LOG_FORMAT", "xml", "must be one of json or console"),
        ("KAFKA_SECURITY_PROTOCOL", "tls", PROTOCOL),
        ("KAFKA_BOOTSTRAP_SERVERS", "", "must not be empty"),
        ("WOLKVOX_URL", "http://[::1", URL),
        ("WOLKVOX_URL", "https://x.test?a=1", URL),
        ("WOLKVOX_URL", "wv0010.wolkvox.com", URL),
        ("WOLKVOX_TIMEZONE", "Bogota", "is not an IANA time zone such as America/Bogota"),
        ("WOLKVOX_SERVER", "10", SERVER),
        ("WOLKVOX_TOKEN", " ", "is missing: set it or WOLKVOX_TOKEN_FILE"),
    ],
)  # fmt: skip
def test_what_each_problem_says(name: str, text: str, said: str) -> None:
    """One plain line: which setting, and what to write."""
    assert problems(ONE | {name: text}) == [f"{name} {said}"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            {"PUBLISHER_MAX_WINDOW": "32d", "PUBLISHER_HORIZON": "90d"},
            "PUBLISHER_MAX_WINDOW must be at most 31d: the report refuses more",
        ),
        (
            {"PUBLISHER_REREADS": "0s,1h"},
            "PUBLISHER_REREADS: an age must be greater than zero",
        ),
        (
            {"PUBLISHER_STATE_TOPIC": "wolkvox.messages"},
            "PUBLISHER_*_TOPIC: messages, dead letters, state, commands and revisions need a"
            " topic each",
        ),
        (
            {"PUBLISHER_REVISIONS_TOPIC": "wolkvox.messages"},
            "PUBLISHER_*_TOPIC: messages, dead letters, state, commands and revisions need a"
            " topic each",
        ),
        ({"KAFKA_SSL_CAFILE": "/nowhere"}, "KAFKA_SSL_CAFILE: there is no file /nowhere"),
    ],
)
def test_what_is_refused_although_each_value_is_sound(more: dict[str, str], line: str) -> None:
    """What cannot be meant together, and what is not there."""
    assert problems(ONE | more) == [line]


@pytest.mark.parametrize(
    "name", ["WOLKVOX_TOKEN_FILE", "KAFKA_SASL_PASSWORD_FILE", "KAFKA_SSL_CAFILE"]
)
def test_a_secret_in_the_place_of_its_file_is_not_repeated(name: str) -> None:
    """Whoever pastes a token or a key where its file belongs does not find it in the log."""
    for pasted in (SECRET, f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n" * 20):
        (line,) = problems(
            {"WOLKVOX_SERVER": "0010", name: pasted} | ({} if name[0] == "W" else ONE)
        )
        assert line.startswith(f"{name}: ")
        assert "the file of that name" in line or "no file of that name" in line
        assert SECRET not in line


def test_a_refused_value_contradicts_nothing() -> None:
    """What it would have been is not known, so only the refusal is told."""
    more = {"PUBLISHER_REREADS": "1x", "PUBLISHER_HORIZON": "2d"}
    (line,) = problems(ONE | more)
    assert line.startswith("PUBLISHER_REREADS is not a duration")


def test_one_token_belongs_to_one_operation(tmp_path: Path) -> None:
    """Two loops with one token would exceed the vendor's limit; two equal names share a state."""
    same = OPERATIONS.replace('"other"', f'"{TOKEN}"').replace("chile", "wv0010")
    assert problems(toml(tmp_path, same)) == [
        "operations: two of them have equal names: each needs its own",
        "operations: two of them have equal tokens: each needs its own",
    ]


def test_operations_stand_in_one_place(tmp_path: Path) -> None:
    """By environment or in the file, not both."""
    (line,) = problems(ONE | toml(tmp_path, OPERATIONS))
    assert line.startswith("WOLKVOX_SERVER and the like describe one operation")


def test_misspelt_variables_are_hinted_at() -> None:
    """They stop nothing: they may be somebody else's."""
    assert told(PUBLISHER_POLL_EVRY="5m").hints == (
        "PUBLISHER_POLL_EVRY is not a setting and is ignored: did you mean PUBLISHER_POLL_EVERY?",
    )


# Single values


@given(st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)))
@settings(max_examples=200, deadline=None)
def test_a_duration_reads_back_from_its_text(value: timedelta) -> None:
    """To the microsecond: names of passes are made of it."""
    assert duration(duration_text(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1h", HOUR), ("60m", HOUR), ("1h30m", 1.5 * HOUR), ("1.5h", 1.5 * HOUR), (" 3d ", 3 * DAY)],
)
def test_durations(text: str, value: timedelta) -> None:
    """A number with a unit, or several."""
    assert duration(text) == value


@pytest.mark.parametrize("value", [(HOUR, "1h"), (36 * HOUR, "36h"), (DAY, "1d")])
def test_texts_of_durations_are_short(value: tuple[timedelta, str]) -> None:
    """In the largest unit that divides them."""
    assert duration_text(value[0]) == value[1]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_other_text_is_no_duration(text: str) -> None:
    """Whatever is written: a duration or a ValueError."""
    try:
        assert duration(text) >= timedelta()
    except ValueError:
        return
    assert text.strip()[0] in "0123456789"


@pytest.mark.parametrize("text", ["1", "h", "1 h", "-1h", "1h ago", "1w", "1H", "\u0661h", ""])
def test_no_durations(text: str) -> None:
    """Units are part of it: nobody has to guess what 300 means."""
    with pytest.raises(ValueError, match="write"):
        duration(text)


def test_a_start_is_an_instant() -> None:
    """`now` and durations count from the first start, an offset is converted."""
    now = datetime(2026, 11, 20, 15, tzinfo=UTC)
    assert start_instant("now", now) == now
    assert start_instant("-24h", now) == now - DAY
    assert start_instant("2026-11-20T00:00:00-05:00", now) == datetime(2026, 11, 20, 5, tzinfo=UTC)


@given(st.dictionaries(
    st.sampled_from(["WOLKVOX_SERVER", "WOLKVOX_URL", "WOLKVOX_TOKEN", "WOLKVOX_TIMEZONE",
                     "WOLKVOX_NAME", "PUBLISHER_POLL_EVERY", "PUBLISHER_REREADS",
                     "PUBLISHER_START", "PUBLISHER_HTTP_PORT", "PUBLISHER_STATE_TOPIC",
                     "KAFKA_SSL_CAFILE", "KAFKA_SASL_MECHANISM"]),
    st.one_of(
        st.text(), st.integers().map(str), st.sampled_from(["9" * 400 + "d", "http://a:99999"])
    ),
))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_environment_is_settings_or_problems(environment: dict[str, str]) -> None:
    """No text makes reading the settings fail otherwise."""
    try:
        found = load(environment)
    except SettingsError:
        return
    assert found.operations[0].name


def test_ages_within_the_overlap_are_hinted_at() -> None:
    """A re-read within the overlap does nothing, which is told and stops nothing."""
    (hint,) = load(ONE | {"PUBLISHER_REREADS": "15m,1h"}).hints
    assert "PUBLISHER_REREADS" in hint
    assert not load(ONE | {"PUBLISHER_REREADS": "16m,1h"}).hints


def test_operations_of_the_file_take_the_zone_of_the_environment(tmp_path: Path) -> None:
    """WOLKVOX_TIMEZONE holds for the operations that name no zone of their own."""
    text = """
    [[operations]]
    server = "0010"
    token = "a1"
    [[operations]]
    server = "0011"
    token = "b2"
    timezone = "America/Mexico_City"
    """
    found = load(toml(tmp_path, text) | {"WOLKVOX_TIMEZONE": "America/Santiago"})
    zones = [operation.timezone for operation in found.operations]
    assert zones == ["America/Santiago", "America/Mexico_City"]


def test_labels_tell_operations_apart(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    entry = '[[operations]]\nserver = "{}"\ntoken = "{}"\n{}\n'
    file.write_text(
        entry.format("0010", "a", 'label = "sales"') + entry.format("0011", "b", ""),
        encoding="utf-8",
    )
    operations = load({"PUBLISHER_CONFIG": str(file)}).operations
    assert [(operation.name, operation.label) for operation in operations] == [
        ("wv0010", "sales"),
        ("wv0011", "wv0011"),
    ]
    file.write_text(
        entry.format("0010", "a", 'label = "wv0011"') + entry.format("0011", "b", ""),
        encoding="utf-8",
    )
    with pytest.raises(SettingsError) as caught:
        load({"PUBLISHER_CONFIG": str(file)})
    assert caught.value.problems == [
        "operations: two of them have equal labels: each needs its own"
    ]

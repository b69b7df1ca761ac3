"""The README says what the code does: settings, metrics, reasons, targets, files, examples."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from pydantic import BaseModel

from publisher.edges.kafka_topics import (
    DEAD_LETTERS_PARTITIONS,
    ENVELOPE_BYTES,
    MESSAGES_PARTITIONS,
    STATE_PARTITIONS,
)
from publisher.edges.metrics import PREFIX, Metrics
from publisher.edges.status import Status
from publisher.errors import PublisherError, Reason
from publisher.rules import upstream
from publisher.rules.events import CONVERSATION_FIELDS, ROW_FIELDS
from publisher.rules.upstream import Verdict
from publisher.settings import KafkaSettings, PublisherSettings, load
from publisher.settings.groups import OperationSettings
from tests.parsing import parsed

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
DECISIONS: Final = ROOT / "docs" / "decisions"
DOCUMENTS: Final = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "schemas" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    *sorted(DECISIONS.glob("*.md")),
]
GROUPS: Final[Mapping[str, type[BaseModel]]] = {
    "WOLKVOX": OperationSettings,
    "KAFKA": KafkaSettings,
    "PUBLISHER": PublisherSettings,
}


def section(title: str) -> str:
    """What stands under a heading of the README, up to the next one."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]


def table(text: str, first_column: str) -> list[list[str]]:
    """The cells of the rows of the table whose head begins with that column."""
    _, _, rest = text.partition(f"| {first_column} |")
    assert rest, first_column
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- settings -------------------------------------------------------------------------------------

SETTINGS: Final = table(section("Settings"), "Name")


def test_every_setting_stands_in_the_table_once() -> None:
    known = {
        f"{group}_{name}".upper() for group, model in GROUPS.items() for name in model.model_fields
    }
    assert sorted(names(row[0])[0] for row in SETTINGS) == sorted(known | {"PUBLISHER_CONFIG"})


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0].strip("`"))
def test_the_default_is_the_one_of_the_code(row: list[str]) -> None:
    """Read as the service would read it."""
    name, default = names(row[0])[0], row[1]
    group, _, field = name.partition("_")
    if name == "PUBLISHER_CONFIG":
        assert default == "(none)"
        return
    model = GROUPS[group]
    told = model.model_fields[field.lower()].default
    if default == "(none)":
        assert told in (None, "")
    else:
        assert getattr(model.model_validate({field.lower(): names(default)[0]}), field.lower()) == (
            told
        )


def test_the_file_of_the_readme_is_one_that_can_be_used(tmp_path: Path) -> None:
    [text] = blocks("toml")
    assert tomllib.loads(text)
    for secret in re.findall(r'"/run/secrets/([a-z-]+)"', text):
        (tmp_path / secret).write_text(f"secret-{secret}", encoding="utf-8")
    file = tmp_path / "publisher.toml"
    file.write_text(text.replace("/run/secrets", str(tmp_path)), encoding="utf-8")
    told = load({"PUBLISHER_CONFIG": str(file)})
    assert [operation.name for operation in told.operations] == ["sales", "support-mx"]
    assert told.publisher.start == "-24h"
    assert told.publisher.rereads == PublisherSettings().rereads
    assert told.sasl_password == "secret-kafka"


def test_the_environment_of_the_readme_is_one_that_can_be_used(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    [text] = [block for block in blocks("sh") if "export WOLKVOX_SERVER" in block]
    environment = dict(re.findall(r"^export (\w+)=(\S+)", text, re.MULTILINE))
    told = load({**environment, "WOLKVOX_TOKEN_FILE": str(token)})
    assert not told.hints
    assert [operation.url for operation in told.operations] == ["https://wv0010.wolkvox.com"]


# --- metrics --------------------------------------------------------------------------------------

METRICS: Final = {
    names(row[0])[0]: names(row[1]) for row in table(section("What to watch"), "Metric")
}


def registered() -> dict[str, list[str]]:
    """Names as Prometheus shows them, with their labels."""
    metrics = Metrics(Status(["wv0010"], "0", lambda: datetime.now(UTC)))
    endings = {"counter": "_total", "info": "_info"}
    found = {}
    for collector in set(metrics.registry._collector_to_names):
        for family in getattr(collector, "describe", collector.collect)():
            if not family.name.startswith(PREFIX):
                continue
            labels = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
            if family.type == "info":
                labels = ("version",)
            found[family.name + endings.get(family.type, "")] = list(labels)
    return found


def test_every_metric_stands_in_the_table_and_the_other_way_round() -> None:
    assert registered() == METRICS


def test_the_alerts_speak_of_metrics_that_exist() -> None:
    [text] = blocks("yaml")
    rules = re.findall(r"^  expr: (.+)$", text, re.MULTILINE)
    assert len(rules) == text.count("- alert:") == 3
    for rule in rules:
        used = set(re.findall(rf"{PREFIX}_\w+", rule))
        assert used
        assert used <= METRICS.keys()


def test_the_alert_for_people_rings_for_every_reason_that_needs_one() -> None:
    [text] = blocks("yaml")
    [pattern] = re.findall(r'reason=~"([^"]+)"', text)
    assert {reason for reason in Reason if re.fullmatch(pattern, reason)} == needing_a_person()


def test_every_verdict_stands_in_the_table() -> None:
    [row] = [row for row in table(section("What to watch"), "Metric") if "requests_total" in row[0]]
    assert set(names(row[2])) == {*Verdict, "failed"}


# --- reasons --------------------------------------------------------------------------------------


def needing_a_person() -> set[Reason]:
    """Every reason with which the code calls somebody, found in the code itself."""
    found = {row[3] for row in upstream._TABLE if row[2] is Verdict.HOLD and row[3]}
    for kind in subclasses(PublisherError):
        if kind.needs_person and hasattr(kind, "reason"):
            found.add(kind.reason)
    for path in sorted((ROOT / "publisher").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and _calls_somebody(node):
                found |= set(_reasons(node))
    return found


def subclasses(kind: type[PublisherError]) -> Iterator[type[PublisherError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def _calls_somebody(call: ast.Call) -> bool:
    words = {ast.unparse(part) for part in (call.func, *call.args)}
    for keyword in call.keywords:
        if keyword.arg == "needs_person":
            words.add(f"needs_person={ast.unparse(keyword.value)}")
    return bool(words & {"Held", "Verdict.HOLD", "needs_person=True"})


def _reasons(call: ast.Call) -> Iterator[Reason]:
    for argument in call.args:
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Reason":
            yield Reason[argument.attr]


def test_what_needs_a_person_is_found_at_all() -> None:
    """The search above finds one of each way in which the code says so."""
    assert {
        Reason.TOKEN_REFUSED,  # a row of the API's table
        Reason.REDIRECTED,  # a judgement
        Reason.STATE_LOST,  # Held(...)
        Reason.KAFKA_AUTHENTICATION,  # _failed(Held, ...)
        Reason.KAFKA_TOPIC,  # OutcomeUnknown(..., needs_person=True)
        Reason.FENCED,  # a class of its own
    } <= needing_a_person()


def test_every_reason_that_needs_a_person_has_a_cure() -> None:
    rows = table(section("What to do when"), "`reason`, needs a person")
    told = [name for row in rows for name in names(row[0])]
    assert sorted(told) == sorted(needing_a_person())


def test_every_other_reason_is_explained() -> None:
    rows = table(section("What to do when"), "Heals by itself")
    told = {name for row in rows for name in names(row[0])}
    # Nothing raises it: what it was meant for is a log line of its own.
    assert told == set(Reason) - needing_a_person() - {Reason.ONLY_NOT_FOUND}


# --- the event ------------------------------------------------------------------------------------


def test_the_event_of_the_readme_is_the_example() -> None:
    [text] = blocks("json")
    assert json.loads(text) == json.loads((ROOT / "schemas/examples/event.json").read_bytes())


def test_every_field_of_the_event_is_explained() -> None:
    told = {name for row in table(section("The event"), "Field") for name in names(row[0])}
    described = json.loads((ROOT / "schemas/event.v1.schema.json").read_bytes())["properties"]
    assert told == described.keys()
    assert {*ROW_FIELDS, *CONVERSATION_FIELDS} <= told


def test_the_topics_of_the_readme_are_those_that_are_made() -> None:
    defaults = PublisherSettings()
    rows = table(section("What it needs of Kafka"), "Topic")
    assert [(names(row[0])[0], row[1].split()[0]) for row in rows] == [
        (defaults.messages_topic, str(MESSAGES_PARTITIONS)),
        (defaults.dead_letters_topic, str(DEAD_LETTERS_PARTITIONS)),
        (defaults.state_topic, str(STATE_PARTITIONS)),
    ]
    from publisher.edges.kafka_topics import _STATE_CONFIG

    for name, value in _STATE_CONFIG.items():
        if name != "message.timestamp.type":  # Kafka's own default
            assert f"`{name}={value}`" in rows[2][2]
    assert f"a `max.message.bytes` of {ENVELOPE_BYTES} more" in README


# --- commands, files, language --------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_mentioned_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    told = set(re.findall(r"`make ([a-z-]+)", text)) | set(
        re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    )
    assert told <= targets


def _mentioned(document: Path) -> Iterator[Path]:
    """What a document links to, and every path it names."""
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            yield document.parent / link.partition("#")[0]
    for name in re.findall(
        r"`((?:publisher|schemas|sandbox|tests|benchmarks|docs)/[\w./-]*)`", text
    ):
        yield ROOT / name
    for name in re.findall(r"`((?:rules|edges|settings)/[\w./-]+)`", text):
        yield ROOT / "publisher" / name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_mentioned_exists(document: Path) -> None:
    assert not [str(path) for path in _mentioned(document) if not path.exists()]


def test_every_decision_stands_in_the_index_with_its_title() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    files = sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")
    assert [path.name[:4] for path in files] == [f"{n:04}" for n in range(1, len(files) + 1)]
    for path in files:
        number, title = (
            path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(". ", 1)
        )
        assert path.name.startswith(f"{number}-")
        assert f"[{number}]({path.name})" in index
        assert title in index


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if path.parent == DECISIONS and path.name != "README.md"],
    ids=lambda path: path.name,
)
def test_every_decision_has_the_same_parts(path: Path) -> None:
    parts = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert parts == ["Context", "Decision", "Alternatives", "Consequences"]

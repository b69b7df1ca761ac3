"""The docs say what the code does: settings, metrics, reasons, targets, files, links, examples."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
from prometheus_client import generate_latest
from pydantic import BaseModel

from publisher import __version__
from publisher.commands.verify import textfile
from publisher.errors import PublisherError, Reason
from publisher.events.encode import EVENT_TYPE
from publisher.kafka.topics import (
    _STATE_CONFIG,
    DEAD_LETTERS_PARTITIONS,
    ENVELOPE_BYTES,
    MESSAGES_PARTITIONS,
    STATE_PARTITIONS,
)
from publisher.schedule.passes import passes_of
from publisher.schedule.quota import EVERY_POLLS
from publisher.settings import KafkaSettings, PublisherSettings, Settings, load
from publisher.settings.groups import OperationSettings
from publisher.state.checkpoint import FORMAT
from publisher.telemetry.current_status import Status
from publisher.telemetry.gauges import PREFIX
from publisher.telemetry.metrics import Metrics
from publisher.wolkvox import responses
from publisher.wolkvox.responses import Verdict
from publisher.wolkvox.schema import CHAT_FIELDS, MESSAGE_FIELDS
from tests.parsing import parsed
from tests.test_signals import RESTORED

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
DECISIONS: Final = DOCS / "decisions"
DOCUMENTS: Final = [
    ROOT / "README.md",
    ROOT / "README.es.md",
    ROOT / "CHANGELOG.md",
    ROOT / "schemas" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
GROUPS: Final[Mapping[str, type[BaseModel]]] = {
    "WOLKVOX": OperationSettings,
    "KAFKA": KafkaSettings,
    "PUBLISHER": PublisherSettings,
}


def page(name: str) -> str:
    """A page of the docs; its name as seen from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


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


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a language, also those inside a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [dedent(block) for _, block in found]


# --- settings -------------------------------------------------------------------------------------

SETTINGS: Final = table(page("docs/reference/settings.md"), "Name")


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


def loaded(text: str, folder: Path, **environment: str) -> Settings:
    """The settings that a file of the docs gives, once its secrets are there."""
    for secret in re.findall(r'"/run/secrets/([a-z-]+)"', text):
        (folder / secret).write_text(f"secret-{secret}", encoding="utf-8")
    file = folder / "publisher.toml"
    file.write_text(text.replace("/run/secrets", str(folder)), encoding="utf-8")
    return load({"PUBLISHER_CONFIG": str(file), **environment})


def test_the_file_of_the_reference_can_be_used(tmp_path: Path) -> None:
    [text] = blocks("toml", page("docs/reference/settings.md"))
    told = loaded(text, tmp_path)
    assert [operation.name for operation in told.operations] == ["sales", "support-mx"]
    assert told.publisher.start == "-24h"
    assert told.publisher.rereads == PublisherSettings().rereads
    assert told.sasl_password == "secret-kafka"


def test_the_files_for_several_operations_can_be_used(tmp_path: Path) -> None:
    """The whole file, and the part that gives each operation topics of its own."""
    whole, part = blocks("toml", page("docs/how-to/several-operations.md"))
    told = loaded(whole, tmp_path)
    assert not told.hints
    assert [(one.name, one.url, one.token, one.timezone) for one in told.operations] == [
        ("sales", "https://wv0010.wolkvox.com", "secret-sales", "America/Bogota"),
        ("support-mx", "https://wv0024.wolkvox.com", "secret-support-mx", "America/Mexico_City"),
    ]
    split = loaded(whole.replace("[publisher]\n", part), tmp_path)
    assert tomllib.loads(part)["publisher"].keys() == {"messages_topic", "dead_letters_topic"}
    assert {split.messages_topic(one.name) for one in split.operations} == {
        "wolkvox.sales.messages",
        "wolkvox.support-mx.messages",
    }


def test_the_zone_of_the_environment_is_for_operations_without_one(tmp_path: Path) -> None:
    """As the reference and the page on several operations say."""
    whole, _ = blocks("toml", page("docs/how-to/several-operations.md"))
    without = whole.replace('timezone = "America/Bogota"\n', "")
    told = loaded(without, tmp_path, WOLKVOX_TIMEZONE="America/Lima")
    assert [one.timezone for one in told.operations] == ["America/Lima", "America/Mexico_City"]


@pytest.mark.parametrize(
    ("document", "start"),
    [("README.md", "now"), ("README.es.md", "-24h"), ("docs/tutorial.md", "-2h")],
)
def test_the_environment_of_the_docs_can_be_used(document: str, start: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    [text] = [block for block in blocks("sh", page(document)) if "WOLKVOX_SERVER=" in block]
    environment = dict(re.findall(r"^(?:export )?([A-Z_]+)=(\S+)", text, re.MULTILINE))
    if "WOLKVOX_TOKEN_FILE" in environment:
        environment["WOLKVOX_TOKEN_FILE"] = str(token)
    told = load(environment)
    assert not told.hints
    assert [operation.url for operation in told.operations] == ["https://wv0010.wolkvox.com"]
    assert told.publisher.start == start


def test_the_environment_for_a_secured_kafka_can_be_used(tmp_path: Path) -> None:
    text = page("docs/how-to/secure-kafka.md")
    [block] = [block for block in blocks("sh", text) if "export KAFKA_" in block]
    environment = dict(re.findall(r"^export (\w+)=(\S+)", block, re.MULTILINE))
    for name in ("KAFKA_SASL_PASSWORD_FILE", "KAFKA_SSL_CAFILE"):
        file = tmp_path / name
        file.write_text("secret", encoding="utf-8")
        environment[name] = str(file)
    told = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "token", **environment})
    assert not told.hints
    assert told.sasl_password == "secret"


def test_every_setting_that_is_named_anywhere_exists() -> None:
    known = {names(row[0])[0] for row in SETTINGS}
    for document in DOCUMENTS:
        told = set(re.findall(r"`((?:WOLKVOX|KAFKA|PUBLISHER)_[A-Z_]+)", page(str(document))))
        assert {name for name in told if not name.endswith("_")} <= known, document


# --- metrics --------------------------------------------------------------------------------------

METRICS: Final = {
    names(row[0])[0]: names(row[1]) for row in table(page("docs/reference/metrics.md"), "Metric")
}
VERIFIED: Final = {
    names(row[0])[0]: names(row[1])
    for row in table(page("docs/reference/metrics.md"), "Metric of verify")
}
RULES: Final = page("deploy/prometheus/alerts.yml")
ALERTS: Final = re.split(r"^      - alert: ", RULES, flags=re.MULTILINE)[1:]


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
    assert {
        family.name: list(family._labelnames) for family in textfile.families([], datetime.now(UTC))
    } == VERIFIED


def test_every_metric_that_is_named_anywhere_exists() -> None:
    for document in DOCUMENTS:
        told = set(re.findall(rf"`({PREFIX}_\w+)", page(str(document))))
        assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in told} <= {*METRICS, *VERIFIED}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.splitlines()[0])
def test_every_alert_speaks_of_what_exists(alert: str) -> None:
    """Metrics, labels and their values; its part of the runbook; a test of its own."""
    name = alert.splitlines()[0]
    [rule] = re.findall(r"^        expr: (.+?)^        \w", alert, re.MULTILINE | re.DOTALL)
    used = set(re.findall(rf"{PREFIX}_\w+", rule))
    assert used
    assert used <= {*METRICS, *VERIFIED}
    series = "\n".join(shown())
    for metric, label, value in re.findall(rf'({PREFIX}_\w+){{(\w+)="([^"]+)"', rule):
        assert re.search(rf'^{metric}{{[^}}]*{label}="{value}"', series, re.MULTILINE)
    for metric, label, values in re.findall(rf'({PREFIX}_\w+){{(\w+)=~"([^"]+)"', rule):
        for value in values.split("|"):
            assert re.search(rf'^{metric}{{[^}}]*{label}="{value}"', series, re.MULTILINE), value
    assert f"runbook: docs/runbook.md#{name.lower()}\n" in alert
    assert f"\n### {name}\n" in page("docs/runbook.md")
    tried = page("deploy/prometheus/alerts.test.yml")
    assert f"{{alertname: {name}, eval_time: 100m, exp_alerts: []}}" in tried
    assert f"- alertname: {name}\n" in tried


def test_the_dashboard_shows_what_exists() -> None:
    board = json.loads(page("deploy/grafana/wolkvox-publisher.json"))
    used = set()
    for panel in board["panels"]:
        assert panel["description"]
        for target in panel["targets"]:
            found = set(re.findall(rf"{PREFIX}_\w+", target["expr"]))
            used |= {re.sub(r"_(bucket|count)$", "", name) for name in found}
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            known = {label for name in found for label in METRICS.get(name, ["operation"])}
            assert labels <= known | {"instance"}, target["legendFormat"]
    assert used
    # Each is shown, but these: they say the same as others, or nothing that changes.
    assert used == METRICS.keys() - {
        f"{PREFIX}_pass_cadence_seconds",
        f"{PREFIX}_row_seen",
        f"{PREFIX}_last_success_timestamp_seconds",
        f"{PREFIX}_transactions_total",
    }


def shown() -> list[str]:
    """The series once the state is restored, one line each."""
    status = Status(["wv0010"], "0", lambda: datetime.now(UTC))
    metrics = Metrics(status)
    status(RESTORED)
    return generate_latest(metrics.registry).decode().splitlines()


def test_the_alert_for_people_rings_for_every_reason_that_needs_one() -> None:
    [alert] = [alert for alert in ALERTS if alert.startswith("WolkvoxNeedsAPerson\n")]
    [pattern] = re.findall(r'reason=~"([^"]+)"', alert)
    assert {reason for reason in Reason if re.fullmatch(pattern, reason)} == needing_a_person()


def test_every_verdict_stands_in_the_table() -> None:
    rows = table(page("docs/reference/metrics.md"), "Metric")
    [row] = [row for row in rows if "requests_total" in row[0]]
    assert set(names(row[2])) == {*Verdict, "failed"}


# --- reasons --------------------------------------------------------------------------------------


def needing_a_person() -> set[Reason]:
    """Every reason with which the code calls somebody, found in the code itself."""
    found = {row[3] for row in responses._TABLE if row[2] is Verdict.HOLD and row[3]}
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
    return bool(words & {"NeedsOperator", "Verdict.HOLD", "needs_person=True"})


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
        Reason.KAFKA_AUTHENTICATION,  # _failed(NeedsOperator, ...)
        Reason.KAFKA_TOPIC,  # OutcomeUnknown(..., needs_person=True)
        Reason.FENCED,  # a class of its own
    } <= needing_a_person()


def test_every_reason_that_needs_a_person_has_a_cure() -> None:
    rows = table(page("docs/runbook.md"), "`reason`, needs a person")
    told = [name for row in rows for name in names(row[0])]
    assert sorted(told) == sorted(needing_a_person())


LOG_LINES: Final = {Reason.ONLY_NOT_FOUND, Reason.DATES_OFF, Reason.DATE_MISSING}
"""Nothing raises these."""


def test_every_other_reason_is_explained() -> None:
    rows = table(page("docs/runbook.md"), "Heals by itself")
    told = {name for row in rows for name in names(row[0])}
    # What these were meant for is a log line of its own.
    assert told == set(Reason) - needing_a_person() - LOG_LINES


# --- the event ------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["docs/reference/events.md", "README.es.md"])
def test_the_event_of_the_docs_is_the_example(document: str) -> None:
    [text] = blocks("json", page(document))
    assert json.loads(text) == json.loads((ROOT / "schemas/examples/event.json").read_bytes())


def test_every_field_of_the_event_is_explained() -> None:
    rows = table(page("docs/reference/events.md"), "Field")
    told = {name for row in rows for name in names(row[0])}
    described = json.loads((ROOT / "schemas/event.v1.schema.json").read_bytes())["properties"]
    assert told == described.keys()
    assert {*CHAT_FIELDS, *MESSAGE_FIELDS} - {"conversation"} <= told


def test_the_topics_of_the_reference_are_those_that_are_made() -> None:
    defaults = PublisherSettings()
    text = page("docs/reference/kafka.md")
    rows = table(text, "Topic")
    assert [(names(row[0])[0], row[1].split()[0]) for row in rows] == [
        (defaults.messages_topic, str(MESSAGES_PARTITIONS)),
        (defaults.dead_letters_topic, str(DEAD_LETTERS_PARTITIONS)),
        (defaults.state_topic, str(STATE_PARTITIONS)),
    ]
    for name, value in _STATE_CONFIG.items():
        if name != "message.timestamp.type":  # Kafka's own default
            assert f"`{name}={value}`" in rows[2][2]
    assert f"a `max.message.bytes` of {ENVELOPE_BYTES} more" in text


def test_the_formats_of_this_release_stand_in_the_table() -> None:
    rows = table(page("docs/how-to/upgrade.md"), "Release")
    assert rows[-1][:2] == [__version__.rpartition(".")[0], str(FORMAT)]
    assert f".v{rows[-1][3]}" in EVENT_TYPE


def test_the_log_lines_of_the_docs_are_those_of_the_code() -> None:
    said = page("publisher/telemetry/log_messages.py")
    told = re.findall(r'Log: "([^"]+)"', page("docs/runbook.md"))
    told += re.findall(r'(?:says|Look for|then for) "([A-Z][^"]+)"', page("docs/tutorial.md"))
    told += re.findall(r'(?:says|Look for|then for) "([A-Z][^"]+)"', page("docs/how-to/upgrade.md"))
    assert len(told) >= 7
    assert [line for line in told if f'"{line}"' not in said] == []


def test_the_quota_is_what_the_schedule_asks_for() -> None:
    """The requests a day of each pass, at the defaults."""
    rows = table(page("docs/how-to/sizing.md"), "What")
    passes = passes_of(PublisherSettings())
    asked = [round(timedelta(days=1) / pass_.cadence, 3) for pass_ in passes]
    *told, information, total = [int(row[1]) for row in rows]
    assert told == [round(requests) for requests in asked]
    assert information == timedelta(days=1) / (PublisherSettings().poll_every * EVERY_POLLS)
    assert total == sum([*told, information])


# --- commands, files, language --------------------------------------------------------------------


every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@every_document
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
        if "://" not in link and not link.startswith("#"):
            yield document.parent / link.partition("#")[0]
    for name in re.findall(
        r"`((?:publisher|schemas|sandbox|tests|benchmarks|docs|deploy)/[\w./-]*)`", text
    ):
        yield ROOT / name
    for name in re.findall(r"`((?:rules|edges|settings)/[\w./-]+)`", text):
        yield ROOT / "publisher" / name


@every_document
def test_every_file_that_is_mentioned_exists(document: Path) -> None:
    assert not [path for path in _mentioned(document) if not path.exists()]


@every_document
def test_every_part_that_is_linked_to_exists(document: Path) -> None:
    """The headings behind `#`, as GitHub spells them."""
    text = document.read_text(encoding="utf-8")
    for file, part in re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", text):
        target = (document.parent / file).resolve() if file else document
        if "://" not in file:
            assert part in _parts(target), f"{file}#{part}"


def _parts(document: Path) -> set[str]:
    text = re.sub(r"^( *)```.*?^\1```", "", page(str(document)), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@every_document
def test_every_footnote_is_there_and_is_used(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    sources = re.findall(r"^\[\^(\w+)\]:", text, re.MULTILINE)
    assert len(sources) == len(set(sources))
    assert set(re.findall(r"\[\^(\w+)\](?!:)", text)) == set(sources)


def test_every_page_stands_in_the_index() -> None:
    index = set(_mentioned(DOCS / "README.md"))
    pages = {path for path in DOCS.rglob("*.md") if path.parent != DECISIONS}
    assert pages - {DOCS / "README.md"} <= {path.resolve() for path in index}


def test_the_readme_fits_on_a_screen() -> None:
    """What is longer belongs on a page of its own."""
    assert len(page("README.md").splitlines()) <= 50


def test_every_decision_stands_in_the_index_with_its_title() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    files = sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")
    assert len({path.name[:4] for path in files}) == len(files), "a number twice"
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

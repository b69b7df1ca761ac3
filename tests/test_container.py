"""The image, the Compose file and `.env.example` agree with the code and with each other.

What only an engine can show, `deploy/verify-image.sh` and `deploy/verify-compose.sh` show.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from prometheus_client.registry import CollectorRegistry
from ruamel.yaml import YAML

from publisher.app import FINISH_SECONDS
from publisher.settings import KafkaSettings, PublisherSettings, load
from publisher.settings.groups import OperationSettings
from publisher.telemetry import http_server
from publisher.telemetry.current_status import Status
from publisher.telemetry.health import FIRST_BREATH, Liveness
from sandbox.kafka import Broker, config, install, wire
from sandbox.processes import Child, until
from sandbox.wolkvox import DEFAULT_TOKEN

ROOT: Final = Path(__file__).parents[1]
COMPOSE: Final = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
SERVICES: Final = COMPOSE["services"]
COMPOSE_TEXT: Final = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE: Final = (ROOT / ".env.example").read_text(encoding="utf-8")
ENV: Final = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HEALTHCHECK: Final = ROOT / "deploy" / "healthcheck.py"
KNOWN: Final = {
    f"{group}_{name}".upper()
    for group, model in (
        ("WOLKVOX", OperationSettings),
        ("KAFKA", KafkaSettings),
        ("PUBLISHER", PublisherSettings),
    )
    for name in model.model_fields
}


def filled(value: str, variables: Mapping[str, str]) -> str:
    """What Compose makes of a value: `${A:-b}` b if A is empty, `${A-b}` if unset, `${A:+b}`."""

    def one(found: re.Match[str]) -> str:
        name, operator, word = found.groups()
        told = variables.get(name, "")
        if operator == ":+":
            return word if told else ""
        return word if (not told if operator == ":-" else name not in variables) else told

    return re.sub(r"\$\{(\w+)(:-|-|:\+)([^}]*)\}", one, value)


def settings_of(variables: Mapping[str, str], tmp_path: Path) -> Any:
    """The settings of the Compose file's publisher, as the service reads them."""
    environment = {
        name: filled(value, variables)
        for name, value in SERVICES["publisher"]["environment"].items()
    }
    assert "$" not in "".join(environment.values())
    token = tmp_path / "token"
    token.write_text("secret", encoding="utf-8")
    mounted = environment["WOLKVOX_TOKEN_FILE"]
    assert mounted == f"/run/secrets/{SERVICES['publisher']['secrets'][0]}"
    return load(environment | {"WOLKVOX_TOKEN_FILE": str(token)})


# --- the Compose file -----------------------------------------------------------------------------


def test_the_compose_file_is_one_by_the_specification() -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_bytes())
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError):  # a schema that lets all pass says nothing
        jsonschema.validate({**COMPOSE, "services": {"x": {"read_onyl": True}}}, schema)


def test_without_an_account_it_is_the_simulated_api(tmp_path: Path) -> None:
    told = settings_of({}, tmp_path)
    [operation] = told.operations
    port = re.findall(r"EXPOSE (\d+)", stage("sandbox"))[0]
    assert (operation.name, operation.url) == ("simulated", f"http://wolkvox:{port}")
    assert not told.hints
    [secret] = COMPOSE["secrets"].values()
    token = (ROOT / filled(secret["file"], {})).read_text(encoding="utf-8").strip()
    assert token == DEFAULT_TOKEN


def test_the_example_is_a_real_account(tmp_path: Path) -> None:
    told = settings_of(ENV, tmp_path)
    [operation] = told.operations
    assert (operation.name, operation.url) == ("wv0010", "https://wv0010.wolkvox.com")
    assert not told.hints
    assert filled(COMPOSE["secrets"]["wolkvox-token"]["file"], ENV) == ENV["WOLKVOX_TOKEN_FILE"]


def test_an_empty_line_in_the_environment_file_breaks_nothing(tmp_path: Path) -> None:
    for name in ENV:
        assert settings_of(ENV | {name: ""}, tmp_path)


def test_defaults_are_those_of_the_code(tmp_path: Path) -> None:
    """But for the start: someone who tries it out wants to see events."""
    told, own = settings_of({}, tmp_path).publisher, PublisherSettings()
    assert told == own.model_copy(update={"start": "-1h"})


def test_every_variable_is_a_setting() -> None:
    assert SERVICES["publisher"]["environment"].keys() <= KNOWN
    assert ENV.keys() <= KNOWN


def test_the_example_names_what_the_compose_file_asks_for_and_nothing_else() -> None:
    assert set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT)) == ENV.keys()


def test_every_variable_of_the_example_is_explained() -> None:
    paragraphs = EXAMPLE.strip().split("\n\n")[1:]
    assert len(paragraphs) == len(ENV)
    for paragraph in paragraphs:
        *comment, variable = paragraph.splitlines()
        assert comment
        assert all(line.startswith("# ") for line in comment)
        assert re.fullmatch(r"\w+=\S+", variable)


def test_it_is_the_kafka_that_the_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{install.VERSION}"


def test_the_settings_of_its_kafka_start_a_kafka(tmp_path: Path) -> None:
    """With other ports and addresses, because here it shares a machine."""
    told = dict(SERVICES["kafka"]["environment"])
    assert len(base64.urlsafe_b64decode(told.pop("CLUSTER_ID") + "==")) == 16
    ports = config.free_ports()
    here = {"9092": ports.plaintext, "9093": ports.controller, "9094": ports.ssl}
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): re.sub(
            r"(?:kafka|localhost)?:(909[234])", lambda found: f"127.0.0.1:{here[found[1]]}", value
        )
        for name, value in told.items()
    }
    assert properties.pop("log.dirs") in SERVICES["kafka"]["volumes"][0]
    assert properties.keys() <= config.properties(ports, "").keys()
    with Broker(tmp_path, port=ports.plaintext, overrides=properties):
        assert wire.brokers(f"127.0.0.1:{ports.ssl}", 5)


def test_every_service_is_locked_up() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service.get("read_only") is (None if name == "kafka" else True), name
        assert not service.get("privileged"), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_the_service_is_given_the_time_it_needs_to_end() -> None:
    grace = SERVICES["publisher"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= 2 * FINISH_SECONDS + 5


def test_who_is_waited_for_can_say_that_it_is_well() -> None:
    for name, told in SERVICES["publisher"]["depends_on"].items():
        assert told == {"condition": "service_healthy"}
        target = SERVICES[name].get("build", {}).get("target")
        assert "healthcheck" in SERVICES[name] or "HEALTHCHECK" in stage(target)


# --- the Dockerfile -------------------------------------------------------------------------------


def stages() -> dict[str, str]:
    """The text of each stage, continued lines joined, without comments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    text = re.sub(r" *\\\n\s*", " ", text)
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def stage(name: str) -> str:
    return stages()[name]


def instructions(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", text, re.MULTILINE)


def test_a_plain_build_makes_the_publisher() -> None:
    assert list(stages())[-1] == "publisher"


def test_the_compose_file_builds_what_there_is() -> None:
    for service in SERVICES.values():
        assert service.get("build", {"target": "publisher"})["target"] in stages()


def test_nothing_runs_as_root() -> None:
    [user] = instructions(stage("runtime"), "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert f"({user.partition(':')[0]})" in EXAMPLE
    for name in ("sandbox", "publisher"):
        assert f"FROM runtime AS {name}" in DOCKERFILE
        assert not instructions(stage(name), "USER|RUN")


def test_what_is_copied_from_here_is_made_readable_first() -> None:
    """A file keeps its rights, which under a strict umask are none for the image's user."""
    first, *others = stages()
    assert "chmod -R a+rX" in instructions(stage(first), "RUN")[-1]
    for name in others:
        assert all(
            copied.startswith(f"--from={first} ") for copied in instructions(stage(name), "COPY")
        )


@pytest.mark.parametrize("name", ["sandbox", "publisher"])
def test_commands_are_in_exec_form(name: str) -> None:
    """A shell between would keep SIGTERM for itself."""
    found = instructions(stage(name), "ENTRYPOINT") + instructions(stage(name), "CMD")
    found += re.findall(r"^HEALTHCHECK .*CMD (.+)$", stage(name), re.MULTILINE)
    assert len(found) >= 2
    for command in found:
        assert all(isinstance(word, str) for word in json.loads(command))


def test_the_port_is_the_one_of_the_settings() -> None:
    port = PublisherSettings().http_port
    assert instructions(stage("publisher"), "EXPOSE") == [str(port)]
    assert SERVICES["publisher"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f'"{port}"' in HEALTHCHECK.read_text(encoding="utf-8")


def test_what_is_installed_is_pinned() -> None:
    [dependencies] = [run for run in instructions(stage("build"), "RUN") if "--requirement" in run]
    assert "--constraint constraints.txt" in dependencies
    assert "--only-binary :all:" in dependencies
    names = instructions(DOCKERFILE, "ARG")
    assert [name.partition("=")[0] for name in names] == ["PYTHON_IMAGE", "PIP_INDEX_URL"]


def test_no_secret_is_built_in() -> None:
    assert not re.search(r"(?i)token|password|secret|\.env\b", DOCKERFILE)


def test_only_what_is_copied_reaches_the_engine() -> None:
    """So neither `.env` nor secrets nor history can get into an image by accident."""
    everything, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert everything == "*"
    copied = {
        source
        for line in instructions(re.sub(r"COPY --from=.*", "", DOCKERFILE), "COPY")
        for source in line.split()[:-1]
    }
    assert {line.removeprefix("!") for line in allowed if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


# --- signals and health ---------------------------------------------------------------------------


async def test_told_to_stop_while_it_starts_it_ends_with_0(tmp_path: Path) -> None:
    """As process 1 it would wait for the kill; as any other, end with 143."""
    never_read = tmp_path / "config.toml"
    os.mkfifo(never_read)
    command = [sys.executable, "-m", "publisher", "run"]
    with Child(command, tmp_path / "log", {"PUBLISHER_CONFIG": str(never_read)}) as child:
        status = Path(f"/proc/{child.pid}/status")

        def minds_sigterm() -> bool:
            caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)
            return caught is not None and bool(int(caught[1], 16) & 1 << signal.SIGTERM - 1)

        await until(minds_sigterm, 10)
        child.send(signal.SIGTERM)
        assert await child.ended(5) == 0
        assert not child.output


def checked(port: int | str) -> tuple[int, str]:
    """What the HEALTHCHECK says, run as the image runs it."""
    [command] = re.findall(r"^HEALTHCHECK .*CMD (.+)$", stage("publisher"), re.MULTILINE)
    python, *options, script = json.loads(command)
    assert (python, Path(script).name) == ("python", HEALTHCHECK.name)
    ended = subprocess.run(
        [sys.executable, *options, str(HEALTHCHECK)],
        # A proxy in the environment must not be asked.
        env={"PUBLISHER_HTTP_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert not ended.stderr
    return ended.returncode, ended.stdout.strip()


async def test_the_health_check_says_what_the_service_says() -> None:
    """Healthy, and unhealthy when a loop hangs."""
    elapsed = 0.0
    liveness = Liveness(lambda: elapsed)
    liveness.beat("wv0010")

    def now() -> datetime:
        return datetime.now(UTC)

    status = Status(["wv0010"], "0", now)
    async with http_server.serve(
        0, registry=CollectorRegistry(), liveness=liveness, status=status, now=now
    ) as port:
        assert await asyncio.to_thread(checked, port) == (0, "ok")
        elapsed = FIRST_BREATH + 7
        assert await asyncio.to_thread(checked, port) == (
            1,
            "wv0010: its loop hangs, 7 s beyond its limit",
        )


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers, as a frozen process does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_frozen_service_is_unhealthy_before_the_engine_loses_patience(silent: int) -> None:
    [limit] = re.findall(r"^HEALTHCHECK .*--timeout=(\d+)s", stage("publisher"), re.MULTILINE)
    began = time.monotonic()
    code, told = checked(silent)
    assert time.monotonic() - began < int(limit)
    assert (code, told) == (1, f"no answer on port {silent} (PUBLISHER_HTTP_PORT): timed out")


@pytest.mark.parametrize("port", [1, "x", "0"])
def test_no_service_is_unhealthy_with_one_line(port: int | str) -> None:
    code, told = checked(port)
    assert code == 1
    assert told.startswith(f"no answer on port {port} (PUBLISHER_HTTP_PORT): ")
    assert "\n" not in told


# --- the scripts that prove it --------------------------------------------------------------------


def test_what_the_proof_lays_over_the_compose_file_changes_no_setting() -> None:
    over = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "verify-compose.yml")["services"]
    added = over.keys() - SERVICES.keys()
    assert added == {f"wv{ENV['WOLKVOX_SERVER']}"}
    assert "kafka" not in over
    assert over["publisher"]["environment"].keys().isdisjoint(KNOWN)
    for name in over.keys() - added:
        assert over[name].keys() <= {"image", "build", "environment", "volumes", "command", "ports"}


@pytest.mark.parametrize("script", ["verify-image.sh", "verify-compose.sh"])
def test_where_there_is_no_engine_the_proof_says_so(script: str, tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "mktemp", "rm"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    ended = subprocess.run(
        [str(tmp_path / "bash"), str(ROOT / "deploy" / script)],
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ended.returncode == 77
    assert ended.stdout.startswith("SKIPPED, nothing proven: there is no docker command")
    assert ended.stdout.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert os.access(ROOT / "deploy" / script, os.X_OK)

"""Alert rules and dashboard, judged by Prometheus itself: a real promtool runs them.

`promtool` of the path, or else Debian's, fetched once into the sandbox's cache.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from sandbox.kafka import install
from tests.fetched import Missing
from tests.test_docs import ALERTS, ROOT, RULES, page, shown

FOLDER: Final = ROOT / "deploy" / "prometheus"
NAMES: Final = [alert.splitlines()[0] for alert in ALERTS]
BOARD: Final = json.loads(page("deploy/grafana/wolkvox-publisher.json"))
EXPRESSIONS: Final = [
    (panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel["targets"]
]
LATER: Final = {
    "clock_skew_seconds": "operation",
    "quota_used": "operation",
    "quota_limit": "operation",
    "quota_hour_left": "operation",
    "unstable_offsets": "topic",
}
"""Gauges that are not there before something is known, and their label."""


def _fetched() -> Path:
    """Debian's promtool, whose package is fetched without being installed. Raises Missing."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing("neither promtool nor apt-get here: alert rules are not tested")
    cache = install.cache()
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / "promtool"
    with install._locked(cache / "promtool.lock"):
        if not made.exists():
            with install._appearing(made) as new:
                new.mkdir()
                _download(new)
    return made / "usr" / "bin" / "promtool"


def _download(folder: Path) -> None:
    command = ["apt-get", "--quiet", "download", "prometheus"]
    done = _ran(*command, cwd=folder)
    if done.returncode:  # slim images come without lists
        _ran("apt-get", "--quiet", "update", cwd=folder)
        done = _ran(*command, cwd=folder)
    if done.returncode:
        raise Missing(f"no promtool here, and Debian's cannot be had: {done.stderr.strip()[-300:]}")
    [package] = folder.glob("prometheus_*.deb")
    done = _ran("dpkg-deb", "--extract", str(package), ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    package.unlink()
    (folder / "usr" / "bin" / "prometheus").unlink()


def _ran(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found:
        return found
    try:
        return str(_fetched())
    except Missing as missing:
        pytest.skip(str(missing))


def tried(promtool: str, folder: Path, rules: str, tests: str) -> tuple[int, str]:
    """Run unit tests against rules; the exit code and what was said."""
    (folder / "alerts.yml").write_text(rules, encoding="utf-8")
    (folder / "alerts.test.yml").write_text(tests, encoding="utf-8")
    done = _ran(promtool, "test", "rules", "alerts.test.yml", cwd=folder)
    return done.returncode, done.stdout + done.stderr


# --- alerts ---------------------------------------------------------------------------------------


def test_prometheus_takes_the_rules(promtool: str) -> None:
    done = _ran(promtool, "check", "rules", "alerts.yml", cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(NAMES)} rules found" in done.stdout


def test_every_bell_rings_when_it_should_and_only_then(promtool: str) -> None:
    done = _ran(promtool, "test", "rules", "alerts.test.yml", cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", ["vector(1) > 1", "vector(1)"])
def test_a_rule_that_never_or_always_rings_is_noticed(
    promtool: str, tmp_path: Path, expression: str
) -> None:
    """The unit tests look at each of the alerts, and can fail."""
    rules = YAML(typ="safe").load(RULES)
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = expression
        rule["annotations"]["summary"] = "x"  # it names labels which the expression does not have
    # Often enough for these two: whole days, minute by minute, take long.
    tests = page("deploy/prometheus/alerts.test.yml").replace(
        "evaluation_interval: 1m", "evaluation_interval: 5m"
    )
    code, said = tried(promtool, tmp_path, json.dumps(rules), tests)
    assert code == 1, said
    assert set(re.findall(r"alertname: (\w+), ", said)) == set(NAMES)


def test_the_exposition_passes_prometheus_own_lint(promtool: str) -> None:
    """Names, types and help texts, as Prometheus wants them."""
    text = "\n".join(shown()) + "\n"
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- dashboard ------------------------------------------------------------------------------------


def series() -> list[dict[str, str]]:
    """Everything that the service and its process show, all of it rising."""
    found = [line.rpartition(" ")[0] for line in shown() if not line.startswith("#")]
    found += [
        f'wolkvox_publisher_{name}{{{label}="{"wv0010" if label == "operation" else "topic"}"}}'
        for name, label in LATER.items()
    ]
    return [{"series": _scraped(one), "values": "1+7x240"} for one in found]


def _scraped(one: str) -> str:
    """With the labels that Prometheus adds."""
    name, _, labels = one.partition("{")
    told = [label for label in labels.removesuffix("}").split(",") if label]
    every = ",".join([*told, 'job="w"', 'instance="a"'])
    return f"{name}{{{every}}}"


def asked(expression: str) -> str:
    """The expression as Grafana sends it, with its variables filled in."""
    return expression.replace("$operation", "wv0010|wv0024").replace("$__rate_interval", "5m")


def questions(*expressions: str) -> str:
    """Unit tests, as JSON: each of these has an answer."""
    samples = [{"labels": "{}", "value": 1}]
    test: dict[str, Any] = {
        "name": "the dashboard",
        "interval": "1m",
        "input_series": series(),
        "promql_expr_test": [
            {"expr": f"clamp_max(count({each}), 1)", "eval_time": "2h", "exp_samples": samples}
            for each in expressions
        ],
    }
    return json.dumps({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [test]})


def test_every_panel_has_something_to_show(promtool: str, tmp_path: Path) -> None:
    """Each expression is PromQL, and finds the series that the service has."""
    told = [asked(expression) for _, expression in EXPRESSIONS]
    assert len(told) > 15
    assert not [each for each in told if "$" in each]
    code, said = tried(promtool, tmp_path, RULES, questions(*told))
    assert code == 0, said


@pytest.mark.parametrize(
    "wrong",
    [
        "wolkvox_publisher_lag_secondes",
        'wolkvox_publisher_lag_seconds{operation="other"}',
        "sum by (operation (wolkvox_publisher_lag_seconds)",
        "process_resident_memory_bytes and on (pod) wolkvox_publisher_build_info == 0",
    ],
)
def test_an_expression_that_finds_nothing_is_noticed(
    promtool: str, tmp_path: Path, wrong: str
) -> None:
    code, said = tried(promtool, tmp_path, RULES, questions(wrong))
    assert code == 1, said

"""Fetches Kafka once per checkout and keeps what makes starts fast.

Below `.cache/kafka-VERSION/` (the directory `SANDBOX_CACHE` takes the place of `.cache`):

    lib/        the jars, copied by Maven
    template/   a formatted data directory of 4 kB that each broker copies: 1.7 s saved per start
    broker.jsa  the classes a broker loads, ready to map (AppCDS): about a second saved per start;
                empty when this Java could not make it

Each of them appears by a rename under a lock, so that processes may prepare at the same time
and one that is killed leaves nothing half done.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.kafka import config

_POM: Final = Path(__file__).with_name("pom.xml")


def _version() -> str:
    found = re.search(r"<kafka\.version>([\d.]+)<", _POM.read_text(encoding="utf-8"))
    assert found, "pom.xml names no kafka.version"
    return found[1]


VERSION: Final = _version()

HOW_TO_GET_ONE: Final = (
    "install a Java 17+ runtime and Maven "
    "(Debian: apt-get install openjdk-17-jre-headless maven), "
    "or Docker, or set KAFKA_BOOTSTRAP_SERVERS"
)

_FLAGS: Final = (
    # 512 MiB are for runs of a million messages; a broker at rest holds 150 MB.
    *("-Xms64m", "-Xmx512m", "-Xss512k"),
    # A short life: one collector thread, and the quick compiler only.
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
    # warn is what tells why a start failed; info would be 300 lines a start.
    *(
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
    ),
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


class NoKafka(Exception):  # noqa: N818  # a state of the machine, not a fault in it
    """There is no Kafka here and no means to get one; the text is one line for a person."""


@dataclass(frozen=True)
class Installation:
    """A Kafka that can be started."""

    java: Path
    home: Path
    flags: tuple[str, ...] = _FLAGS

    @property
    def template(self) -> Path:
        return self.home / "template"

    @property
    def archive(self) -> Path:
        return self.home / "broker.jsa"

    def command(self, *arguments: str, flags: tuple[str, ...] = ()) -> list[str]:
        """Spell the command line for a main class and its arguments."""
        if self.archive.exists() and self.archive.stat().st_size:
            flags = (*flags, "-Xshare:auto", f"-XX:SharedArchiveFile={self.archive}")
        # Spelled out and sorted: the archive is bound to the exact text of the class path.
        path = ":".join(str(jar) for jar in sorted((self.home / "lib").glob("*.jar")))
        return [str(self.java), *self.flags, *flags, "-cp", path, *arguments]


def find_java() -> Path | None:
    """Look for Java in JAVA_HOME, then on the path."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    return Path(found) if found else None


def is_possible() -> bool:
    """Whether `prepare` has a chance: Java, and the jars or a Maven to fetch them."""
    return find_java() is not None and (_has_jars(_home()) or shutil.which("mvn") is not None)


def prepare(train: Callable[[Installation, Path], None]) -> Installation:
    """Fetch, format and train what is still missing; a few milliseconds when nothing is.

    `train(installation, path)` is to run a broker that leaves its class archive at `path`.
    Raises NoKafka when Java or Maven is missing or fails.
    """
    java = find_java()
    if java is None:
        raise NoKafka(f"no Java here: {HOW_TO_GET_ONE}")
    installation = Installation(java, _home())
    if installation.archive.exists():  # the last one to appear
        return installation
    jars()
    with _locked(installation.home / "lock"):
        if not installation.template.exists():
            with _appearing(installation.template) as new:
                _format(installation, new)
        if not installation.archive.exists():
            _say("Preparing fast starts (once, some seconds)...")
            with _appearing(installation.archive) as new:
                # A class archive is a convenience: whatever prevents it, go on without.
                with contextlib.suppress(Exception):
                    train(installation, new)
                new.touch()
    return installation


def jars() -> Path:
    """Fetch the jars unless they are there; the directory that holds them. Raises NoKafka."""
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / "lock"):
        if not _has_jars(home):
            _say(f"Fetching Apache Kafka {VERSION} with Maven (once, about 45 MB)...")
            with _appearing(home / "lib") as new:
                _fetch(new)
    return home / "lib"


def cache() -> Path:
    """Where downloads and data of the sandbox are kept, out of git's sight."""
    given = os.environ.get("SANDBOX_CACHE")
    return Path(given).resolve() if given else Path(__file__).resolve().parents[2] / ".cache"


def _home() -> Path:
    return cache() / f"kafka-{VERSION}"


def _has_jars(home: Path) -> bool:
    return (home / "lib").exists()


def _fetch(lib: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise NoKafka(f"no Maven here: {HOW_TO_GET_ONE}")
    _run(
        [
            *(maven, "--batch-mode", "--quiet", f"--file={_POM}", "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={lib}"),
        ],
        f"Maven cannot fetch Kafka {VERSION}",
    )


def _format(installation: Installation, template: Path) -> None:
    # The ports and the directory of formatting mean nothing to the brokers that copy the result.
    settings = template.with_suffix(".properties")
    config.write(settings, config.properties(config.free_ports(), str(template)))
    tool = ["kafka.tools.StorageTool", "format", "-t", config.CLUSTER_ID, "-c", str(settings)]
    for user, password in config.USERS.items():
        for mechanism in config.MECHANISMS:
            if mechanism.startswith("SCRAM"):
                tool += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
    _run(installation.command(*tool), "Kafka cannot format a data directory (is this Java 17+?)")


def _run(command: list[str], complaint: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line.strip() for line in done.stdout.splitlines() if "[ERROR]" in line]
        reason = (said or done.stdout.strip().splitlines() or ["no output"])[0]
        raise NoKafka(f"{complaint}: {reason[:500]}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it however the holder ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a place to make something at; it becomes `path`, whole, when the block succeeds."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
        new = Path(folder) / path.name
        yield new
        new.rename(path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

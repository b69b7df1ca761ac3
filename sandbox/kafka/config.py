"""What server.properties of the local broker says, and the ports it uses."""

import atexit
import base64
import random
import shutil
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.kafka.tls import Files

USERS: Final = {"admin": "admin-secret", "alice": "alice-secret", "bob": "bob-secret"}
"""User -> password, for PLAIN and SCRAM alike. `admin` may do everything, the others nothing
until `Broker.allow`. Every data directory holds them, secure or not."""

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

CLUSTER_ID: Final = "c2FuZGJveC1rYWZrYS0wMA"
"""16 bytes in URL-safe base64, as `format` wants them; the same everywhere, so that a formatted
directory can be copied."""


@dataclass(frozen=True)
class Ports:
    """TCP ports on 127.0.0.1; the last three are used by a secure broker alone."""

    plaintext: int
    controller: int
    sasl_ssl: int
    ssl: int
    sasl_plaintext: int


def free_ports(plaintext: int | None = None) -> Ports:
    """Ports nobody uses now, and no other call is given, in whatever process; `plaintext` can be.

    Below the range the kernel takes for outgoing connections (32768 up on Linux): inside it
    a client that tries to reach a broker that is down can be given the broker's port as its own
    and so be connected to itself, and the restarted broker finds its port taken.
    """
    found: list[int] = []
    while len(found) < 5:
        port = random.randint(20_000, 32_000)
        if is_free(port) and _taken(port):
            found.append(port)
    first, *others = found
    return Ports(plaintext or first, *others)


def _taken(port: int) -> bool:
    """Take it, by its UDP twin, until this process ends; it may be used later, or in between."""
    twin = socket.socket(type=socket.SOCK_DGRAM)
    try:
        twin.bind(("127.0.0.1", port))
    except OSError:
        twin.close()
        return False
    atexit.register(twin.close)
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As Java does: connections that linger from an earlier broker are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def properties(ports: Ports, log_dir: str, bind: str = "127.0.0.1") -> dict[str, str]:
    """One node that is broker and controller, made to start fast and to keep little."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"PLAINTEXT://{bind}:{ports.plaintext},"
        f"CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports.plaintext}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir,
        "num.network.threads": "1",
        "num.io.threads": "2",
        "num.recovery.threads.per.data.dir": "1",
        "num.partitions": "1",
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        # Lets a test fail over in seconds; the default is 6 s.
        "group.min.session.timeout.ms": "1000",
        # The default, 128 MiB, is taken from the heap at start.
        "log.cleaner.dedupe.buffer.size": "4194304",
        # A broker killed with -9 is let in again once its old session ended: 9 s by default.
        "broker.session.timeout.ms": "1000",
        "broker.heartbeat.interval.ms": "200",
    }


CONTROLLER_ID: Final = 100
"""Node id of the controller of a cluster."""

CLUSTER_SETTINGS: Final = {
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # Four processes may share two cores: a second without a heartbeat is no failure yet.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # A follower that is alive and does not follow holds writes back for so long.
    "replica.lag.time.max.ms": "5000",
    "unclean.leader.election.enable": "false",
}


def controller_properties(ports: Ports, log_dir: str, replicas: int) -> dict[str, str]:
    """The one controller of a cluster; it holds no messages, and creates the topics."""
    return {
        **properties(ports, log_dir),
        **CLUSTER_SETTINGS,
        "process.roles": "controller",
        "node.id": str(CONTROLLER_ID),
        "controller.quorum.voters": f"{CONTROLLER_ID}@127.0.0.1:{ports.controller}",
        "listeners": f"CONTROLLER://127.0.0.1:{ports.controller}",
        "advertised.listeners": f"CONTROLLER://127.0.0.1:{ports.controller}",
        "default.replication.factor": str(replicas),
    }


def member_properties(
    ports: Ports, log_dir: str, node_id: int, controller_port: int, replicas: int, advertised: str
) -> dict[str, str]:
    """One broker of a cluster. Clients come by `advertised`, the other brokers past it."""
    safe = str(max(1, replicas - 1))
    internal = f"INTERNAL://127.0.0.1:{ports.sasl_plaintext}"
    return {
        **properties(ports, log_dir),
        **CLUSTER_SETTINGS,
        "process.roles": "broker",
        "node.id": str(node_id),
        "controller.quorum.voters": f"{CONTROLLER_ID}@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{ports.plaintext},{internal}",
        "advertised.listeners": f"PLAINTEXT://{advertised},{internal}",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": safe,
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": safe,
        "num.replica.fetchers": "1",
    }


def copy_template(template: Path, data: Path, node_id: int) -> None:
    """Make a formatted data directory for that node, with an identity of its own."""
    shutil.copytree(template, data)
    identity = data / "meta.properties"
    directory_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    own = {"node.id": str(node_id), "directory.id": directory_id}
    lines = identity.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in own]
    written = [*kept, *(f"{name}={value}" for name, value in own.items())]
    identity.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")


def secured(base: Mapping[str, str], ports: Ports, files: Files) -> dict[str, str]:
    """Add to `base` listeners for SASL_SSL, SSL and SASL_PLAINTEXT, and an authorizer.

    Who comes without a name (PLAINTEXT, and SSL without a client certificate) is a super user,
    so that tests can arrange things; with a client certificate the name is its common name.
    """
    listeners = (
        f",SASL_SSL://127.0.0.1:{ports.sasl_ssl},SSL://127.0.0.1:{ports.ssl}"
        f",SASL_PLAINTEXT://127.0.0.1:{ports.sasl_plaintext}"
    )
    merged = {
        **base,
        "listeners": base["listeners"] + listeners,
        "advertised.listeners": base["advertised.listeners"] + listeners,
        "listener.security.protocol.map": base["listener.security.protocol.map"]
        + ",SASL_SSL:SASL_SSL,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files.ca),
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        "listener.name.ssl.ssl.client.auth": "requested",
    }
    library = "org.apache.kafka.common.security"
    users = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
    for listener in ("sasl_ssl", "sasl_plaintext"):
        prefix = f"listener.name.{listener}"
        merged[f"{prefix}.plain.sasl.jaas.config"] = (
            f"{library}.plain.PlainLoginModule required {users};"
        )
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            merged[f"{prefix}.{mechanism}.sasl.jaas.config"] = (
                f"{library}.scram.ScramLoginModule required;"
            )
    return merged


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write `values` as a Java properties file; values may hold no line break."""
    lines = (f"{name}={value.replace(chr(92), chr(92) * 2)}" for name, value in values.items())
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

"""What the checks of Kafka share: what is known of it, and the command that grants a right."""

from dataclasses import dataclass
from typing import Any

from publisher.kafka.probe import Cluster
from publisher.kafka.topics import Wanted
from publisher.settings import Settings


@dataclass(frozen=True, slots=True)
class Inside:
    """What is known once a broker lets us in."""

    settings: Settings
    wanted: dict[str, Wanted]
    cluster: Cluster
    connection: Any
    controller: Any
    """A connection to the controller, where one could be made."""
    replicas: int
    """Those of a new topic."""
    brokers: int
    """How many there are, up or down, as far as the cluster tells."""

    def is_commands(self, topic: str) -> bool:
        return topic == self.settings.publisher.commands_topic


def acl(settings: Settings, operations: list[str], where: str) -> str:
    """The command that grants it."""
    kafka = settings.kafka
    user = kafka.sasl_username if kafka.security_protocol.startswith("SASL") else None
    server = kafka.bootstrap_servers.partition(",")[0].strip()
    granted = " ".join(f"--operation {operation}" for operation in operations)
    return (
        f"kafka-acls.sh --bootstrap-server {server} --add --allow-principal"
        f" User:{user or 'NAME'} {granted} {where}"
    )

"""What the checks of Kafka share.

It is the information about the cluster, and the command that grants a right.
"""

from dataclasses import dataclass
from typing import Any

from publisher.kafka.probe import Cluster
from publisher.kafka.topics import Wanted
from publisher.settings import Settings


@dataclass(frozen=True, slots=True)
class Inside:
    """The information about the cluster, and the connections to it, after a successful login."""

    settings: Settings
    wanted: dict[str, Wanted]
    cluster: Cluster
    connection: Any
    controller: Any
    """The connection to the controller, or else to another broker."""
    replicas: int
    """The number of replicas that a new topic gets."""
    brokers: int
    """The number of brokers, up or down, as far as the cluster reports them."""

    def is_commands(self, topic: str) -> bool:
        """Whether it is the commands topic."""
        return topic == self.settings.publisher.commands_topic


def acl(settings: Settings, operations: list[str], where: str) -> str:
    """The command that grants us these operations on `where`, the resource as options."""
    kafka = settings.kafka
    user = kafka.sasl_username if kafka.security_protocol.startswith("SASL") else None
    server = kafka.bootstrap_servers.partition(",")[0].strip()
    granted = " ".join(f"--operation {operation}" for operation in operations)
    return (
        f"kafka-acls.sh --bootstrap-server {server} --add --allow-principal"
        f" User:{user or 'NAME'} {granted} {where}"
    )

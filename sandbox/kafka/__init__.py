"""A local Apache Kafka without hand work, for the demo, the tests and the benchmarks.

    with Broker(tmp_path) as broker:        # a real broker, with kill(), freeze(), restart()
        broker.bootstrap                    # "127.0.0.1:23456"

    with Cluster(tmp_path) as cluster:      # three of them, and a controller of their own
        cluster.brokers[0].kill()

    with ensure() as bootstrap:             # whatever Kafka there is: given, Maven and Java, Docker
        ...

Bottom up: `wire` speaks three raw requests, `tls` makes certificates, `config` writes
server.properties, `leash` ties a process to the life of its parent, `install` fetches Kafka,
`broker` runs it, `cluster` several of them, `locate` decides which Kafka to use.
"""

from sandbox.kafka.broker import Broker, BrokerError
from sandbox.kafka.cluster import Cluster
from sandbox.kafka.config import USERS
from sandbox.kafka.install import VERSION, NoKafka
from sandbox.kafka.locate import ensure

__all__ = ["USERS", "VERSION", "Broker", "BrokerError", "Cluster", "NoKafka", "ensure"]

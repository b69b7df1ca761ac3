"""The whole suite in three processes, each with a Kafka of its own: half of its time is waiting.

File by file. One process begins with the tests that measure how long something takes, the others
with those that need no Kafka; what waits most of the time and measures nothing comes next there.
So what measures runs beside what disturbs it least.
"""

import re
from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

MEASURING: Final = (
    "test_service.py",
    "test_check.py",
    "test_kafka.py",
    "test_status.py",
    "test_operator.py",
    "test_faults.py",
)
"""In this order; a long file at the end would leave one process alone."""

LONG: Final = (
    "test_kafka_cluster.py",
    "test_log_contract.py",
    "test_rebuild.py",
    "test_label.py",
    "test_sandbox_cluster.py",
    "test_undecided.py",
    "test_verify.py",
)
"""Never the last ones: they would leave the other processes without work."""

WAITING: Final = ("test_revisions_kafka.py", "test_chaos.py", "test_backfill_kafka.py")


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """Files in the order of their need for quiet: the first process takes the first one left."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: Any) -> None:
        choose = min if node is self.nodes[0] else max
        file = choose(self.workqueue, key=self._noise)
        self.workqueue.move_to_end(file, last=False)  # the one that is taken
        super()._assign_work_unit(node)

    def _noise(self, file: str) -> tuple[int, int]:
        """How well it goes beside a test that measures."""
        name = file.rpartition("/")[2]
        if name in MEASURING:
            return 0, MEASURING.index(name)
        if name in WAITING:
            return 2, WAITING.index(name)
        if name in LONG:
            return 1, 1
        text = (self.config.rootpath / file).read_text(encoding="utf-8")
        return (1 if re.search(r"\b(Broker|Cluster)\b", text) else 3), 0

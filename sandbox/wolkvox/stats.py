"""What was asked of the simulated API, for tests to look at afterwards."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

KEPT = 100_000
"""Requests remembered at least; a simulator may run for days."""


@dataclass(slots=True)
class RequestRecord:
    """One request to the API.

    `at`: arrival by the machine's clock (aware UTC; the simulated offset is not in it).
    `ini`, `end`: the window in aware UTC (the first meaning of a repeated hour), None if it cannot
    be read; `query` holds them as asked. `kind`: what was answered, "rows", "empty", "token_info"
    or the name of a refusal or a fault. `rows`: messages shown. `took`: seconds until the answer
    had been sent or given up, None while it is under way. `in_flight`: requests under way, itself
    included.
    """

    at: datetime
    query: dict[str, str]
    in_flight: int
    ini: datetime | None = None
    end: datetime | None = None
    kind: str = "open"
    status: int = 0
    rows: int = 0
    took: float | None = None


@dataclass(slots=True)
class Stats:
    """Everything counted since the start.

    `in_flight`, `max_in_flight`: requests with the right token, refused ones included.
    `redirected`: for each request that followed a redirect to the second host, whether it carried
    the token there. `used_today`: requests counted against the quota on local day `day`.
    """

    requests: list[RequestRecord] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0
    redirected: list[bool] = field(default_factory=list)
    used_today: int = 0
    day: str = ""

    @property
    def kinds(self) -> Counter[str]:
        """Answers by kind."""
        return Counter(record.kind for record in self.requests)

    def arrive(self, at: datetime, query: dict[str, str]) -> RequestRecord:
        """Note a request."""
        if len(self.requests) >= 2 * KEPT:
            del self.requests[:KEPT]
        record = RequestRecord(at, query, self.in_flight)
        self.requests.append(record)
        return record

    def told(self, last: int) -> dict[str, Any]:
        """Return all this for JSON, with the `last` requests."""
        return {
            "kinds": self.kinds,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "redirected": self.redirected,
            "used_today": self.used_today,
            "requests": [asdict(record) for record in self.requests[-last:]],
        }

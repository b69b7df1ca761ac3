"""What in an answer that no strict decoder takes may have been damaged on its way.

Rules of this file:
- A damaged row is believed only once it came twice in the same form: a fault of the wire does
  not strike twice alike, a broken text in the report is as broken the next time.
- Rows are compared, not bodies: between two answers to one question new rows appear.
- Of a body only digests are kept.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from publisher.model import Answer
from publisher.wolkvox.responses import Classification, Verdict, classify
from publisher.wolkvox.schema import canonical

_DAMAGE: Final = re.compile(rb"\xef\xbf\xbd|\\u00|\\[bf]|\x7f")
"""U+FFFD, which stands for what was damaged, or a control character; a line has its end."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a forgiving decoder makes of an answer that the strict one has refused."""

    classification: Classification
    digest: bytes
    damaged: frozenset[bytes]
    """Digests of rows, each with the fields of its conversation, that may be damaged."""

    @property
    def readable(self) -> bool:
        return self.classification.verdict is not Verdict.NOT_UNDERSTOOD

    def confirms(self, first: "Examined") -> bool:
        """Whether all that may be damaged here came in the same form before."""
        if self.readable and first.readable:
            return self.damaged <= first.damaged
        return self.digest == first.digest


def examine(answer: Answer) -> Examined | None:
    """None where there is nothing to examine: no body, or the status says enough."""
    if answer.status != 200 or not answer.body.strip():
        return None
    classification = classify(answer, lenient=True)
    return Examined(classification, sha256(answer.body).digest(), _damaged(classification.data))


def _damaged(data: list[Any]) -> frozenset[bytes]:
    parts = [part for element in data for part in _parts(element)]
    return frozenset(sha256(part).digest() for part in parts if _DAMAGE.search(part))


def _parts(element: Any) -> list[bytes]:
    if not isinstance(element, dict) or not isinstance(element.get("conversation"), list):
        return [canonical(element)]
    shared = canonical({**element, "conversation": None})
    return [shared, *(shared + canonical(row) for row in element["conversation"])]

"""Finds the rows that may have been damaged in transit, in an answer that is not strict JSON.

Rules of this file:
- A damaged row is believed only after it came twice in the same form. A fault of the wire
  does not repeat itself exactly; a text that is broken in the report does.
- Rows are compared, not bodies, because new rows appear between two answers to the same request.
- Only digests of a body are kept.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from publisher.model import Answer
from publisher.wolkvox.responses import Classification, Verdict, classify
from publisher.wolkvox.schema import canonical

_DAMAGE: Final = re.compile(rb"\xef\xbf\xbd|\\u00|\\[bf]|\x7f")
"""U+FFFD, which replaces damaged bytes, or a control character (no tab, LF or CR)."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What the forgiving decoder reads in an answer that the strict decoder refused."""

    classification: Classification
    digest: bytes
    damaged: frozenset[bytes]
    """Digests of the rows that may be damaged. A digest covers the conversation's fields, too."""

    @property
    def readable(self) -> bool:
        return self.classification.verdict is not Verdict.NOT_UNDERSTOOD

    def confirms(self, first: "Examined") -> bool:
        """Whether all that may be damaged here came in the same form in the `first` answer."""
        if self.readable and first.readable:
            return self.damaged <= first.damaged
        return self.digest == first.digest


def examine(answer: Answer) -> Examined | None:
    """Examine an answer. None when it has no body or when its status already says enough."""
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

"""Defines what identifies a message, besides its date.

Rules of this file:
- Identity is a contract (docs/reference/events.md): consumers keep ids for ever.
- It depends on the row alone, never on when or by which pass the row was read.
- Two reads may show the same message differently: links are signed anew, columns come and go.
  The differences that we know of are left out of the identity, or recognised.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias
from unicodedata import decimal

from msgspec import UNSET

from publisher.state.ledger import Id, Ledger, id_of
from publisher.wolkvox.schema import (
    MESSAGE_FIELDS,
    Message,
    Number,
    Trait,
    canonical,
)

_NEGATIVE: Final = re.compile(r"\s*[-\u2010-\u2015\u2212]\s*\d[\d.,]*\s*")


def id_fields(*, placeholder: bool) -> list[str]:
    """Return the names of the fields of a row that tell the messages of a conn_id apart."""
    return [line.name for line in MESSAGE_FIELDS.values() if Trait.IN_ID in line.traits] + [
        line.name
        for line in MESSAGE_FIELDS.values()
        if placeholder and Trait.IN_PLACEHOLDER_ID in line.traits
    ]


def conn_id_of(value: Any) -> str | None:
    """A conn_id as text; None if the value is not valid as a conn_id."""
    if value is None or value is UNSET:
        return ""
    if type(value) is str:
        return value
    # A fraction may have lost digits before it was sent.
    return text_of(value) if type(value) is int or (type(value) is Number and value.whole) else None


def is_placeholder(conn_id: str) -> bool:
    """Whether several conversations may share a conn_id, because it stands for "none".

    A conn_id names a conversation if it holds a digit from 1 to 9, in any script, and is not a
    negative number. So "", "0", "00", "-", "null", "N/A", "undefined", " ", "0.0", "-1" and the
    nil UUID do not name a conversation.
    """
    if "1" <= conn_id[:1] <= "9":
        return False  # nearly every conn_id is such a number
    return _NEGATIVE.fullmatch(conn_id) is not None or not any(decimal(c, 0) for c in conn_id)


def text_of(value: Any) -> str:
    """A field as identity sees it: null, missing and "" are equal, and 1 equals "1"."""
    if value is None or value is UNSET:
        return ""
    if isinstance(value, str):
        return clean(value)
    return canonical(value).decode()


def clean(text: str) -> str:
    """Replace U+0000 by U+FFFD, because U+0000 separates the parts of a name."""
    return text.replace("\0", "\ufffd")


# --- links that are signed anew at every read -----------------------------------------------------

SIGNATURES: Final = frozenset({
    "x-amz-signature", "x-goog-signature", "x-oss-signature", "q-signature", "signature",
    "sig", "sign", "token", "access_token", "hdnts", "hdnea", "md5", "verify", "oh",
})  # fmt: skip
"""Parameters that sign a URL. The last one is Facebook's."""
SIGNED_WITH: Final = SIGNATURES | {
    "expires", "expiry", "exp", "policy", "key-pair-id",
    "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "security-token",
    "se", "st", "sp", "sv", "sr", "spr", "sip", "ss", "srt", "sdd", "si", "ses",
    "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid",
    "oe", "ccb",
}  # fmt: skip
"""The signatures, and the parameters that are made anew together with them: those of S3,
CloudFront, Google, Azure and others."""
SIGNED_WITH_PREFIXES: Final = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "q-", "_nc_")

_URL: Final = re.compile(r"(https?://[^\s?#\"'<>]*)\?([^\s#\"'<>]+)", re.IGNORECASE)
_AND: Final = re.compile("&amp;|&")


def may_be_signed(text: str) -> bool:
    """Whether a text may hold a signed URL. The test is cheap, because nearly no text does."""
    return "?" in text and "://" in text


def unsigned(text: str) -> str:
    """The text, with its URLs as they were before they were signed."""
    return _URL.sub(_unsigned, text) if may_be_signed(text) else text


def _unsigned(url: re.Match[str]) -> str:
    parameters = [(_name_of(parameter), parameter) for parameter in _AND.split(url[2])]
    if SIGNATURES.isdisjoint(name for name, _ in parameters):
        return url[0]
    kept = [
        parameter
        for name, parameter in parameters
        if name not in SIGNED_WITH and not name.startswith(SIGNED_WITH_PREFIXES)
    ]
    return f"{url[1]}?{'&'.join(kept)}"


def _name_of(parameter: str) -> str:
    return parameter.partition("=")[0].lower()


# --- whose row it is, where the conn_id does not say ----------------------------------------------

Who: TypeAlias = tuple[str, str]
"""A customer's id and phone, as far as the report shows them."""


def who_of(message: Message) -> Who:
    """The customer whose conversation a row under a placeholder belongs to."""
    return text_of(message.customer_id), _phone(text_of(message.customer_phone))


def _phone(text: str) -> str:
    """The digits of a phone, because their grouping may change. Without digits: the text itself."""
    return "".join(_DIGITS.findall(text)) or text


_DIGITS: Final = re.compile(r"\d+")


def less(who: Who) -> list[Who]:
    """The same customer without the id, the phone or both, as a report without a column shows."""
    customer, phone = who
    return [other for other in ((customer, ""), ("", phone), ("", "")) if other != who]


class Stranger(NamedTuple):
    """The other names under which the report may have shown a row under a placeholder, or may yet.

    The names are ids of the ledger. A row stays the same message when a column comes (a phone, or
    the id of a customer who becomes identified), and when a column goes. But another row in the
    same answer is another message, so its names are not among these.
    """

    known_by: frozenset[Id]
    """The ledger holds one of these ids if the row was published with more or fewer fields of its
    customer."""
    tells_more_than: frozenset[Id]
    """The ids to remember with the row. If the report later shows less of the customer, the row is
    recognised by one of them."""

    def is_known(self, ledger: Ledger, hour: str) -> bool:
        """Whether the ledger knows the row by another name."""
        return bool(ledger.published_ids(hour, self.known_by))


def strangers(rows: Iterable[tuple[bytes, Stranger]]) -> dict[bytes, Stranger]:
    """The rows under placeholders of an answer, by digest, all without the names of other rows."""
    by_digest = dict(rows)
    beside = {*map(id_of, by_digest)}.union(
        *[stranger.tells_more_than for stranger in by_digest.values()]
    )
    return {
        digest: stranger._replace(known_by=stranger.known_by - beside)
        for digest, stranger in by_digest.items()
    }

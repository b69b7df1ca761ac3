"""What makes a message that message, besides its date.

Rules of this file:
- Identity is a contract (docs/reference/events.md): consumers keep ids for ever.
- It depends on the row alone, never on when or by which pass it was read.
- What two reads of the same message show differently, as far as that is known, is left out or
  recognised: links that are signed anew, columns that come and go.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias
from unicodedata import decimal

from msgspec import UNSET

from publisher.state.ledger import Id, Ledger, id_of
from publisher.wolkvox.schema import Message, Number, canonical

_NEGATIVE: Final = re.compile(r"\s*[-\u2010-\u2015\u2212]\s*\d[\d.,]*\s*")


def conn_id_of(value: Any) -> str | None:
    """A conn_id as text; None where it identifies nothing."""
    if value is None or value is UNSET:
        return ""
    if type(value) is str:
        return value
    # A fraction may have lost digits before it was sent.
    return text_of(value) if type(value) is int or (type(value) is Number and value.whole) else None


def is_placeholder(conn_id: str) -> bool:
    """Whether several conversations may share a conn_id, because it stands for "none".

    It names a conversation when it holds a digit from 1 to 9, of whatever script, and is no
    negative number. So "", "0", "00", "-", "null", "N/A", "undefined", " ", "0.0", "-1" and the
    nil UUID name none.
    """
    if "1" <= conn_id[:1] <= "9":
        return False  # nearly all of them: numbers
    return _NEGATIVE.fullmatch(conn_id) is not None or not any(decimal(c, 0) for c in conn_id)


def text_of(value: Any) -> str:
    """A field as identity sees it: null, missing and "" are equal, 1 equals "1"."""
    if value is None or value is UNSET:
        return ""
    if isinstance(value, str):
        return clean(value)
    return canonical(value).decode()


def clean(text: str) -> str:
    """U+0000 separates the parts of a name, so inside a part it counts as U+FFFD."""
    return text.replace("\0", "\ufffd")


# --- links that are signed anew whenever they are read --------------------------------------------

SIGNATURES: Final = frozenset({
    "x-amz-signature", "x-goog-signature", "x-oss-signature", "q-signature", "signature",
    "sig", "sign", "token", "access_token", "hdnts", "hdnea", "md5", "verify", "oh",
})  # fmt: skip
"""Parameters that sign a URL; the last one is Facebook's."""
SIGNED_WITH: Final = SIGNATURES | {
    "expires", "expiry", "exp", "policy", "key-pair-id",
    "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "security-token",
    "se", "st", "sp", "sv", "sr", "spr", "sip", "ss", "srt", "sdd", "si", "ses",
    "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid",
    "oe", "ccb",
}  # fmt: skip
"""What may stand beside them and is made anew with them: S3, CloudFront, Google, Azure, others."""
SIGNED_WITH_PREFIXES: Final = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "q-", "_nc_")

_URL: Final = re.compile(r"(https?://[^\s?#\"'<>]*)\?([^\s#\"'<>]+)", re.IGNORECASE)
_AND: Final = re.compile("&amp;|&")


def may_be_signed(text: str) -> bool:
    """Whether a text may hold a signed URL; cheap, for nearly none does."""
    return "?" in text and "://" in text


def unsigned(text: str) -> str:
    """The text with its URLs as they were before they were signed."""
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


# --- who wrote, where the conn_id does not say ----------------------------------------------------

Who: TypeAlias = tuple[str, str]
"""A customer's id and phone, as far as the report tells them."""


def who_of(message: Message) -> Who:
    """Who a row under a placeholder is of."""
    return text_of(message.customer_id), _phone(text_of(message.customer_phone))


def _phone(text: str) -> str:
    """Its digits: how they are grouped may change. What holds none stays as it is."""
    return "".join(_DIGITS.findall(text)) or text


_DIGITS: Final = re.compile(r"\d+")


def less(who: Who) -> list[Who]:
    """The same customer, less of them told: how the report may show them without a column."""
    customer, phone = who
    return [other for other in ((customer, ""), ("", phone), ("", "")) if other != who]


class Stranger(NamedTuple):
    """As what else the report may have shown a row under a placeholder, or may show it yet.

    The ledger's ids. A column that comes (a phone, or a customer's id that is found out) makes
    no other message of a row, nor does one that goes. What the same answer shows beside the row
    is another message, though: its names are not among these.
    """

    known_by: frozenset[Id]
    """What the ledger remembers where the row was published with more or less told of its
    customer."""
    tells_more_than: frozenset[Id]
    """What to remember with the row: the names that rows which tell less are then known by."""

    def is_known(self, ledger: Ledger, hour: str) -> bool:
        """Whether the ledger knows the row by another name."""
        return bool(ledger.published_ids(hour, self.known_by))


def strangers(rows: Iterable[tuple[bytes, Stranger]]) -> dict[bytes, Stranger]:
    """All rows under placeholders of one answer, by digest, each with no name of another one."""
    by_digest = dict(rows)
    beside = {*map(id_of, by_digest)}.union(
        *[stranger.tells_more_than for stranger in by_digest.values()]
    )
    return {
        digest: stranger._replace(known_by=stranger.known_by - beside)
        for digest, stranger in by_digest.items()
    }

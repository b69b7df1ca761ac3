"""The table of the report's fields: of a conversation and of a message, a line per field.

A line says how the field is called, whether the id of a message is made of it, and whether it holds
personal data. All else derives from this table: how answers are decoded, what events carry, what a
revision is, what `verify` compares and what `preview` masks. `schemas/event.v1.schema.json` and
`docs/reference/events.md` are tested against it.

Rules of this file:
- An answer that holds exactly what the vendor documents is decoded directly into these
  types. This takes half the time and half the memory of plain JSON.
- Any other answer (a new field, a number in place of a text) is decoded as plain JSON and
  converted here. Both ways give equal objects.
- No answer can set a field that we add: in an answer it counts as an undocumented field.
- A number keeps its digits as they came: 1e3 is not 1000.0, and no float holds 20 digits.

Sources of the fields: the vendor's page of `chat_2`; `customer_phone` from that page in other
years.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias, get_type_hints

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType, field

Text: TypeAlias = str | UnsetType | None
"""A text as documented, or null, or left out. A converted object may hold any JSON value."""

if TYPE_CHECKING:
    Ours: TypeAlias = Any
else:
    Ours = Annotated[str, Meta(pattern="(?!)")] | UnsetType
    """A field that we add. No answer can set it, because no text matches the pattern."""


class Number:
    """A number that no 64-bit integer holds exactly. It keeps the digits as they came."""

    __slots__ = ("digits",)

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and other.digits == self.digits

    def __hash__(self) -> int:
        return hash(self.digits)

    def __repr__(self) -> str:
        return f"Number({self.digits})"

    @property
    def whole(self) -> bool:
        return self.digits.removeprefix("-").isdecimal()


class Trait(Enum):
    """What is special about a field."""

    IN_ID = auto()
    """The id of a message is made of it (docs/reference/events.md)."""
    IN_PLACEHOLDER_ID = auto()
    """The same, but only where several conversations share a conn_id."""
    PERSONAL = auto()
    """It holds what people wrote, or who they are."""


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """One row. Its fields have the order in which events carry them."""

    date: Annotated[Text, Trait.IN_ID] = UNSET
    occurred_at: Ours = UNSET
    occurred_at_ambiguous: Ours = UNSET
    channel: Annotated[Text, Trait.IN_PLACEHOLDER_ID] = UNSET
    from_: Annotated[Text, Trait.IN_ID] = field(default=UNSET, name="from")
    from_name: Annotated[Text, Trait.PERSONAL] = UNSET
    to_name: Annotated[Text, Trait.PERSONAL] = UNSET
    message: Annotated[Text, Trait.IN_ID, Trait.PERSONAL] = UNSET
    customer_id: Annotated[Text, Trait.IN_PLACEHOLDER_ID, Trait.PERSONAL] = UNSET
    customer_phone: Annotated[Text, Trait.IN_PLACEHOLDER_ID, Trait.PERSONAL] = UNSET
    feeling: Text = UNSET
    extra: Ours = UNSET
    """The undocumented fields, by name. They may hold personal data."""


class Chat(Struct, forbid_unknown_fields=True, gc=False):
    """One element of `data`: a conversation and its messages. Events carry the fields in order."""

    conversation: list[Message]
    """The messages. A converted chat holds the rows as plain JSON."""
    conn_id: Annotated[Text, Trait.IN_ID] = UNSET
    agent_name: Annotated[Text, Trait.PERSONAL] = UNSET
    customer_name: Annotated[Text, Trait.PERSONAL] = UNSET
    extra: Ours = UNSET
    """The undocumented fields, by name. They may hold personal data."""


class _Envelope(Struct, forbid_unknown_fields=True, gc=False):
    data: list[Chat]
    code: int | str | UnsetType | None = UNSET
    error: Text = UNSET
    msg: Text = UNSET


class Field(NamedTuple):
    """A line of the table."""

    name: str
    """As the API and events write it."""
    attribute: str
    """The attribute of `Message` or `Chat` that holds it."""
    traits: frozenset[Trait]


_NOT_IN_TABLE: Final = frozenset({"conversation", "occurred_at", "occurred_at_ambiguous", "extra"})


def _fields(shape: type[Struct]) -> Mapping[str, Field]:
    """Return the table of a type by the names of its fields, in their order."""
    hints = get_type_hints(shape, include_extras=True)
    return {
        info.encode_name: Field(
            info.encode_name, info.name, frozenset(getattr(hints[info.name], "__metadata__", ()))
        )
        for info in msgspec.structs.fields(shape)
        if info.name not in _NOT_IN_TABLE
    }


MESSAGE_FIELDS: Final = _fields(Message)
CHAT_FIELDS: Final = _fields(Chat)


def names_with(trait: Trait) -> tuple[str, ...]:
    """Return the names of all fields with a trait, those of a message first."""
    fields = [*MESSAGE_FIELDS.values(), *CHAT_FIELDS.values()]
    return tuple(line.name for line in fields if trait in line.traits)


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_PLAIN: Final = msgspec.json.Decoder(float_hook=Number)
_NO_INTEGER: Final = re.compile(rb"\d{19}|-0[^\d.eE]")
"""Matches where a whole number may lose its digits when it is read. A text may match, too."""


def _digits(number: Any) -> bytes:
    if isinstance(number, Number):
        return number.digits.encode()
    raise TypeError(type(number).__name__)


encode: Final = msgspec.json.Encoder(enc_hook=lambda value: msgspec.Raw(_digits(value))).encode
dumps: Final = partial(orjson.dumps, default=lambda value: orjson.Fragment(_digits(value)))
"""Encode what `loads` has read, with the same digits."""


def decode(body: bytes) -> dict[str, Any] | None:
    """Decode an answer that is as documented; its `data` is a list of `Chat`. Else None."""
    try:
        envelope = _ENVELOPE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    values = {name: getattr(envelope, name) for name in ("code", "error", "msg", "data")}
    return {name: value for name, value in values.items() if value is not UNSET}


def loads(body: bytes) -> Any:
    """Decode any JSON; numbers keep their digits. Raises ValueError where it is not strict JSON."""
    try:
        value = _PLAIN.decode(body)
        return _EXACT(body.decode()) if _NO_INTEGER.search(body) else value
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def number(digits: str) -> int | Number:
    """Read a whole number: an int where it is written with the same digits, else a Number."""
    if len(digits) <= 20 and -(1 << 63) <= (value := int(digits)) < 1 << 64 and digits != "-0":
        return value
    return Number(digits)


_EXACT: Final = json.JSONDecoder(parse_int=number, parse_float=Number).decode


def chat_of(element: Any) -> Chat | None:
    """Convert an element of `data` from plain JSON. None if it is no conversation."""
    if not isinstance(element, dict) or not isinstance(element.get("conversation"), list):
        return None
    chat = Chat(element["conversation"])
    fields = {name: value for name, value in element.items() if name != "conversation"}
    return chat if _fill(chat, CHAT_FIELDS, fields) else None


def message_of(row: Any) -> Message | None:
    """Convert a row from plain JSON. None if it is no message."""
    message = Message()
    return message if isinstance(row, dict) and _fill(message, MESSAGE_FIELDS, row) else None


def _fill(shape: Chat | Message, fields: Mapping[str, Field], row: dict[str, Any]) -> bool:
    """Set the fields of `shape` from a row, by `fields`; the others go into its `extra`.

    False where a value is nested too deep to be written into an event.
    """
    extra = {}
    for name, value in row.items():
        if type(value) in (dict, list) and not canonical({"extra": {"message": {name: value}}}):
            return False
        line = fields.get(name)
        if line is None:
            extra[name] = value
        else:
            setattr(shape, line.attribute, value)
    if extra:
        shape.extra = extra
    return True


def sent_fields(shape: Chat | Message) -> dict[str, Any]:
    """Return the fields that the API sent, documented or not, by name. Rows are left out."""
    fields = CHAT_FIELDS if isinstance(shape, Chat) else MESSAGE_FIELDS
    sent = {
        line.name: value
        for line in fields.values()
        if (value := getattr(shape, line.attribute)) is not UNSET
    }
    return sent if shape.extra is UNSET else sent | shape.extra


def canonical(value: Any) -> bytes:
    """Encode as JSON with sorted keys. Empty where the value is nested too deep to be written.

    orjson reads 1,024 levels and writes 254.
    """
    try:
        return dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""


@dataclass(frozen=True, slots=True)
class Counted:
    """How much an answer shows, and how many records it says that it found."""

    element_count: int
    row_count: int
    size_bytes: int
    claimed_count: int

    @property
    def excess(self) -> int:
        """How many records it claims beyond those it shows; 0 = none.

        The vendor does not say whether it counts rows or conversations.
        """
        if self.claimed_count <= self.element_count or self.claimed_count == self.row_count:
            return 0
        return self.claimed_count - (
            self.row_count if self.claimed_count > self.row_count else self.element_count
        )

    def clearly_less_than(self, other: "Counted") -> bool:
        """Whether it lies below `other` in everything that a report may limit.

        Then it reached no limit that `other` did not reach.
        """
        fewer_elements = self.element_count < other.element_count or self.element_count <= 1
        return (
            fewer_elements
            and self.row_count < other.row_count
            and self.size_bytes * 10 <= other.size_bytes * 9
        )

"""The report's data as types: conversations and messages, field by field.

Rules of this file:
- An answer that holds what the vendor documents and nothing else is decoded straight
  into these types: half the time and half the memory of plain JSON.
- Anything else (a new field, a number where a text belongs) is decoded as plain
  JSON and converted here. Both ways give equal objects.
- No answer can set a field of ours: it would be an unknown one.
- A number keeps its digits as they came: 1e3 is not 1000.0, and no float holds 20 digits.

Sources of the fields: the vendor's page of `chat_2`; `customer_phone` from other years' pages.
"""

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType, field

Text: TypeAlias = str | UnsetType | None
"""As documented, or null, or left out. What was converted may be any JSON value."""

if TYPE_CHECKING:
    Ours: TypeAlias = Any
else:
    Ours = Annotated[str, Meta(pattern="(?!)")] | UnsetType
    """Never in an answer: no text matches."""


class Number:
    """A number that no integer of 64 bits holds, by its digits as they came."""

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


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """One row, its fields in the order in which events carry them."""

    date: Text = UNSET
    occurred_at: Ours = UNSET
    occurred_at_ambiguous: Ours = UNSET
    channel: Text = UNSET
    from_: Text = field(default=UNSET, name="from")
    from_name: Text = UNSET
    to_name: Text = UNSET
    message: Text = UNSET
    customer_id: Text = UNSET
    customer_phone: Text = UNSET
    feeling: Text = UNSET
    extra: Ours = UNSET
    """The fields that nobody documented, by name."""


class Chat(Struct, forbid_unknown_fields=True, gc=False):
    """One element of `data`: a conversation and its messages."""

    conversation: list[Message]
    """What was converted holds the rows as they came."""
    conn_id: Text = UNSET
    agent_name: Text = UNSET
    customer_name: Text = UNSET
    extra: Ours = UNSET
    """The fields that nobody documented, by name."""


class _Envelope(Struct, forbid_unknown_fields=True, gc=False):
    data: list[Chat]
    code: int | str | UnsetType | None = UNSET
    error: Text = UNSET
    msg: Text = UNSET


_OURS: Final = frozenset({"occurred_at", "occurred_at_ambiguous", "extra"})


def _fields(shape: type[Struct]) -> dict[str, str]:
    """The API's name of each field, and the attribute that holds it."""
    return {
        info.encode_name: info.name
        for info in msgspec.structs.fields(shape)
        if info.name not in _OURS
    }


MESSAGE_FIELDS: Final = _fields(Message)
CHAT_FIELDS: Final = _fields(Chat)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_PLAIN: Final = msgspec.json.Decoder(float_hook=Number)
_NO_INTEGER: Final = re.compile(rb"\d{19}|-0[^\d.eE]")
"""Where there may be a whole number that is read otherwise than it is written; or a text."""


def _digits(number: Any) -> bytes:
    if isinstance(number, Number):
        return number.digits.encode()
    raise TypeError(type(number).__name__)


encode: Final = msgspec.json.Encoder(enc_hook=lambda value: msgspec.Raw(_digits(value))).encode
dumps: Final = partial(orjson.dumps, default=lambda value: orjson.Fragment(_digits(value)))
"""Of what `loads` has read: the same digits."""


def decode(body: bytes) -> dict[str, Any] | None:
    """The envelope of an answer that is as documented, its `data` a list of `Chat`; else None."""
    try:
        envelope = _ENVELOPE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    named = {name: getattr(envelope, name) for name in ("code", "error", "msg", "data")}
    return {name: value for name, value in named.items() if value is not UNSET}


def loads(body: bytes) -> Any:
    """Any JSON, its numbers as they came. Raises ValueError where a strict decoder refuses it."""
    try:
        value = _PLAIN.decode(body)
        return _EXACT(body.decode()) if _NO_INTEGER.search(body) else value
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def number(digits: str) -> int | Number:
    """A whole number: an integer where that is written as the digits came."""
    if len(digits) <= 20 and -(1 << 63) <= (value := int(digits)) < 1 << 64 and digits != "-0":
        return value
    return Number(digits)


_EXACT: Final = json.JSONDecoder(parse_int=number, parse_float=Number).decode


def chat_of(element: Any) -> Chat | None:
    """The conversation in an element of `data` that was decoded as plain JSON, if it is one."""
    if not isinstance(element, dict) or not isinstance(element.get("conversation"), list):
        return None
    chat = Chat(element["conversation"])
    return chat if _fill(chat, CHAT_FIELDS, element) else None


def message_of(row: Any) -> Message | None:
    """The message in a row that was decoded as plain JSON, if it is one."""
    message = Message()
    return message if isinstance(row, dict) and _fill(message, MESSAGE_FIELDS, row) else None


def _fill(shape: Chat | Message, fields: dict[str, str], row: dict[str, Any]) -> bool:
    """Set what was told; False where that is nested too deep to be written into an event."""
    extra = {}
    for name, value in row.items():
        if name == "conversation":
            continue
        if type(value) in (dict, list) and not canonical({"extra": {"message": {name: value}}}):
            return False
        attribute = fields.get(name)
        if attribute is None:
            extra[name] = value
        else:
            setattr(shape, attribute, value)
    if extra:
        shape.extra = extra
    return True


def told_by(message: Message) -> dict[str, Any]:
    """The fields of a message as the API named them, without those it left out."""
    sent = {name: getattr(message, attribute) for name, attribute in MESSAGE_FIELDS.items()}
    sent = {name: value for name, value in sent.items() if value is not UNSET}
    return sent if message.extra is UNSET else sent | message.extra


def canonical(value: Any) -> bytes:
    """JSON with sorted keys; nothing for what is nested too deep to be written again.

    orjson reads 1,024 levels and writes 254.
    """
    try:
        return dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""


@dataclass(frozen=True, slots=True)
class Counted:
    """What an answer shows, and how much it says that it found."""

    elements: int
    rows: int
    size: int
    """Bytes."""
    said: int

    @property
    def excess(self) -> int:
        """By how much it says more than it shows; nobody knows whether it counts rows."""
        if self.said <= self.elements or self.said == self.rows:
            return 0
        return self.said - (self.rows if self.said > self.rows else self.elements)

    def clearly_less_than(self, other: "Counted") -> bool:
        """It reached no limit that the other one did not reach, of whatever a report limits."""
        elements = self.elements < other.elements or self.elements <= 1
        return elements and self.rows < other.rows and self.size * 10 <= other.size * 9

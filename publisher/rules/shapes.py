"""The report's data as types: conversations and messages, field by field. Pure.

Rules of this file:
- An answer that holds what the vendor documents and nothing else is decoded straight
  into these types: half the time and half the memory of plain JSON.
- Anything else (a new field, a number where a text belongs) is decoded as plain
  JSON and converted here. Both ways give equal objects.
- No answer can set a field of ours: it would be an unknown one.

Sources of the fields: the vendor's page of `chat_2`; `customer_phone` from other years' pages.
"""

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
encode: Final = msgspec.json.Encoder().encode


def decode(body: bytes) -> dict[str, Any] | None:
    """The envelope of an answer that is as documented, its `data` a list of `Chat`; else None."""
    try:
        told = _ENVELOPE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    named = {name: getattr(told, name) for name in ("code", "error", "msg", "data")}
    return {name: value for name, value in named.items() if value is not UNSET}


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


def _fill(shape: Chat | Message, fields: dict[str, str], told: dict[str, Any]) -> bool:
    """Set what was told; False where that is nested too deep to be written into an event."""
    extra = {}
    for name, value in told.items():
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
    told = {name: getattr(message, attribute) for name, attribute in MESSAGE_FIELDS.items()}
    told = {name: value for name, value in told.items() if value is not UNSET}
    return told if message.extra is UNSET else told | message.extra


def canonical(value: Any) -> bytes:
    """JSON with sorted keys; nothing for what is nested too deep to be written again.

    orjson reads 1,024 levels and writes 254.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""

"""What people write to each other in the simulated chats: pools built once, picked from by index.

Pools instead of fresh texts, because a million messages must be cheap to make and to hold.
"""

import base64
from itertools import product
from random import Random

CHANNELS = ("whatsapp", "facebook", "instagram", "web", "telegram", "WhatsApp")
"""An open set whose case varies (wolkvox-api.md, section 3)."""

PLACEHOLDERS: tuple[str | None, ...] = ("0", "-", "", None)
"""conn_ids that mean "none" and may be shared by several conversations."""

FEELINGS = ("very negative", "negative", "neutral", "positive", "very positive")

BOT = "chat_bot"

_FIRST = (
    *("Ana María", "José", "Lucía", "Andrés", "Sofía", "Iñaki", "Zoë", "Óscar", "Núria", "Camilo"),
    *("Valentina", "Julián", "Ximena", "Sebastián", "María José", "Álvaro", "Begoña", "Darío"),
)
_LAST = (
    *("Pérez", "Muñoz", "García", "O'Connor", "Ibáñez", "Quiñones", "Restrepo", "D'Angelo"),
    *("Güell", "Rodríguez Sáenz", "Londoño", "Ávila"),
)

CUSTOMERS = tuple(f"{first} {last}" for first, last in product(_FIRST, _LAST))
AGENTS = tuple(f"{first} {last}".upper() for first, last in zip(_FIRST, _LAST * 2, strict=False))

_OPENINGS = (
    *("Hola", "Buenos días", "¡Buenas tardes!", "Hola 👋", "Disculpe", "Oiga", "Señorita, ", "Sí,"),
    *(
        "Muchas gracias 🙏",
        "Perfecto 👍🏽",
        "No entiendo 😡",
        "Ok",
        "¿Me puede ayudar?",
        "Listo ✅",
    ),
)
_BODIES = (
    "mi pedido no ha llegado y ya pasaron tres días",
    'me dijeron "en 24 horas" y nada',
    "¿cuánto cuesta el envío a Medellín?",
    "necesito la factura electrónica de noviembre",
    "el código que me enviaron no sirve 😕",
    "quiero cancelar la suscripción, por favor",
    "ya hice el pago por PSE; adjunto el comprobante\nQuedo atento\n\n¡Gracias!",
    "¿a qué hora abren mañana? \\o/",
    "la niña está enferma, necesito una cita con pediatría 👩🏽‍⚕️",
    "mi número de cédula es 1.020.304.050",
    "<b>URGENTE</b>: no tengo servicio desde ayer &amp; nadie responde",
    "el técnico llegó tarde\ty se fue",
    "¡excelente atención! 💯🎉",
)
PLAIN = (
    *(f"{opening} {body}" for opening, body in product(_OPENINGS, _BODIES)),
    *("Hola", "hola", "Ok", "Gracias", "👍", "Sí", "No", "?", "   ", "¡Listo!"),
)

NUMBERED = (
    "Su número de radicado es {n}. ¿Algo más en lo que le pueda ayudar?",
    "Pedido #{n}: sigue «en camino» 🚚",
    '<a href="https://archivos.ejemplo.com/chat/{n}.pdf" target="_blank">factura_{n}.pdf</a>',
    "https://archivos.ejemplo.com/whatsapp/imagen_{n}.jpeg",
    "https://archivos.ejemplo.com/whatsapp/audio%20{n}.ogg?firma=a%2Bb&v=1",
    '<img src="https://archivos.ejemplo.com/i/{n}.png" alt="foto de la \\"guía\\" {n}">',
    'Le cuento: el caso {n} quedó "abierto" - {{"estado": null}}',
)

LONG = tuple(
    "\n".join(f"{line}. {PLAIN[(line * 7 + size) % len(PLAIN)]}" for line in range(size))
    for size in (30, 80, 300)
)
"""From about two to about twenty kB of text."""


def _inline_image(size: int) -> str:
    """Return a data URL around `size` bytes that do not compress, as photos do not."""
    return "data:image/jpeg;base64," + base64.b64encode(Random(size).randbytes(size)).decode()


INLINE_MEDIA = tuple(_inline_image(size) for size in (90_000, 180_000, 300_000))
"""Whole pictures inside `message`, seen on the real API until 2025 (wolkvox-api.md, 1.6)."""

"""Prepared answers of the report, the same in every run."""

import random
from datetime import datetime, timedelta
from typing import Any

import orjson

WORDS = [
    "hola",
    "gracias",
    "factura",
    "pago",
    "ayuda",
    "pedido",
    "número",
    "mañana",
    "línea",
    "señor",
    "quiero",
    "saber",
]


def windows(count: int, rows: int) -> list[bytes]:
    """Answers of `rows` messages in conversations of eight; a fifth repeats the one before."""
    rng = random.Random(7)
    begin = datetime(2026, 11, 20, 8)  # noqa: DTZ001 - the report's local time
    answers: list[bytes] = []
    before: list[dict[str, Any]] = []
    for window in range(count):
        fresh = [
            _conversation(rng, window * rows + chat, begin + timedelta(minutes=5 * window))
            for chat in range((rows if not before else rows * 4 // 5) // 8)
        ]
        data = before + fresh
        rng.shuffle(data)
        answers.append(orjson.dumps({"code": 200, "error": None, "msg": "", "data": data}))
        before = fresh[: rows // 5 // 8]
    return answers


def _conversation(rng: random.Random, number: int, begin: datetime) -> dict[str, Any]:
    dates = sorted(begin + timedelta(seconds=rng.randrange(300)) for _ in range(8))
    return {
        "conn_id": str(180_000_000 + number),
        "agent_name": "Agente Uno",
        "customer_name": "Cliente Dos",
        "conversation": [
            {
                "channel": "whatsapp",
                "from": "AGENT" if turn % 2 else "CUSTOMER",
                "from_name": "Cliente Dos",
                "to_name": "chat_bot",
                "date": f"{date:%Y-%m-%d %H:%M:%S}",
                "message": " ".join(rng.choices(WORDS, k=10)),
                "customer_id": "1020304050",
                "customer_phone": "573001112233",
                "feeling": "neutral",
            }
            for turn, date in enumerate(dates)
        ],
    }

"""Values of options, read as the settings read theirs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click


class Duration(click.ParamType[timedelta]):
    """As settings write them: `90s`, `5m`, `1h`, `3d`."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> timedelta:
        """Refuse what the settings would refuse."""
        from publisher.settings import duration  # noqa: PLC0415

        try:
            found = duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found <= timedelta():
            self.fail("must be greater than zero", param, ctx)
        return found


class Moment(click.ParamType[str]):
    """As `PUBLISHER_START` is written: an ISO instant with its offset, `-24h`, or `now`."""

    name = "instant"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Refuse what the settings would refuse; what is relative is resolved later."""
        from publisher.settings import start_instant  # noqa: PLC0415

        try:
            start_instant(value, datetime.now(UTC))
        except (ValueError, OverflowError):
            text = "is not a date with offset: write 2026-11-20T10:00:00-05:00, or -24h"
            self.fail(f"{value!r} {text}", param, ctx)
        return str(value)

"""Values of options, read as the settings read theirs."""

from datetime import timedelta
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
            self.fail("must be longer than nothing", param, ctx)
        return found

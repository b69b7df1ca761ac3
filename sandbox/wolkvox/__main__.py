"""`python -m sandbox.wolkvox`: the simulated API as a process of its own.

One line on standard output says that it is ready, and where.
"""

import asyncio
import dataclasses
import gc
import re
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click

from sandbox.wolkvox import DEFAULT_TOKEN, Simulator, World


class Duration(click.ParamType[float]):
    """`90`, `30s`, `5m`, `1h`, `3d`: seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, int | float):
            return float(value)
        told = re.fullmatch(r"(-?[0-9.]+)([smhd]?)", value)
        if told is None:
            self.fail(f"{value!r} is no duration such as 30s, 5m, 1h, 3d", param, ctx)
        return float(told[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[told[2]]


class Instant(click.ParamType[datetime]):
    """ISO 8601 with an offset."""

    name = "instant"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO 8601 instant", param, ctx)
        if when.tzinfo is None:
            self.fail(f"{value!r} has no offset", param, ctx)
        return when


def world_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every described parameter of the world."""
    hints = get_type_hints(World, include_extras=True)
    for parameter in reversed(dataclasses.fields(World)):
        if get_origin(hints[parameter.name]) is not Annotated:
            continue
        type_, *_, about = get_args(hints[parameter.name])
        unit = hints[parameter.name].__metadata__[:-1]
        name, switch = parameter.name.replace("_", "-"), type_ is bool
        kind: Any = type_
        if get_origin(type_) is Literal:
            kind = click.Choice(get_args(type_))
        elif unit == ("s",):
            kind = Duration()
        elif parameter.default is None:
            kind = Instant()
        command = click.option(
            f"--{name}/--no-{name}" if switch else f"--{name}",
            parameter.name,
            type=kind,
            default=parameter.default,
            show_default=parameter.default is not None,
            help=about,
        )(command)
    return command


@click.command(help="Serve a simulated Wolkvox reports API until told to end.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8089, show_default=True, help="0 takes a free one")
@click.option("--token", default=DEFAULT_TOKEN, show_default=True)
@world_options
def main(host: str, port: int, token: str, **parameters: Any) -> None:
    # A hundred thousand cached rows, none in a cycle: looking for cycles took half of the time.
    gc.set_threshold(100_000, 50, 1000)
    simulator = Simulator(World(**parameters), host=host, port=port, token=token)
    try:
        asyncio.run(_serve(simulator))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None


async def _serve(simulator: Simulator) -> None:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with simulator:
        ready = f"Simulated Wolkvox API ready at {simulator.url} (token {simulator.token})"
        print(ready, flush=True)
        await over.wait()


if __name__ == "__main__":
    main()

"""Reads a range of the report with the service's own flow, whatever log stands behind it."""

import asyncio
from collections.abc import Callable
from typing import Final

from publisher import flow
from publisher.errors import Reason, StepError, TooLarge
from publisher.job import Job, Memory
from publisher.model import Window
from publisher.rules.schedule import NARROWEST, Pass, Read, short_of_jump
from publisher.rules.state import State

BUSY_PAUSES: Final = (2.0, 5.0, 10.0)
"""Seconds between two requests while somebody else, such as the service, uses the token."""


async def walk(
    job: Job,
    memory: Memory,
    known: State,
    pass_: Pass,
    range_: Window,
    about_to_ask: Callable[[Window], None] = lambda _: None,
) -> None:
    """Publish window after window of the range. What makes that impossible is raised."""
    position = range_.start
    pauses = [*BUSY_PAUSES]
    while position < range_.end:
        window = Window(position, min(position + memory.pace.width, range_.end))
        step = short_of_jump(Read(pass_, window, ends_round=False), job.zone)
        about_to_ask(step.window)
        try:
            await flow.publish(job, memory, known, step)
        except TooLarge:
            if step.window.width <= NARROWEST:
                raise
            memory.pace.narrow(step.window)
        except StepError as error:
            if error.reason is Reason.TOKEN_BUSY and pauses:
                await asyncio.sleep(pauses.pop(0))
            elif memory.puzzled != 1:  # a damaged answer is asked for again, once
                raise
        else:
            position, pauses = step.window.end, [*BUSY_PAUSES]

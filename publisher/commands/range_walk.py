"""Reads the report with the service's own flow, whatever log stands behind it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from publisher import flow
from publisher.errors import Reason, StepError, TooLarge
from publisher.job import Job, Memory
from publisher.model import Window
from publisher.rules.schedule import NARROWEST, Pass, Read, short_of_jump
from publisher.rules.state import State

BUSY_PAUSES: Final = (2.0, 5.0, 10.0)
"""Seconds between two requests while somebody else, such as the service, uses the token."""


@dataclass(slots=True)
class Walker:
    """Publishes window after window; what makes that impossible is raised."""

    job: Job
    memory: Memory
    known: State
    pauses: list[float] = field(default_factory=lambda: [*BUSY_PAUSES])

    async def published(self, step: Read) -> bool:
        """Whether the window was published; if not, it must be tried again, perhaps narrower."""
        try:
            await flow.publish(self.job, self.memory, self.known, step)
        except TooLarge:
            if step.window.width <= NARROWEST:
                raise
            self.memory.pace.narrow(step.window)
            return False
        except StepError as error:
            if error.reason is Reason.TOKEN_BUSY and self.pauses:
                await asyncio.sleep(self.pauses.pop(0))
            elif self.memory.puzzled != 1:  # a damaged answer is asked for again, once
                raise
            return False
        self.pauses = [*BUSY_PAUSES]
        return True


async def walk(
    walker: Walker,
    pass_: Pass,
    range_: Window,
    about_to_ask: Callable[[Window], None] = lambda _: None,
) -> None:
    """Publish all windows of the range."""
    position = range_.start
    while position < range_.end:
        end = min(position + walker.memory.pace.width, range_.end)
        step = short_of_jump(Read(pass_, Window(position, end), ends_round=False), walker.job.zone)
        about_to_ask(step.window)
        if await walker.published(step):
            position = step.window.end

"""Reads the report with the service's own flow, whatever log stands behind it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from publisher import pipeline
from publisher.context import LoopState, OperationContext
from publisher.errors import Reason, StepError, TooLarge
from publisher.model import Window
from publisher.schedule.passes import NARROWEST, Pass, Read, askable
from publisher.state.state import State

BUSY_PAUSES: Final = (2.0, 5.0, 10.0)
"""Seconds between two requests while somebody else, such as the service, uses the token, or
while our clock is ahead of the server's."""


Publish: TypeAlias = Callable[[OperationContext, LoopState, State, Read], Awaitable[Read | None]]


@dataclass(slots=True)
class Walker:
    """Publishes window after window; what makes that impossible is raised."""

    context: OperationContext
    loop_state: LoopState
    known: State
    publish: Publish = pipeline.publish
    pauses: list[float] = field(default_factory=lambda: [*BUSY_PAUSES])

    async def published(self, step: Read) -> Read | None:
        """What of the step was published; None = it must be tried again, perhaps narrower."""
        try:
            done = await self.publish(self.context, self.loop_state, self.known, step)
        except TooLarge:
            if step.window.width <= NARROWEST:
                raise
            self.loop_state.pace.narrow(step.window)
            return None
        except StepError as error:
            if error.reason in (Reason.TOKEN_BUSY, Reason.CLOCK_AHEAD) and self.pauses:
                await asyncio.sleep(self.pauses.pop(0))
            else:
                raise
            return None
        self.pauses = [*BUSY_PAUSES]
        return done


async def walk(
    walker: Walker,
    pass_: Pass,
    range_: Window,
    about_to_ask: Callable[[Window], None] = lambda _: None,
) -> None:
    """Publish all windows of the range."""
    position = range_.start
    while position < range_.end:
        end = min(position + walker.loop_state.pace.width, range_.end)
        step = Read(pass_, Window(position, end), ends_round=False)
        about_to_ask(askable(step, walker.context.zone, walker.loop_state.longest).window)
        if done := await walker.published(step):
            position = done.window.end

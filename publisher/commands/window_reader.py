"""Reads the report window by window with the service's own flow, for commands.

The log behind the flow is the command's choice: a command need not publish to Kafka.
"""

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
"""Seconds between two requests while another process, such as the service, uses the token, or
while our clock is ahead of the server's."""


Publish: TypeAlias = Callable[[OperationContext, LoopState, State, Read], Awaitable[Read | None]]


@dataclass(slots=True)
class Walker:
    """Publishes window after window; raises the error that makes this impossible."""

    context: OperationContext
    loop_state: LoopState
    state: State
    publish: Publish = pipeline.publish
    pauses: list[float] = field(default_factory=lambda: [*BUSY_PAUSES])

    async def published(self, step: Read) -> Read | None:
        """The part of the step that was published; None = try again, perhaps a narrower window."""
        try:
            done = await self.publish(self.context, self.loop_state, self.state, step)
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
    """Publish all windows of the range, as reads of the pass `pass_`.

    `about_to_ask` gets each window before the request.
    """
    position = range_.start
    while position < range_.end:
        end = min(position + walker.loop_state.pace.width, range_.end)
        step = Read(pass_, Window(position, end), ends_round=False)
        about_to_ask(askable(step, walker.context.zone, walker.loop_state.longest).window)
        if done := await walker.published(step):
            position = done.window.end

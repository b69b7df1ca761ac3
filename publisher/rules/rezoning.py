"""A corrected time zone: what was asked for under the wrong one is asked for again. Pure.

Under a wrong zone every window asked for another stretch of time than it says, as far
off as the two zones are apart. Which messages are published already is known by their
`date` text, which no zone changes: they keep their ids, and none comes twice.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from publisher.model import Window
from publisher.rules.gaps import added
from publisher.rules.records import Checkpoint, encode_checkpoint
from publisher.rules.state import Successor

MARGIN: Final = timedelta(days=3)
"""Left out at the far end of the horizon. Zones are up to 26 h apart, so what is read
there may have been published by windows a day older, which must still be remembered
when repair comes by; it begins there, for the oldest of equally wide pieces is first."""


def rezoned(checkpoint: Checkpoint, zone: str, horizon: timedelta) -> Successor:
    """The state under its new zone, with what must be read again among the gaps.

    That is all that was read within the horizon, up to the live cursor; live goes on from there.
    """
    live = checkpoint.live.cursor
    start = max(checkpoint.start, live - max(horizon - MARGIN, horizon / 2))
    gaps = added(checkpoint.gaps, Window(start, live)) if start < live else checkpoint.gaps
    corrected = replace(
        checkpoint, sequence=checkpoint.sequence + 1, timezone=zone, gaps=tuple(gaps)
    )
    return Successor(corrected, None, {}, (), [encode_checkpoint(corrected)])

"""A corrected time zone: what was asked for under the wrong one is asked for again.

Under a wrong zone every window asked for another stretch of time than it says, as far
off as the two zones are apart. Which messages are published already is known by their
`date` text, which no zone changes: they keep their ids, and none comes twice.
"""

from dataclasses import replace

from publisher.model import Progress, Window
from publisher.schedule.second_reading import remembered
from publisher.state.checkpoint import Checkpoint, encode_checkpoint
from publisher.state.gaps import FAR, added, clear_of
from publisher.state.state import Successor


def rezoned(checkpoint: Checkpoint, zone: str) -> Successor:
    """The state under its new zone, with what must be read again among the gaps.

    That is all that was read up to the live cursor, but for time near which the state has
    forgotten what was published: up to 26 h away, as far apart as zones are. No re-read goes
    there either; live goes on from its cursor.
    """
    live, gaps = checkpoint.live.cursor, checkpoint.gaps
    if checkpoint.start < live:
        for window in clear_of(checkpoint.forgotten, [Window(checkpoint.start, live)], FAR):
            gaps = added(gaps, window)
    since = min(live, checkpoint.forgotten[-1].end + FAR) if checkpoint.forgotten else None
    passes = {
        name: Progress(max(done.cursor, since), max(done.covered_until, since)) if since else done
        for name, done in checkpoint.passes.items()
    }
    corrected = replace(
        checkpoint, sequence=checkpoint.sequence + 1, timezone=zone, passes=passes, gaps=gaps,
        unconfirmed=remembered(checkpoint.unconfirmed, checkpoint.forgotten, FAR),
    )  # fmt: skip
    return Successor(corrected, None, {}, (), [encode_checkpoint(corrected)])

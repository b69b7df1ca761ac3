"""Corrects the time zone of an operation: what was read under the wrong zone is read again.

Under a wrong zone every request covered other time than its window says, shifted by the
difference between the two zones. Published messages are recognised by their `date` text,
which does not depend on the zone. So they keep their ids, and none is published twice.
"""

from dataclasses import replace

from publisher.model import Progress, Window
from publisher.schedule.second_reading import remembered
from publisher.state.checkpoint import Checkpoint, encode_checkpoint
from publisher.state.gaps import FAR, added, clear_of
from publisher.state.state import Successor


def rezoned(checkpoint: Checkpoint, zone: str) -> Successor:
    """Return the state under its new zone. Its gaps hold everything that must be read again.

    This is all time up to the live cursor, except forgotten time (where the state no longer
    knows what was published) and the time up to `FAR` around it: 26 h, as far apart as two
    zones can be, and a margin. No re-read goes there either. Live goes on from its cursor.
    """
    live, gaps = checkpoint.live.cursor, checkpoint.gaps
    if checkpoint.start < live:
        for window in clear_of(checkpoint.forgotten, [Window(checkpoint.start, live)], FAR):
            gaps = added(gaps, window)
    clear_from = min(live, checkpoint.forgotten[-1].end + FAR) if checkpoint.forgotten else None
    passes = {
        name: (
            Progress(max(done.cursor, clear_from), max(done.covered_until, clear_from))
            if clear_from
            else done
        )
        for name, done in checkpoint.passes.items()
    }
    corrected = replace(
        checkpoint, sequence=checkpoint.sequence + 1, timezone=zone, passes=passes, gaps=gaps,
        unconfirmed=remembered(checkpoint.unconfirmed, checkpoint.forgotten, FAR),
    )  # fmt: skip
    return Successor(corrected, None, {}, (), [encode_checkpoint(corrected)])

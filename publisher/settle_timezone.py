"""Take over another time zone, once a person has named the one that it replaces."""

from publisher.commit import commit_state
from publisher.context import Job
from publisher.schedule.timezone_change import rezoned
from publisher.signals import ZoneChanged
from publisher.state.restored import refuse_unconfirmed_zone
from publisher.state.state import State


async def settle_zone(job: Job, known: State) -> None:
    """Nothing where the zone is as before. Raises Held for a change that nobody has confirmed."""
    before, zone = known.checkpoint.timezone, job.zone.name
    if before == zone:
        return
    refuse_unconfirmed_zone(job.operation, before, zone, job.zone_replaces)
    await commit_state(job, known, rezoned(known.checkpoint, zone))
    job.emit(ZoneChanged(job.operation, before, zone, known.checkpoint.gaps))

"""Take over another time zone, once a person has named the one that it replaces."""

from publisher.committing import commit_state
from publisher.job import Job
from publisher.rules.restored import refuse_unconfirmed_zone
from publisher.rules.rezoning import rezoned
from publisher.rules.state import State
from publisher.signals import ZoneChanged


async def settle_zone(job: Job, known: State) -> None:
    """Nothing where the zone is as before. Raises Held for a change that nobody has confirmed."""
    before, zone = known.checkpoint.timezone, job.zone.name
    if before == zone:
        return
    refuse_unconfirmed_zone(job.operation, before, zone, job.zone_replaces)
    await commit_state(job, known, rezoned(known.checkpoint, zone))
    job.emit(ZoneChanged(job.operation, before, zone, known.checkpoint.gaps))

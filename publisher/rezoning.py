"""Take over another time zone, once a person has named the one that it replaces."""

from publisher.committing import commit_state
from publisher.errors import Held, Reason, Stage
from publisher.job import Job
from publisher.rules.rezoning import rezoned
from publisher.rules.state import State
from publisher.signals import ZoneChanged


async def settle_zone(job: Job, known: State) -> None:
    """Nothing where the zone is as before. Raises Held for a change that nobody has confirmed."""
    before, zone = known.checkpoint.timezone, job.zone.name
    if before == zone:
        return
    if before != job.zone_replaces:
        raise Held(
            Stage.RESTORE,
            Reason.ZONE_CHANGED,
            f"the time zone is {zone}, but operation {job.operation} was read in {before}"
            f" so far: set it back to {before}; or, if {before} was wrong, confirm the change with"
            f" WOLKVOX_TIMEZONE_REPLACES={before} (timezone_replaces in [[operations]]), and what"
            " was read within the horizon is read again",
        )
    await commit_state(job, known, rezoned(known.checkpoint, zone, job.settings.horizon))
    job.emit(ZoneChanged(job.operation, before, zone, known.checkpoint.gaps))

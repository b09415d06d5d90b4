"""The queue of a study: its runs that are left, shared by all processes that see its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from tintype.files.lease import Lease, Leases
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder

FOLDER = ".leases"
# Processes that may end over one run, none of them further than the one before; then it has failed.
MOST_DEATHS = 3


class Queue:
    """The runs of a study that are left, or `only` one of them, as this process sees them.

    Attributes:
        left: the runs that are neither finished nor failed, in order.
        held: what the holders of runs say of them, by name.
        deserted: the runs whose holder died over them and that nobody has taken over yet, by name.
    """

    def __init__(self, study: StudyFolder, only: str | None = None) -> None:
        self.study = study
        self.leases = Leases(study.path / FOLDER)
        self.left = [run for run in study.waiting() if only is None or run.name == only]
        self.held: Mapping[str, Mapping[str, Any]] = {}
        self.deserted: Set[str] = set()

    def look(self) -> Sequence[PlannedRun]:
        """Look what the other processes have done, and return the runs that are over since."""
        # In this order, since a holder notes what became of its run before it releases it.
        self.held, self.deserted = self.leases.look()
        self.study.read_record()
        over = [run for run in self.left if run.name not in self.held and self._is_over(run)]
        self.left = [run for run in self.left if run not in over]
        return over

    def take(self) -> tuple[PlannedRun, Lease] | None:
        """Take the first run that nobody holds; None where there is none."""
        for run in self.left:
            if run.name in self.held:
                continue
            lease = self.leases.take(run.name)
            if lease is None:
                continue
            if not self._is_over_after(run, lease):
                return run, lease
            lease.release()
        return None

    def _is_over_after(self, run: PlannedRun, lease: Lease) -> bool:
        """Return whether a run is over, among others since too many processes ended over it."""
        self.study.read_record()
        if self._is_over(run):
            return True

        step = int(self.study.run(run).status.get("step") or 0)
        deaths = 0
        if lease.before and step <= int(lease.before.get("began_at") or 0):
            deaths = int(lease.before.get("deaths") or 0) + 1
        if deaths >= MOST_DEATHS:
            why = (
                f"{deaths} processes ended over it, none further than the one before; "
                "the memory may be too small for so many at once"
            )
            self.study.note(run, "failed", message=why)
            return True
        lease.tell(began_at=step, deaths=deaths)
        return False

    def _is_over(self, run: PlannedRun) -> bool:
        failed = self.study.record.get(run.name, {}).get("state") == "failed"
        return failed or self.study.is_done(run)

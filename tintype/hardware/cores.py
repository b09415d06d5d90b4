"""How many cores this process may use, and how much of them other processes take.

Nothing heavy is imported, so that it can be asked before torch is loaded.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# A shorter look counts too few of the system's clock ticks, and a longer one is of the past.
SHORTEST_LOOK = 0.2
LONGEST_LOOK = 10.0

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def allowed_cores() -> int:
    """Return how many cores this process may run on."""
    return len(_allowed())


def num_cores() -> int:
    """Return how many cores' worth of time this process may use: a container may have fewer than
    it may run on.
    """
    return max(1, min(allowed_cores(), round(quota() or allowed_cores())))


def quota(groups: Path = GROUPS, own: Path = OWN_GROUP) -> float | None:
    """Return how many cores' time the control groups of this process have, None without a limit.

    Args:
        groups: the tree of all groups; a container sees its own group as the root.
        own: the file that names the group of this process.
    """
    limits = [_limit(folder) for folder in _folders(groups, own)]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(groups: Path, own: Path) -> list[Path]:
    """Return where limits of this process may be stated, in both versions of control groups."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct"):
            continue
        root = groups / controllers
        inner = root / path.lstrip("/")
        folders += [root, *(each for each in (inner, *inner.parents) if root in each.parents)]
    return folders


def _limit(folder: Path) -> float | None:
    """Return how many cores' time one group has, None where it says nothing."""
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    # "max", and -1 in the first version, are no limit
    return int(limit) / int(period) if limit.isdigit() else None


def _allowed() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Moment:
    """How long cores had computed at some time.

    Attributes:
        seconds: on the clock.
        computed: by all processes, on the cores that this one may run on.
        own: by this process.
    """

    seconds: float
    computed: float
    own: float

    @classmethod
    def now(cls) -> Moment:
        """Return what the system has counted until now."""
        cores = psutil.cpu_times(percpu=True)
        allowed = [cores[number] for number in _allowed() if number < len(cores)]
        # Linux counts processes of low priority apart: they make way for others.
        computed = sum(core.user + core.system for core in allowed)
        return cls(time.perf_counter(), computed, time.process_time())


class Load:
    """What other processes compute on the cores that this one may run on."""

    def __init__(self) -> None:
        self.since = Moment.now()

    def others(self) -> float:
        """Return how many cores others have kept busy since the last look."""
        waited = time.perf_counter() - self.since.seconds
        if waited > LONGEST_LOOK:
            self.since = Moment.now()
            waited = 0.0
        time.sleep(max(0.0, SHORTEST_LOOK - waited))

        before, now = self.since, Moment.now()
        self.since = now
        busy = (now.computed - before.computed) - (now.own - before.own)
        return max(0.0, busy / (now.seconds - before.seconds))


# Looked at when this module is imported, which is before torch, whose import takes longer than the
# shortest look: so what others compute is known without waiting.
LOAD = Load()

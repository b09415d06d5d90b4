"""Leases: who works on which job, among all processes and machines that see one folder.

A lease is a file NAME.NUMBER, and the highest number of a name counts: whoever creates it, which
only one can, holds the job and rewrites the file every BEAT_SECONDS. A job whose holder is dead is
taken over by creating the next number; a holder that finds one above its own has lost the job.

The clocks of machines differ, so no two are compared. A holder on this machine is dead when its
process is gone. One on another machine is dead when its file has kept the same content for
STALE_SECONDS of the observer's own clock.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tintype.errors import UserError
from tintype.files.bounded import read_bytes
from tintype.files.system import why
from tintype.files.whole import write_json

# Tests and machines that are often taken away want it shorter.
STALE_SECONDS = float(os.environ.get("TINTYPE_LEASE_SECONDS", "60"))
BEAT_SECONDS = min(2.0, STALE_SECONDS / 10)
# What one look adds to the age of a lease, at most: an observer that was frozen itself did not see
# whether the holder went on.
LONGEST_LOOK = STALE_SECONDS / 5
MOST_NOTES = 50  # that are kept for those who watch
MOST_BYTES = 100_000


class Leases:
    """The leases in a folder, as one process sees them.

    Args:
        folder: where they are; it is made when the first one is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # of each lease of another machine: its content, for how long that has been seen, and when
        self._seen: dict[Path, tuple[bytes, float, float]] = {}

    def held(self) -> dict[str, dict[str, Any]]:
        """Return what the holder of each job says, by the job's name; only live holders count."""
        return self.look()[0]

    def look(self) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """Return what the living holder of each job says, and the jobs whose holder has died."""
        found = {name: self._read(name, number) for name, number in self._latest().items()}
        held = {name: says for name, (says, alive) in found.items() if alive}

        left = {name for name, (says, _) in found.items() if says.get("state") != "released"}
        return held, left - set(held)

    def take(self, name: str) -> Lease | None:
        """Take a job, unless somebody holds it.

        Raises:
            UserError: the folder cannot be written to.
        """
        number = self._latest().get(name, 0)
        before, alive = self._read(name, number) if number else ({}, False)
        if alive:
            return None
        path = self._path(name, number + 1)
        try:
            self.folder.mkdir(exist_ok=True)
            path.touch(exist_ok=False)  # O_EXCL, which holds on NFS too
        except FileExistsError:  # another process was faster
            return None
        except OSError as error:
            raise UserError(f"cannot write {path}: {why(error)}.") from None
        if self._latest().get(name, 0) > number + 1:
            return None
        return Lease(path, {} if before.get("state") == "released" else before)

    def clear(self) -> None:
        """Remove all leases, where nothing is left to do."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}"

    def _latest(self) -> dict[str, int]:
        latest: dict[str, int] = {}
        with suppress(FileNotFoundError):
            for file in os.listdir(self.folder):
                name, _, number = file.rpartition(".")
                if number.isdecimal() and not name.startswith("."):
                    latest[name] = max(latest.get(name, 0), int(number))
        return latest

    def _read(self, name: str, number: int) -> tuple[dict[str, Any], bool]:
        """Return what a lease says, and whether its holder is alive."""
        path = self._path(name, number)
        content, says = b"", {}
        with suppress(OSError, ValueError):  # removed, or created and not yet written
            content = read_bytes(path, most=MOST_BYTES)
            says = dict(json.loads(content))
        says["number"] = number

        if says.get("state") == "released":
            return says, False
        if (alive := is_running(says)) is not None:
            return says, alive
        return says, self._unchanged(path, content) < STALE_SECONDS

    def _unchanged(self, path: Path, content: bytes) -> float:
        """Return for how many seconds of this process's clock a lease has been seen unchanged."""
        now = time.monotonic()
        before, age, looked = self._seen.get(path, (None, 0.0, now))
        age = age + min(now - looked, LONGEST_LOOK) if content == before else 0.0
        self._seen[path] = (content, age, now)
        return age


class Lease:
    """A job that this process holds until it releases it, loses it or ends.

    Attributes:
        before: what the last holder said, if it ended without releasing the job.
        lost: whether another process has taken the job over.
    """

    def __init__(self, path: Path, before: Mapping[str, Any]) -> None:
        self.path, self.before, self.lost = path, before, False
        self._says: dict[str, Any] = {"state": "held", **this_process(), "notes": []}
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def tell(self, **facts: Any) -> None:
        """Let those who watch know how the job goes, with the next beat."""
        with self._guard:
            self._says.update(facts)

    def note(self, line: str) -> None:
        """Let those who watch know a line."""
        with self._guard:
            if len(self._says["notes"]) < MOST_NOTES:
                self._says["notes"].append(line)

    def release(self) -> None:
        """Give the job back."""
        self._over.set()
        self._thread.join()
        self.tell(state="released")
        self._write()

    def _beat(self) -> None:
        name, _, number = self.path.name.rpartition(".")
        above = self.path.with_name(f"{name}.{int(number) + 1}")
        while not self._over.wait(BEAT_SECONDS):
            if above.exists():
                self.lost = True
                return
            self._write()

    def _write(self) -> None:
        with self._guard:
            self._says["beat"] = self._says.get("beat", 0) + 1
            said = dict(self._says)
        with suppress(UserError):  # a disk that is full for a while; the training says it better
            write_json(self.path, said)


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others, for `is_running`."""
    import psutil

    born = psutil.Process().create_time()
    return {"machine": platform.node(), "process": os.getpid(), "born": born}


def is_running(says: Mapping[str, Any]) -> bool | None:
    """Return whether a process is alive, and no other that has got its number.

    None where it is one of another machine, of which that is not known.
    """
    import psutil

    if says.get("machine") != platform.node():
        return None
    try:
        process = psutil.Process(int(says["process"]))
        same = abs(process.create_time() - float(says["born"])) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False

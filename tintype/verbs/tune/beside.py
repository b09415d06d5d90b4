"""Several processes at one tuning: whose turn it is, and those that are started here to help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tintype.files.lease import Leases
from tintype.progress import Watcher

FOLDER = ".leases"
SECONDS_TO_SAVE = 60.0  # that a helper is given when the tuning is stopped


def leases_of(tuning: Path) -> Leases:
    """Return the leases of a tuning's trials."""
    return Leases(tuning / FOLDER)


@contextmanager
def turn(tuning: Path, name: str, watcher: Watcher | None = None) -> Iterator[None]:
    """Wait until no other process does what is called `name`, and hold that for this one."""
    leases, said = leases_of(tuning), False
    while (lease := leases.take(name)) is None:
        if watcher is not None and not said:
            watcher.note(f"another process does the rest ({name}); it is waited for")
            said = True
        time.sleep(0.05 if watcher is None else 0.5)
    try:
        yield
    finally:
        lease.release()


@contextmanager
def helpers(tuning: Path, count: int, how: Mapping[str, Any]) -> Iterator[None]:
    """Let `count` further processes run trials while this lasts; they end with this process.

    A helper that dies is not replaced; another process goes on with its trial.
    """
    arguments = [str(tuning), json.dumps(how)]
    command = [sys.executable, "-m", "tintype.verbs.tune.helper", *arguments]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        for process in started:
            try:
                process.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""A process that trains runs of a study: `python -m tintype.verbs.study.worker`.

Each line of JSON on standard input is a run to train; lines of JSON on standard output report it.
When standard input ends, because whoever started it is done or dead, the run that is under way
saves its state and the process ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tintype.errors import Interrupted
from tintype.interface.spelling import on_the_command_line
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.verbs.study.single import train_one


class _Telling(Watcher):
    """Tells the study how a run goes, at most some times a second."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell, self._told = tell, 0.0

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if time.monotonic() - self._told > 0.25 or step >= total_steps:
            self._told = time.monotonic()
            self.tell(
                event="step",
                step=step,
                total_steps=total_steps,
                loss=loss,
                images_per_second=images_per_second,
            )

    def note(self, line: str) -> None:
        self.tell(event="note", line=line)


def main() -> None:
    """Train what standard input says until it ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # what a library prints is not taken for a message
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(**message: Any) -> None:
        try:
            print(json.dumps(message), file=out, flush=True)
        except OSError:  # nobody listens any more
            signal.raise_signal(signal.SIGTERM)

    wanted: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(wanted, busy), daemon=True).start()
    while (run := wanted.get()) is not None:
        busy.set()
        started = time.perf_counter()
        recipe = build(run["recipe"], where="")
        try:
            state, message = train_one(
                Path(run["folder"]), run["name"], recipe, _Telling(tell), run["command"]
            )
        except Interrupted:
            state, message = "stopped", ""
        busy.clear()
        tell(event="end", state=state, message=message, seconds=time.perf_counter() - started)
        if state == "stopped":
            return


def _read(wanted: SimpleQueue[dict[str, Any] | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        wanted.put(json.loads(line))
    wanted.put(None)
    if busy.is_set():
        signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    with on_the_command_line():  # what is recorded is spelled as in runs of this process
        main()

"""Signals caught while a run trains, so that the step at hand ends and a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tintype.errors import STOPPING, Interrupted


@contextmanager
def caught_signals() -> Iterator[Callable[[], int | None]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a question that the loop asks after each step.

    A second Ctrl-C stops at once.
    """
    seen: list[int] = []

    def handler(number: int, _frame: object) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    with _handled_by(handler):
        yield lambda: seen[0] if seen else None


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into Interrupted at once, for work whose files are written
    whole or not at all.
    """

    def handler(number: int, _frame: object) -> None:
        raise Interrupted(number, folder)

    with _handled_by(handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    # signals reach the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # nohup has SIGHUP ignored, and means it
    numbers = [
        number
        for number in STOPPING
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)

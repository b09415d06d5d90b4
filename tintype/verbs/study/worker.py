"""A process that works off the queue of a study: `python -m tintype.verbs.study.worker FOLDER`.

It prints nothing; who watches reads the leases. When standard input ends, because whoever started
it is done or dead, the run that is under way saves its state and the process ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress

from tintype.errors import Interrupted
from tintype.interface.spelling import on_the_command_line
from tintype.progress import Watcher
from tintype.training.signals import interruptible
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.run_all import Progress, work_off


def main(folder: str, command: str) -> None:
    """Train what is free until nothing is left."""
    study = StudyFolder.open(folder)
    threading.Thread(target=end_with_input, daemon=True).start()
    with suppress(Interrupted), interruptible(study.path):
        work_off(study, Progress(study, Watcher(), 1), command)


def end_with_input() -> None:
    """Wait for the end of standard input, and then stop this process as SIGTERM would."""
    sys.stdin.read()
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    with on_the_command_line():  # what is recorded is spelled as in runs of the study's own process
        main(*sys.argv[1:])

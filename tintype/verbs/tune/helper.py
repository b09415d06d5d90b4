"""A process that helps with a tuning: `python -m tintype.verbs.tune.helper FOLDER HOW`.

It prints nothing. When its standard input ends, the trial that is under way saves its state and the
process ends.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tintype.errors import Interrupted
from tintype.interface.spelling import on_the_command_line
from tintype.verbs.study.worker import end_with_input
from tintype.verbs.tune import help_with


def main(folder: str, how: str) -> None:
    """Run trials until there are enough."""
    threading.Thread(target=end_with_input, daemon=True).start()
    with suppress(Interrupted):
        help_with(Path(folder), json.loads(how))


if __name__ == "__main__":
    with on_the_command_line():
        main(*sys.argv[1:])

"""Start the processes that train one run together on this machine, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from tintype.hardware.processes import LAUNCHED

STOPPING_SECONDS = 25  # that processes have for a last checkpoint when they are stopped


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `tintype ARGUMENTS` in `count` processes, and return the exit code of process 0.

    2 where another process has ended the run; process 0 says so.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=STOPPING_SECONDS,
    )
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # Under nohup; torch's launcher would listen to SIGHUP all the same, and end everything.
        config.signals_to_handle = "SIGTERM,SIGINT,SIGQUIT"

    try:
        elastic_launch(config, sys.executable)("-m", "tintype", *arguments)
    except ChildFailedError as failed:
        return _exit_code(failed)
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


def _exit_code(failed: object) -> int:
    failures = getattr(failed, "failures", {})
    first = failures.get(0)
    if first is None:
        return 2
    if first.exitcode >= 0:
        return first.exitcode

    name = signal.Signals(-first.exitcode).name
    print(
        f"error: process 0 was ended by {name}. What the last checkpoint holds is kept; "
        "`tintype list runs` shows the run, and tintype train --resume RUN goes on with it.",
        file=sys.stderr,
    )
    return 2

"""The runs of a study as tasks of Ray: a thin adaptor, since the queue does the work.

A task trains one run that nobody holds. Where its process dies Ray begins it again, and it goes on
from the last checkpoint. The folder of the study has to be seen by all machines of the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tintype.errors import UserError
from tintype.hardware.cluster import cluster_address, no_answer
from tintype.interface.spelling import on_the_command_line
from tintype.progress import Watcher
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.queue import MOST_DEATHS, Queue
from tintype.verbs.study.run_all import Progress, work_off


def train_on_ray(study: StudyFolder, progress: Progress, command: str) -> None:
    """Train what is left of a study on a cluster, or on this machine where there is none.

    Raises:
        UserError: Ray is missing, or its cluster cannot be reached.
    """
    queue = Queue(study)
    with _connected() as ray:
        # on every machine the same, so that Ray sends no code
        train = ray.remote(max_retries=MOST_DEATHS, retry_exceptions=False)(_train)
        folder = str(study.path.resolve())
        tasks: dict[Any, PlannedRun] = {}
        for run in queue.left:
            task = train.options(name=run.name, **_needs(run, ray))
            tasks[task.remote(folder, run.name, command)] = run

        try:
            while queue.left:
                ended, _ = ray.wait(list(tasks), num_returns=1, timeout=0.5) if tasks else ([], [])
                for task in ended:
                    _note_failure(study, tasks.pop(task), task, ray)
                progress.look(queue)
        finally:
            for task in tasks:
                ray.cancel(task)


def _train(folder: str, name: str, command: str) -> None:
    study = StudyFolder.open(folder)
    with on_the_command_line():
        work_off(study, Progress(study, Watcher(), 1), command, only=name)


def _needs(run: PlannedRun, ray: Any) -> dict[str, Any]:
    """Return the cores and cards that a run takes."""
    threads = 1 if run.recipe.threads == "auto" else run.recipe.threads
    cards = bool(ray.cluster_resources().get("GPU")) and run.recipe.device != "cpu"
    return {"num_cpus": threads, "num_gpus": int(cards)}


def _note_failure(study: StudyFolder, run: PlannedRun, task: Any, ray: Any) -> None:
    """Write down why a run failed where its task could not say it."""
    try:
        ray.get(task)
    except Exception as error:  # whatever it is, the other runs go on
        if not study.is_done(run):
            line = (str(error).strip() or type(error).__name__).splitlines()[-1]
            study.note(run, "failed", message=f"Ray: {line}")


@contextmanager
def _connected() -> Iterator[Any]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "--on ray needs Ray, which is not installed. Type: pip install 'tintype[cluster]'"
        ) from None
    if ray.is_initialized():
        yield ray
        return

    address = cluster_address()
    if address and (reason := no_answer(address)):  # Ray itself would try for minutes
        raise UserError(
            f"cannot reach Ray at RAY_ADDRESS={address} ({reason}). "
            "Start it there (ray start --head), or unset RAY_ADDRESS to use this machine."
        )
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # unreachable, of another version, or refused
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot reach Ray: {line}. Expected a cluster at RAY_ADDRESS with the same version "
            "of Ray and Python, or no RAY_ADDRESS."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()

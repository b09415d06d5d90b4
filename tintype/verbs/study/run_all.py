"""Train the runs of a study, alone or beside other processes, and say how long the whole takes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tintype.errors import Interrupted, UserError
from tintype.files.lease import Lease
from tintype.progress import Watcher, duration, figures_line
from tintype.training.signals import interruptible
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.queue import MOST_DEATHS, Queue
from tintype.verbs.study.single import LostLeaseError, train_one

SECONDS_TO_SAVE = 60.0  # that a worker is given when the study is stopped
SECONDS_TO_LOOK = 0.5  # between two looks at what the other processes do
SECONDS_TO_SHOW = 0.25  # from one step that is shown to the next
TRAINING_PART = 0.95  # of a run's time; the rest is measuring and the report
ENDED = "its process has ended; another one goes on with it"
# Beginnings of a run's notes that are worth a line.
REPORTED = ("warning", "resumed", "stopped early", "checkpoint", "not bit-equal", "exact")


class Progress:
    """Shows the progress of a study: runs that are done or under way, and the time left.

    The time of a run is that of runs of the same variant before it, else the mean of all, else
    estimated from its own speed.
    """

    def __init__(self, study: StudyFolder, watcher: Watcher, workers: int) -> None:
        self.study, self.watcher, self.workers = study, watcher, workers
        self.seconds: dict[str, list[float]] = {}
        for planned in study.planned:
            if study.is_done(planned) and (
                before := study.record.get(planned.name, {}).get("seconds")
            ):
                self.seconds.setdefault(planned.variant, []).append(before)
        self.num_done = len(study.planned) - len(study.waiting())
        self.started: dict[str, float] = {}
        self.parts: dict[str, float] = {}  # of the runs under way, 0..1
        self._workers_here = workers
        self._shown_last = ""  # name of the run that the last line was about
        self._lease: dict[str, int] = {}  # the number of the lease of each run under way
        self._passed_on: dict[str, int] = {}  # how many of its notes were shown

    def look(self, queue: Queue) -> bool:
        """Show what has come of the runs since the last look; return whether one is over."""
        over = queue.look()
        self.workers = max(self._workers_here, len(queue.held))
        for planned in queue.left:
            if says := queue.held.get(planned.name):
                self._under_way(planned, says)
        for planned in over:
            self.end(planned)

        for planned in queue.left:
            if planned.name in self.started and planned.name not in queue.held:
                self._forget(planned)
                if planned.name in queue.deserted:
                    self._said(planned, ENDED)
        return bool(over)

    def begin(self, planned: PlannedRun) -> None:
        """A run begins."""
        self._shown_last = planned.name
        self.started[planned.name], self.parts[planned.name] = time.perf_counter(), 0.0
        number = self.study.planned.index(planned) + 1
        self.watcher.note(
            f"[{number} of {len(self.study.planned)}] {planned.variant}, seed {planned.seed}"
        )

    def step(self, planned: PlannedRun, step: int, total_steps: int, loss: float) -> None:
        """A run has come so far."""
        self.parts[planned.name] = TRAINING_PART * step / max(1, total_steps)
        text = (
            f"{planned.variant}, seed {planned.seed}: "
            f"step {step:,} of {total_steps:,}, loss {loss:.4f}"
        )
        done = self.num_done + sum(self.parts.values())
        self.watcher.on_runs(done, len(self.study.planned), text, self.seconds_left())

    def end(self, planned: PlannedRun) -> None:
        """A run is over: finished or failed, as the record says."""
        if planned.name not in self.started:
            self.begin(planned)
        among_others = self._shown_last != planned.name
        which = f"{planned.variant}, seed {planned.seed}: " if among_others else ""
        record = self.study.record.get(planned.name, {})
        seconds = time.perf_counter() - self.started[planned.name]
        self._forget(planned)

        if record.get("state") == "failed":
            self.watcher.note(f"  {which}failed: {record.get('message') or ''}")
            return
        self.num_done += 1
        self.seconds.setdefault(planned.variant, []).append(record.get("seconds") or seconds)
        figures = self.study.run(planned).read("evaluation.json")["splits"]["val"]
        left = self.seconds_left()
        rest = f"; {len(self.study.waiting())} left, about {duration(left)}" if left else ""
        said = f"{figures_line(figures)} on validation, {duration(seconds)}{rest}"
        self.watcher.note(f"  {which}{said}")

    def remark(self, planned: PlannedRun, line: str) -> None:
        """A run says something; what is worth a line is passed on."""
        if line.startswith(REPORTED):
            self._said(planned, line)

    def seconds_left(self) -> float | None:
        """Return about how long the study will still take, or None where nothing is known yet."""
        known = [s for several in self.seconds.values() for s in several]
        under_way = [
            s / self.parts[name] for name, s in self._elapsed().items() if self.parts[name] > 0.02
        ]
        usual = known or under_way
        if not usual:
            return None

        mean, left = sum(usual) / len(usual), 0.0
        for planned in self.study.waiting():
            own = self.seconds.get(planned.variant)
            whole = sum(own) / len(own) if own else mean
            left += whole * (1 - self.parts.get(planned.name, 0.0))

        return left / self.workers

    def _under_way(self, planned: PlannedRun, says: Mapping[str, Any]) -> None:
        """Pass on what the holder of a run says of it in its lease."""
        name, number = planned.name, says["number"]
        if name not in self.started:
            self.begin(planned)
        if self._lease.setdefault(name, number) != number:
            self._said(planned, ENDED)
            self._lease[name], self._passed_on[name] = number, 0

        notes = says.get("notes") or []
        for line in notes[self._passed_on.get(name, 0) :]:
            self.remark(planned, line)
        self._passed_on[name] = len(notes)
        if "step" in says:
            self.step(planned, says["step"], says["total_steps"], says["loss"])

    def _said(self, planned: PlannedRun, line: str) -> None:
        self._shown_last = ""
        self.watcher.note(f"  {planned.variant}, seed {planned.seed}: {line}")

    def _forget(self, planned: PlannedRun) -> None:
        for known in (self.started, self.parts, self._lease, self._passed_on):
            known.pop(planned.name, None)

    def _elapsed(self) -> dict[str, float]:
        now = time.perf_counter()
        return {name: now - started for name, started in self.started.items()}


class _OneRun(Watcher):
    """Passes on what a run in this process says, to this process and to those who read its lease.

    Raises:
        LostLeaseError: at a step, where another process has taken the run over.
    """

    def __init__(self, progress: Progress, planned: PlannedRun, lease: Lease) -> None:
        self.progress, self.planned, self.lease = progress, planned, lease
        self._shown = 0.0

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if self.lease.lost:
            raise LostLeaseError
        now = time.monotonic()
        if now - self._shown < SECONDS_TO_SHOW and step < total_steps:
            return
        self._shown = now
        if math.isfinite(loss):
            self.lease.tell(step=step, total_steps=total_steps, loss=loss)
        self.progress.step(self.planned, step, total_steps, loss)

    def note(self, line: str) -> None:
        if line.startswith(REPORTED):
            self.lease.note(line)
        self.progress.remark(self.planned, line)


def run_all(
    study: StudyFolder,
    watcher: Watcher,
    workers: int,
    command: str,
    elsewhere: Callable[[StudyFolder, Progress, str], None] | None = None,
) -> None:
    """Train what is left of a study, beside others that may do the same; return when all is over.

    One run follows another in this process, or several processes share them, or `elsewhere` trains
    them. A failed run does not stop the others.

    Raises:
        Interrupted: a signal came; finished runs are kept, and those under way have saved their
            state.
    """
    workers = min(workers, len(study.waiting()))
    progress = Progress(study, watcher, workers)
    try:
        with interruptible(study.path):
            if elsewhere is not None:
                elsewhere(study, progress, command)
            elif workers == 1:
                work_off(study, progress, command)
            else:
                _several_at_once(study, progress, command)
    except Interrupted as stopped:
        raise Interrupted(stopped.number, study.path, "tintype study") from None
    finally:
        watcher.close()


def work_off(
    study: StudyFolder, progress: Progress, command: str, *, only: str | None = None
) -> None:
    """Train whatever run is free, or `only` one, one after another, until all are over.

    Runs that other processes hold are waited for, and taken over where those die.

    Raises:
        Interrupted: a signal came; the state of the run under way is saved.
    """
    queue = Queue(study, only)
    while True:
        progress.look(queue)
        if not queue.left:
            return
        taken = queue.take()
        if taken is None:
            time.sleep(SECONDS_TO_LOOK)
            continue
        _train(study, *taken, progress, command)


def _train(
    study: StudyFolder, planned: PlannedRun, lease: Lease, progress: Progress, command: str
) -> None:
    progress.begin(planned)
    study.note(planned, "running")
    started = time.perf_counter()
    state, message = "stopped", ""
    try:
        with interruptible(study.path):
            watcher = _OneRun(progress, planned, lease)
            state, message = train_one(study.path, planned.name, planned.recipe, watcher, command)
    finally:
        if not lease.lost:
            seconds = time.perf_counter() - started
            study.note(planned, state, message=message, seconds=seconds)
        lease.release()


class _Worker:
    """A process that works off the queue, see `tintype.verbs.study.worker`."""

    def __init__(self, study: StudyFolder, number: int, threads: int, command: str) -> None:
        self._arguments = [str(study.path), command]
        # OMP_NUM_THREADS holds for what is computed between the runs; each run sets its own number.
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            **_card_of(number, study.planned),
        }
        self.begin()

    def begin(self) -> None:
        """Start the process, again where it has ended."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tintype.verbs.study.worker", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=self._environment,
        )

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """Let it save its state and end: it notices the end of its input."""
        with suppress(OSError):
            self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]

    def wait(self) -> None:
        """Wait for its end, and end it where it does not come."""
        try:
            self.process.wait(SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _several_at_once(study: StudyFolder, progress: Progress, command: str) -> None:
    queue = Queue(study)
    threads = most_threads(queue.left)
    workers = [_Worker(study, n, threads, command) for n in range(progress.workers)]
    deaths = 0
    try:
        while True:
            ended = [worker for worker in workers if worker.has_ended()]
            deaths = 0 if progress.look(queue) else deaths + len(ended)
            if not queue.left:
                return
            if deaths > MOST_DEATHS * (len(workers) + 1):
                raise UserError(
                    f"the workers end again and again (the last with exit code "
                    f"{ended[-1].process.returncode}); the memory may be too small for "
                    f"{len(workers)}. Lower --workers; the same command goes on."
                )
            for worker in ended:
                worker.begin()
            time.sleep(SECONDS_TO_LOOK)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()


def most_threads(runs: Sequence[PlannedRun]) -> int:
    """Return the largest number of threads that one of the runs computes with."""
    return max((run.recipe.threads for run in runs if run.recipe.threads != "auto"), default=1)


def _card_of(number: int, runs: Sequence[PlannedRun]) -> dict[str, str]:
    """Return the environment in which a worker sees one graphics card, where there are several."""
    import torch

    cards = torch.cuda.device_count()
    if cards < 2 or any(run.recipe.device != "auto" for run in runs):
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(cards)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[number % cards]}

"""Train the runs of a study, one after another or several at once, and say how long the whole will
take.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from tintype.errors import Interrupted
from tintype.files import system
from tintype.progress import Watcher, duration, figures_line
from tintype.training.signals import interruptible
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.single import train_one

SECONDS_TO_SAVE = 60.0  # that a worker is given when the study is stopped
TRAINING_PART = 0.95  # of a run's time; the rest is measuring and the report
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

    def begin(self, planned: PlannedRun) -> None:
        """A run begins."""
        self.started[planned.name], self.parts[planned.name] = time.perf_counter(), 0.0
        self.study.note(planned, "running")
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

    def end(self, planned: PlannedRun, state: str, message: str, seconds: float) -> None:
        """A run is over: finished, failed or stopped."""
        self.started.pop(planned.name, None)
        self.parts.pop(planned.name, None)
        self.study.note(planned, state, message=message, seconds=seconds)

        if state == "finished":
            self.num_done += 1
            self.seconds.setdefault(planned.variant, []).append(
                self.study.record[planned.name]["seconds"]
            )
            figures = self.study.run(planned).read("evaluation.json")["splits"]["val"]
            left = self.seconds_left()
            rest = f"; {len(self.study.waiting())} left, about {duration(left)}" if left else ""
            self.watcher.note(f"  {figures_line(figures)} on validation, {duration(seconds)}{rest}")
        elif state == "failed":
            self.watcher.note(f"  failed: {message}")

    def remark(self, planned: PlannedRun, line: str) -> None:
        """A run says something; what is worth a line is passed on."""
        if line.startswith(REPORTED):
            self.watcher.note(f"  {planned.variant}, seed {planned.seed}: {line}")

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

    def _elapsed(self) -> dict[str, float]:
        now = time.perf_counter()
        return {name: now - started for name, started in self.started.items()}


class _OneRun(Watcher):
    """Passes on what a run in this process tells."""

    def __init__(self, progress: Progress, planned: PlannedRun) -> None:
        self.progress, self.planned = progress, planned

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.progress.step(self.planned, step, total_steps, loss)

    def note(self, line: str) -> None:
        self.progress.remark(self.planned, line)


def run_all(
    study: StudyFolder, waiting: Sequence[PlannedRun], watcher: Watcher, workers: int, command: str
) -> None:
    """Train `waiting`; a failed run does not stop the others.

    One follows another in this process, or several processes share them.

    Raises:
        Interrupted: a signal came; finished runs are kept, and those under way have saved their
            state.
    """
    progress = Progress(study, watcher, workers)
    try:
        if workers == 1:
            _one_after_another(study, waiting, progress, command)
        else:
            _several_at_once(study, waiting, progress, command)
    except Interrupted as stopped:
        raise Interrupted(stopped.number, study.path, "tintype study") from None
    finally:
        watcher.close()


def _one_after_another(
    study: StudyFolder, waiting: Sequence[PlannedRun], progress: Progress, command: str
) -> None:
    for planned in waiting:
        progress.begin(planned)
        started = time.perf_counter()
        state, message = "stopped", ""
        try:
            with interruptible(study.path):
                state, message = train_one(
                    study.path, planned.name, planned.recipe, _OneRun(progress, planned), command
                )
        finally:
            progress.end(planned, state, message, time.perf_counter() - started)


class _Worker:
    """A process that trains runs, and the thread that hears what it says."""

    def __init__(
        self, number: int, threads: int, heard: SimpleQueue[tuple[_Worker, dict[str, Any]]]
    ) -> None:
        self.number = number
        self.planned: PlannedRun | None = None

        # It holds for what is computed between the runs; each run sets its own number.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tintype.verbs.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._thread = threading.Thread(target=self._hear, args=(heard,), daemon=True)
        self._thread.start()

    def _hear(self, heard: SimpleQueue[tuple[_Worker, dict[str, Any]]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            heard.put((self, json.loads(line)))
        heard.put((self, {"event": "dead", "code": self.process.wait()}))

    def train(self, planned: PlannedRun, folder: str, command: str, device: str | None) -> None:
        """Give it a run."""
        assert self.process.stdin is not None
        self.planned = planned
        recipe = planned.recipe if device is None else planned.recipe.replace(device=device)
        fields = recipe.model_dump(mode="json", exclude_unset=True)
        print(
            json.dumps(
                {"folder": folder, "name": planned.name, "recipe": fields, "command": command}
            ),
            file=self.process.stdin,
            flush=True,
        )

    def stop(self) -> None:
        """Let it save its state and end."""
        with suppress(OSError):
            if system.WINDOWS:  # to terminate is to kill there; the worker notices its input's end
                self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
            else:
                self.process.terminate()

    def wait(self) -> None:
        """Wait for its end, and end it where it does not come."""
        try:
            self.process.wait(SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]


def _several_at_once(
    study: StudyFolder, waiting: Sequence[PlannedRun], progress: Progress, command: str
) -> None:
    heard: SimpleQueue[tuple[_Worker, dict[str, Any]]] = SimpleQueue()
    todo, count = list(waiting), min(progress.workers, len(waiting))
    progress.workers = count
    threads = most_threads(waiting)

    workers = [_Worker(number, threads, heard) for number in range(count)]
    try:
        with interruptible(study.path):
            for worker in workers:
                _next(worker, todo, study, progress, command)
            while any(worker.planned for worker in workers):
                with suppress(Empty):  # a signal is heeded between two waits
                    worker, message = heard.get(timeout=0.5)
                    if not _heard(worker, message, progress):
                        continue
                    if message["event"] == "dead":
                        workers[worker.number] = worker = _Worker(worker.number, threads, heard)
                    _next(worker, todo, study, progress, command)
    finally:
        for worker in workers:
            if worker.planned:
                worker.stop()
                progress.end(worker.planned, "stopped", "", 0.0)
            else:
                worker.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        for worker in workers:
            worker.wait()


def _next(
    worker: _Worker, todo: list[PlannedRun], study: StudyFolder, progress: Progress, command: str
) -> None:
    if not todo:
        return
    planned = todo.pop(0)
    progress.begin(planned)
    worker.train(planned, str(study.path), command, _device_of(worker.number, planned))


def _heard(worker: _Worker, message: dict[str, Any], progress: Progress) -> bool:
    """Pass on what a worker says; return whether its run is over."""
    planned, event = worker.planned, message["event"]
    if planned is None:
        return False

    if event == "step":
        progress.step(planned, message["step"], message["total_steps"], message["loss"])
    elif event == "note":
        progress.remark(planned, message["line"])
    elif event == "end":
        progress.end(planned, message["state"], message["message"], message["seconds"])
    elif event == "dead":
        why = (
            f"its process was ended by signal {-message['code']}"
            if message["code"] < 0
            else "its process ended"
        )
        progress.end(
            planned,
            "failed",
            f"{why}; the memory may have been too small for {progress.workers} at once",
            0.0,
        )

    if event in ("end", "dead"):
        worker.planned = None
    return event in ("end", "dead")


def most_threads(runs: Sequence[PlannedRun]) -> int:
    """Return the largest number of threads that one of the runs computes with."""
    return max((run.recipe.threads for run in runs if run.recipe.threads != "auto"), default=1)


def _device_of(number: int, planned: PlannedRun) -> str | None:
    """Return a graphics card of its own for each worker, where there are several."""
    import torch

    cards = torch.cuda.device_count() if planned.recipe.device == "auto" else 0
    return f"cuda:{number % cards}" if cards > 1 else None

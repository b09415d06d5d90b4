"""Trackers log a run to other tools while it trains; `--track tensorboard,mlflow`.

A tracker is one file in this folder. If one fails, the run and the other trackers continue: the
error is printed once, and that tracker is dropped.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tintype import own_code
from tintype.errors import UserError
from tintype.files.bounded import read_json_object
from tintype.files.whole import write_json
from tintype.interface.watching import Start
from tintype.plugins import canonical, find, reference
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.runs.shapes import fitting
from tintype.tracking.tracker import RunInfo, Tracker

__all__ = ["RunInfo", "Tracker", "check_trackers", "tracked"]

SECONDS = 2.0  # between two deliveries of rows
FILES = ("recipe.yaml", "evaluation.json", "report.html")
MOST_PICTURES = 24
# in the run folder: the id that each tracker gave the run, and the last step it received
RECORD = "tracking.json"


def check_trackers(names: Sequence[str]) -> None:
    """Check that every tracker exists and is installed, before anything is written.

    Raises:
        UserError: one is unknown or missing; the message says what to install.
    """
    for name in names:
        if reference("tracking", name) is not None:
            _start(name)
            continue
        module = find("tracking", name)
        if importlib.util.find_spec(module.NEEDS) is None:
            extra = canonical("tracking", name)
            raise UserError(
                f"--track {name} needs {module.NEEDS}, which is not installed. "
                f"Type: pip install 'tintype[{extra}]'"
            )


@contextmanager
def tracked(run: RunFolder, recipe: Recipe, watcher: Watcher) -> Iterator[Watcher]:
    """Yield a watcher that passes everything on to `watcher` and to the trackers of the recipe.

    At the end the trackers also receive figures, images and files.

    Raises:
        UserError: a tracker cannot be reached at the start.
    """
    if not recipe.track:
        yield watcher
        return

    trackers = _Trackers(run, recipe, watcher)
    try:
        yield trackers
    except BaseException as error:
        trackers.end("failed" if isinstance(error, UserError) else "stopped")
        raise
    trackers.end("finished")


class _Trackers(Watcher):
    """Pass what happens in a run on to a watcher and to trackers."""

    def __init__(self, run: RunFolder, recipe: Recipe, watcher: Watcher) -> None:
        self.run = run
        self.watcher = watcher
        self.record = _read_record(run)
        self.trackers: dict[str, Tracker] = {}
        self.waiting: list[dict[str, Any]] = []
        self._handed_on = time.monotonic()

        settings = recipe.model_dump(mode="json")
        for name in recipe.track:
            before = self.record.get(name, {}).get("id")
            try:
                tracker = _start(name)(RunInfo(run.name, run.path, run.root, settings, before))
            except Exception as error:  # a library may raise anything
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"--track {name} failed to start ({type(error).__name__}: {reason}). "
                    "Fix this or leave the tracker out; the run folder records everything anyway."
                ) from error
            if not isinstance(tracker, Tracker):
                raise UserError(
                    f"--track {name} gives {type(tracker).__name__}. Expected a class derived from "
                    "tintype.tracking.Tracker, or a function (info) that returns one."
                )
            self.trackers[name] = tracker
            self.record[name] = {**self.record.get(name, {}), "id": tracker.id}
            self.record[name]["step"] = self.record[name].get("step") or 0
            watcher.note(f"tracked: {tracker.where}")

        write_json(run.path / RECORD, self.record)

    def on_start(self, start: Start) -> None:
        self.watcher.on_start(start)

    def reason_to_stop(self) -> str:
        return self.watcher.reason_to_stop()

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.watcher.on_step(step, total_steps, loss, images_per_second)

    def on_evaluation(self, step: int, epoch: float, figures: dict[str, Any]) -> None:
        self.watcher.on_evaluation(step, epoch, figures)
        snapshot = self.run.path / "samples" / f"step-{step:07d}.png"
        if snapshot.exists():
            self._hand_on()
            self._each(lambda tracker: tracker.picture("samples", snapshot, step))

    def on_row(self, row: dict[str, Any]) -> None:
        self.watcher.on_row(row)
        self.waiting.append(row)
        if time.monotonic() - self._handed_on > SECONDS:
            self._hand_on()

    def on_work(self, what: str, done: int, total: int) -> None:
        self.watcher.on_work(what, done, total)

    def note(self, line: str) -> None:
        self.watcher.note(line)

    def close(self) -> None:
        self.watcher.close()

    def end(self, state: str) -> None:
        """Deliver the remaining rows and, if finished, figures, images and files."""
        self._hand_on()
        if state == "finished":
            step = int(self.run.status.get("step", 0))
            figures = _final_figures(self.run)
            self._each(lambda tracker: tracker.figures(figures, step))
            pictures = sorted((self.run.path / "figures").glob("*.png"))[:MOST_PICTURES]
            for path in pictures:
                self._each(
                    lambda tracker, path=path: tracker.picture(f"figures/{path.stem}", path, step)
                )
            for path in (self.run.path / name for name in FILES):
                if path.exists():
                    self._each(lambda tracker, path=path: tracker.file(path))

        self._each(lambda tracker: tracker.finish(state))

    def _hand_on(self) -> None:
        """Deliver the rows that the trackers do not have yet.

        A resumed run computes some steps a second time, which the trackers have seen.
        """
        rows = self.waiting
        self.waiting = []
        self._handed_on = time.monotonic()
        if not rows:
            return

        for name in list(self.trackers):
            new = [row for row in rows if int(row["step"]) > self.record[name]["step"]]
            if new:
                self._try(name, lambda tracker, new=new: tracker.rows(new))
                self.record[name]["step"] = int(new[-1]["step"])
        write_json(self.run.path / RECORD, self.record)

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name in list(self.trackers):
            self._try(name, tell)

    def _try(self, name: str, tell: Callable[[Tracker], None]) -> None:
        try:
            tell(self.trackers[name])
        except Exception as error:  # a tool that is down must not cost a run
            del self.trackers[name]
            reason = " ".join(str(error).split())[:200]
            self.watcher.note(
                f"warning: {name} failed and logs no more of this run "
                f"({type(error).__name__}: {reason})"
            )


def _start(name: str) -> Callable[[RunInfo], Tracker]:
    """Return what makes a tracker: that of its file, or a function or class of the user's own."""
    elsewhere = reference("tracking", name)
    if elsewhere is not None:
        return own_code.find(elsewhere, "tracker", "start")
    return find("tracking", name).start


def _final_figures(run: RunFolder) -> dict[str, float]:
    splits = run.read("evaluation.json")["splits"] if run.is_measured else {}
    return {
        f"{split}_{name}": float(value)
        for split, figures in splits.items()
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _read_record(run: RunFolder) -> dict[str, Any]:
    try:
        return fitting(RECORD, read_json_object(run.path / RECORD))[0]
    except (OSError, ValueError):
        return {}

"""Trackio: logs locally to the project in TRACKIO_PROJECT, or "tintype"; see `trackio show`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tintype.tracking.tracker import RunInfo, Tracker, numbers

NEEDS = "trackio"


def start(info: RunInfo) -> Tracker:
    """Begin a run, or continue the earlier one."""
    return Trackio(info)


class Trackio(Tracker):
    """Log to a run of the library.

    Trackio identifies runs by name, so the name includes the run's folder.
    """

    def __init__(self, info: RunInfo) -> None:
        trackio = importlib.import_module(NEEDS)
        self._trackio: Any = trackio
        project = os.environ.get("TRACKIO_PROJECT", "tintype")
        self.id = info.id or "-".join(info.folder.resolve().parts[-2:])
        self._run = trackio.init(
            project=project, name=self.id, config=info.settings(),
            resume="allow" if info.id else "never", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip
        self.where = f"trackio show --project {project}"

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._run.log(numbers(row), step=int(row["step"]))

    def picture(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._trackio.Image(str(path))}, step=step)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({f"final/{name}": value for name, value in figures.items()}, step=step)

    def file(self, path: Path) -> None:
        self._trackio.log_artifact(str(path), type="run file")

    def finish(self, state: str) -> None:
        self._run.finish()

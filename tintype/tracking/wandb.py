"""Weights & Biases: project in WANDB_PROJECT, or "tintype"; WANDB_MODE=offline needs no account."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tintype.tracking.tracker import RunInfo, Tracker, numbers

NEEDS = "wandb"


def start(info: RunInfo) -> Tracker:
    """Begin a run, or continue the earlier one."""
    return WeightsAndBiases(info)


class WeightsAndBiases(Tracker):
    """Log to a run of the library, which sends in the background."""

    def __init__(self, info: RunInfo) -> None:
        wandb = importlib.import_module(NEEDS)
        self._wandb: Any = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tintype"), name=info.name,
            dir=str(info.folder), config=dict(info.recipe), id=info.id,
            resume="allow" if info.id else None,
        )  # fmt: skip
        self.id = str(self._run.id)
        self.where = str(getattr(self._run, "url", None) or self._run.dir)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._run.log(numbers(row), step=int(row["step"]))

    def picture(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        self._run.summary.update(dict(figures))

    def file(self, path: Path) -> None:
        self._run.save(str(path), base_path=str(path.parent), policy="now")

    def finish(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)

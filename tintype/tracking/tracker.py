"""What every tracker offers: Tracker, and what it is told of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run when it begins: its name, its folder, the folder of all runs, its resolved recipe.

    `id` is what the tracker called it before, where the run is gone on with.
    """

    name: str
    folder: Path
    root: Path
    recipe: Mapping[str, Any]
    id: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the recipe with options in fields of their own: "model_options.width"."""
        flat: dict[str, Any] = {}
        for key, value in self.recipe.items():
            if isinstance(value, Mapping):
                flat.update({f"{key}.{option}": inner for option, inner in value.items()})
            else:
                flat[key] = value
        return flat


class Tracker(ABC):
    """Shows runs in a tool that people have open already. The run folder remains what counts.

    A file in this folder has a literal NEEDS, the module that must be installed, and `start(told)
    -> Tracker`.

    Attributes:
        id: by which the run is found again there when it is gone on with.
        where: where to look, in a few words.
    """

    id: str = ""
    where: str = ""

    @abstractmethod
    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows of metrics.csv: step, epoch, lr, losses, and validation figures where they were
        measured.
        """

    @abstractmethod
    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a PNG file."""

    @abstractmethod
    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Take the final figures of a finished run, as "test_accuracy"."""

    @abstractmethod
    def file(self, path: Path) -> None:
        """Take a file of the run, to keep beside it."""

    @abstractmethod
    def finish(self, state: str) -> None:
        """End: the run is "finished", "stopped" or "failed"."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a row of metrics.csv without the step."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and value not in ("", None)
    }

"""The interface of a tracker: Tracker, and RunInfo that it starts with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """What a tracker receives when a run begins.

    Attributes:
        name: of the run.
        folder: of the run.
        root: the folder that holds all runs.
        recipe: the resolved settings.
        id: the tracker's own name for the run if it is resumed, or None.
    """

    name: str
    folder: Path
    root: Path
    recipe: Mapping[str, Any]
    id: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the recipe with nested options as flat fields: "model_options.width"."""
        flat: dict[str, Any] = {}
        for key, value in self.recipe.items():
            if isinstance(value, Mapping):
                flat.update({f"{key}.{option}": inner for option, inner in value.items()})
            else:
                flat[key] = value
        return flat


class Tracker(ABC):
    """Show runs in a tool that people already use. The run folder stays the source of truth.

    A file in this folder has a literal NEEDS, the module that must be installed, and
    `start(info) -> Tracker`.

    Attributes:
        id: identifies the run in the tool, so that a resumed run continues there.
        where: where to look, in a few words.
    """

    id: str = ""
    where: str = ""

    @abstractmethod
    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows of metrics.csv: step, epoch, lr, losses, and any validation figures."""

    @abstractmethod
    def picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""

    @abstractmethod
    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log the final figures of a finished run, such as "test_accuracy"."""

    @abstractmethod
    def file(self, path: Path) -> None:
        """Keep a file of the run with it."""

    @abstractmethod
    def finish(self, state: str) -> None:
        """Close the run as "finished", "stopped" or "failed"."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a row of metrics.csv without the step."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and value not in ("", None)
    }

"""Read the plain files of a run folder.

No model and no data set is needed, and nothing that is read can run code.
"""

from __future__ import annotations

import contextlib
import csv
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tintype.errors import UserError
from tintype.files.bounded import open_text, read_bytes, read_json_object
from tintype.files.yaml_files import MOST_YAML_BYTES, parse_yaml
from tintype.plugins import default_task
from tintype.runs.code import task_here
from tintype.runs.folder import shown_split
from tintype.runs.shapes import fitting

Metrics = dict[str, list[float]]  # column -> one value for each row, NaN where the row is blank


@dataclass(frozen=True)
class RunFiles:
    """What lies in a run folder.

    A missing or broken file is an empty mapping; `problems` tells of the broken ones.
    """

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    evaluation: dict[str, Any]
    status: dict[str, Any]
    samples: dict[str, Any]
    analysis: dict[str, Any]
    metrics: Metrics
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def task(self) -> str:
        named = self.recipe.get("task") or self.evaluation.get("task") or default_task()
        return task_here(self.folder, str(named))

    @property
    def finished(self) -> bool:
        return bool(self.evaluation.get("splits"))

    @property
    def split(self) -> str:
        """The split whose details are shown: the test split or that of the folds, or validation
        where the test split was not looked at.
        """
        return shown_split(self.evaluation)

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """The figures of each split that was measured: test or folds, validation, training."""
        measured = self.evaluation.get("splits") or {}
        return {
            name: measured[name] for name in ("test", "folds", "val", "train") if name in measured
        }

    @property
    def reached(self) -> dict[str, Any]:
        """How far an unfinished run has come, from the last row of its metrics, and how to go on
        with it.
        """
        last = {column: values[-1] for column, values in self.metrics.items() if values}
        step, epoch = last.get("step", math.nan), last.get("epoch", math.nan)
        return {
            "state": self.status.get("state"),
            "step": 0 if math.isnan(step) else int(step),
            "total_steps": self.status.get("total_steps"),
            "epoch": None if math.isnan(epoch) else epoch,
            "resume": f"tintype train --resume {shlex.quote(self.folder.as_posix())}",
        }

    def evaluated(self, what: str) -> Any:
        """Return one detailed result ("confusion", "per_class", ...) on `split`, or None."""
        return (self.evaluation.get(what) or {}).get(self.split) or None


def read_run(folder: Path) -> RunFiles:
    """Read a run folder, finished or not.

    Raises:
        UserError: there is no recipe.yaml in it, so it is not a run folder.
    """
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(
            f"'{folder}' is not a run folder: it holds no recipe.yaml. "
            "`tintype list runs` shows the runs."
        )

    recipe_text = read_bytes(recipe_file, most=MOST_YAML_BYTES).decode("utf-8", "replace")
    problems: list[str] = []
    recipe = _recipe(recipe_text, problems)
    task = task_here(folder, str(recipe.get("task") or default_task()))
    return RunFiles(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        environment=_mapping(folder / "environment.json", task, problems),
        data=_mapping(folder / "data.json", task, problems),
        model=_mapping(folder / "model.json", task, problems),
        evaluation=_mapping(folder / "evaluation.json", task, problems),
        status=_mapping(folder / "status.json", task, problems),
        samples=_mapping(folder / "samples" / "samples.json", task, problems),
        analysis=_mapping(folder / "analysis.json", task, problems),
        metrics=read_metrics(folder / "metrics.csv"),
        problems=tuple(problems),
    )


def _recipe(text: str, problems: list[str]) -> dict[str, Any]:
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        value = None
    if isinstance(value, dict):
        return value
    problems.append("recipe.yaml cannot be read: it is not a YAML mapping")
    return {}


def _mapping(path: Path, task: str, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content, left_out = fitting(path.name, read_json_object(path), task)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    problems += left_out
    return content


def read_metrics(path: Path) -> Metrics:
    """Read metrics.csv by column.

    A last line that a running training has only half written is passed over.
    """
    if not path.is_file():
        return {}
    with open_text(path, newline="", errors="replace") as file:
        rows = []
        with contextlib.suppress(csv.Error):
            for row in csv.reader(line.replace("\0", "") for line in file):
                rows.append(row)  # what was read before an error is kept
    if not rows:
        return {}
    header, body = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    return {name: [_number(row[column]) for row in body] for column, name in enumerate(header)}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def files_beside(run: RunFiles, names: Iterable[str]) -> list[str]:
    """Return those of `names` (relative paths) that exist in the run folder."""
    return [name for name in names if (run.folder / name).is_file()]

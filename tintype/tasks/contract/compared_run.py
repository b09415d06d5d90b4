"""The runs of a comparison: opened, checked to be finished and of one task, and given names that
differ.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.data.identity import Identities
from tintype.data.source import group_numbers
from tintype.data.split import SPLITS
from tintype.errors import UserError
from tintype.plugins import task_title
from tintype.runs.folder import (
    FOLDS_FILE,
    PHOTOS_FILE,
    RunFolder,
    called,
    estimated_by,
    without_test,
)
from tintype.tasks.contract.compare import compare_part, listed


@dataclass
class Compared:
    """A finished run with what its plain files say; each is read when it is asked for."""

    name: str
    folder: RunFolder
    recipe: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]
    environment: dict[str, Any]
    evaluation: dict[str, Any]
    split: str
    latency: dict[str, float] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task of the run."""
        return self.evaluation["task"]

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the split that is compared."""
        return self.evaluation["splits"][self.split]

    @cached_property
    def table(self) -> dict[str, list[str]]:
        """The columns of predictions.csv, of the split that is compared.

        Rows are in the order of the images' names.

        Raises:
            UserError: the file is missing, or does not hold every image of the split.
        """
        path = self.folder.path / "predictions.csv"
        again = f"Leave {self.name} out, or train it again."
        if not path.is_file():
            raise UserError(f"{self.name} has no predictions: {path} is missing. {again}")

        try:
            with path.open(encoding="utf-8", newline="") as lines:
                reader = csv.reader(lines)
                header = next(reader, [])
                rows = [
                    row
                    for row in reader
                    if row and row[0] == self.split and len(row) == len(header)
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} is broken ({error}). {again}") from None

        if "name" not in header or len(rows) != self.figures.get("num_images"):
            raise UserError(
                f"{path} holds {len(rows):,} predictions of the {self.split} split; "
                f"evaluation.json tells of {self.figures.get('num_images')}. {again}"
            )
        rows.sort(key=lambda row: row[header.index("name")])
        columns = {column: [row[i] for row in rows] for i, column in enumerate(header)}
        part = compare_part(self.task)
        missing = [column for column in part.COLUMNS if column not in columns]
        if missing:
            raise UserError(f"{path} is broken (it has no column {missing[0]}). {again}")

        for column in columns.keys() & set(part.NUMBERS):
            try:
                list(map(float, columns[column]))
            except ValueError as error:
                raise UserError(f"{path} is broken (column {column}: {error}). {again}") from None

        return columns

    @cached_property
    def photos(self) -> list[bytes]:
        """The digest of the pixels of each image in `table`; empty where the run kept none."""
        kept = Identities.load(self.folder.path / PHOTOS_FILE)
        if kept is None or "position" not in self.table:
            return []
        digests = kept.digests  # training's, then validation's, which all are in folds
        if self.split in SPLITS:
            digests = digests[kept.splits == SPLITS.index(self.split)]
        if len(digests) != len(self.table["position"]):
            return []
        return [digests[int(position)].tobytes() for position in self.table["position"]]

    def folds(self) -> NDArray[np.int64] | None:
        """Return the fold (N,) of each image in `table`; None where there are none, or not all."""
        rows = self.folder.read_table(FOLDS_FILE) if self.split == "folds" else []
        fold_of = {row.get("name"): row.get("fold", "") for row in rows}
        found = [fold_of.get(name) or "" for name in self.table["name"]]
        if not found or not all(each.isdecimal() for each in found):
            return None
        return np.array(found, np.int64)

    def reorder(self, order: Sequence[int]) -> None:
        """Put the images of `table` into another order."""
        photos = self.photos
        self.table = {column: [rows[i] for i in order] for column, rows in self.table.items()}
        self.photos = [photos[i] for i in order] if photos else []

    @cached_property
    def members(self) -> str:
        """A hash of which image belongs to which split."""
        path = self.folder.path / "splits.csv"
        return hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else ""

    @property
    def where(self) -> tuple[Any, ...]:
        """Where the images came from."""
        return self.recipe.get("data"), self.recipe.get("data_root")

    @property
    def input_format(self) -> tuple[Any, ...]:
        """How the network sees an image: its shape, and how it was brought there."""
        how = self.model.get("preprocessing", {})
        return tuple(
            how.get(key)
            for key in ("channels", "height", "width", "resize", "crop_fraction", "interpolation")
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What every row of a table begins with."""
        return {
            "name": self.name,
            "run": str(self.folder.path),
            "data": self.data.get("name"),
            "model": (self.model.get("architecture") or {}).get("name"),
            "parameters": self.model.get("parameters_merged") or self.model.get("parameters"),
            "multiply_adds": self.model.get("multiply_adds"),
            "training_seconds": self.environment.get("training_seconds"),
        }


def open_all(
    runs: Sequence[str | Path | RunFolder], names: Sequence[str] | None, split: str
) -> list[Compared]:
    """Open the runs of a comparison, by validation where no data of theirs had a test part.

    Raises:
        UserError: fewer than two, one twice, equal names, different tasks, or a run that is not
            finished.
    """
    if split not in ("test", "val", "folds"):
        raise UserError(f"unknown split '{split}'. Expected test, val or folds.")
    folders = [run if isinstance(run, RunFolder) else RunFolder.open(run) for run in runs]
    paths = [folder.path.resolve() for folder in folders]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"{folders[number].path} is named twice. Name each run once.")

    if len(folders) < 2:
        raise UserError("a comparison needs two runs or more. Type: tintype compare RUN RUN")
    chosen = _given_names(names, len(folders)) if names is not None else _short_names(paths)
    if split == "test" and all(_has(folder, "folds") for folder in folders):
        split = "folds"
    elif split == "test" and all(_has_no_test(folder) for folder in folders):
        split = "val"

    opened = [_open(folder, name, split) for folder, name in zip(folders, chosen, strict=True)]
    tasks = {run.task: run for run in opened}
    if len(tasks) > 1:
        each = [f"{run.name} is {task_title(task).lower()}" for task, run in tasks.items()]
        raise UserError(
            f"runs of different tasks cannot be compared: {', '.join(each)}. Name runs of one task."
        )

    return opened


def _has_no_test(folder: RunFolder) -> bool:
    return (folder.path / "evaluation.json").exists() and without_test(
        folder.read("evaluation.json")
    )


def _has(folder: RunFolder, split: str) -> bool:
    measured = (folder.path / "evaluation.json").exists()
    return measured and split in folder.read("evaluation.json").get("splits", {})


def _open(folder: RunFolder, name: str, split: str) -> Compared:
    _check_finished(folder)
    evaluation = folder.read("evaluation.json", complete=True)
    if not isinstance(evaluation, dict) or split not in evaluation.get("splits", {}):
        other = "val" if split == "test" else "test"
        hint = f"Compare by --split {other}, or leave it out."
        if evaluation.get("folds"):
            hint = f"It is {estimated_by(evaluation['folds']['count'])}: compare runs with folds."
        raise UserError(f"{folder.path} has not been measured on the {split} split. {hint}")

    recipe = folder.recipe.model_dump(mode="json")
    evaluation.setdefault("task", recipe["task"])
    data, model, environment = (
        folder.read(file) for file in ("data.json", "model.json", "environment.json")
    )

    return Compared(name, folder, recipe, data, model, environment, evaluation, split)


def _check_finished(folder: RunFolder) -> None:
    """Refuse a run that has no figures yet, or whose figures are about to change."""
    status = folder.status
    state, path = status.get("state"), folder.path
    if state == "finished" or (state is None and (path / "evaluation.json").exists()):
        return

    step, total = status.get("step") or 0, status.get("total_steps")
    reached = f" (step {step:,} of {total:,})" if total else ""
    resume = f"tintype train --resume {path}"

    if state == "running":
        try:
            with folder.locked():
                pass
        # held by a trainer, or a folder in which nothing may be written
        except (UserError, OSError):
            raise UserError(
                f"{path} is still training{reached}. Wait for it, or leave it out."
            ) from None
        raise UserError(
            f"{path} was ended from outside{reached}. Leave it out, or go on with it: {resume}"
        )

    if state == "failed":
        raise UserError(
            f"{path} failed{reached}. Leave it out. To see again what went wrong: {resume}"
        )
    raise UserError(f"{path} is not finished{reached}. Leave it out, or go on with it: {resume}")


def _given_names(names: Sequence[str], count: int) -> list[str]:
    if len(names) != count:
        raise UserError(f"{len(names)} names were given for {count} runs. Give one for each.")
    for number, name in enumerate(names):
        if not name.strip():
            raise UserError(
                "a name of a run is empty. Give one for each, such as: --names small,large"
            )
        if name in names[:number]:
            raise UserError(f"the name '{name}' was given twice. Give each run a name of its own.")
    return list(names)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, and as many parts before it as it takes to tell them
    apart.
    """
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def groups_of(runs: Sequence[Compared]) -> NDArray[np.int64] | None:
    """Return a number (N,) for each image, equal for those that belong together.

    It is None where no run knows of groups. Runs of earlier versions have no groups in their
    predictions; the images are the same ones, so one run that has them will do.
    """
    for run in runs:
        if "group" in run.table:
            names = run.table["name"]
            return group_numbers(names, dict(zip(names, run.table["group"], strict=True)))
    return None


def remark_on_folds(runs: Sequence[Compared], figure: str, test: str) -> list[str]:
    """Return what runs that folds have measured are compared by; nothing of others.

    Args:
        runs: of one group.
        figure: what they are ranked by.
        test: the paired test on the images.
    """
    if runs[0].split != "folds":
        return []
    counts = {called(run.evaluation, figure): run.name for run in runs}
    said = (
        "; ".join(counts)
        if len(counts) == 1
        else listed([f"{name}: {text}" for text, name in counts.items()])
    )
    lines = [
        f"{said[:1].upper()}{said[1:]}: each image was answered by a model that was trained "
        "without it, and the final models have no test figures of their own."
    ]
    folds = [run.folds() for run in runs]
    if all(each is not None and (each == folds[0]).all() for each in folds):
        return [
            *lines,
            f"A difference is called significant only if {test} on the images and the corrected "
            "resampled t-test over the folds (Nadeau and Bengio 2003) both say so.",
        ]
    return [
        *lines,
        "The folds of these runs are not the same, so that differences are paired image by image "
        "alone: what comes from other training images counts as a difference of the runs.",
    ]


def remark_on_groups(groups: NDArray[np.int64] | None, what: str) -> list[str]:
    """Return a sentence where the images (or `what` they are) come in groups."""
    if groups is None:
        return []
    return [
        f"The {what} come in {int(groups.max()) + 1:,} groups of what belongs together: "
        "intervals and tests of the differences are by group."
    ]

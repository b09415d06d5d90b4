"""What a task offers to `tintype evaluate`: what it opens to measure a finished run again, and how.

`tasks/NAME/measure.py` holds a subclass of `Measurement` by the name of `Measure`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from tintype.data.source import DataSplits, ImageSource
from tintype.errors import UserError
from tintype.progress import Progress
from tintype.runs.folder import RunFolder
from tintype.tasks.by_column import by_column
from tintype.tasks.contract.evaluation import Evaluation
from tintype.tasks.contract.own_data import open_divided
from tintype.tasks.task import Task

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class MeasureOptions:
    """What the user asked for.

    Attributes:
        data: other images than the run's own; None for those.
        split: "train", "val" or "test"; None for the usual one, or for all images of `data`.
        groups: which images of `data` belong together, see tintype.grouping.
        classes: also measure each class by itself.
        features: the network by which images are compared.
        inception_weights: a weight file of Inception, for FID.
        progress: called as progress(what, done, total).
    """

    data: str | None = None
    split: str | None = None
    groups: str | None = None
    classes: bool = False
    features: str | None = None
    inception_weights: str | None = None
    progress: Progress | None = None

    def measuring(self, done: int, total: int) -> None:
        """Report how many images were measured."""
        if self.progress is not None:
            self.progress("measuring", done, total)


@dataclass(frozen=True)
class Measured:
    """What was found: figures, remarks for the user, and the images where remarks on them apply.

    Attributes:
        data: the name of the data set.
        figures: figures, and whatever else belongs into the answer (JSON-ready).
        remarks: lines to print below the figures.
        source: images that may be unlike the training images; None where that says nothing.
    """

    data: str
    figures: dict[str, Any]
    remarks: Sequence[str] = ()
    source: ImageSource | None = field(default=None, repr=False)


class Measurement(ABC, Generic[T]):
    """How the model of a finished run is measured again.

    Attributes:
        reads: the options "classes", "features" and "inception_weights" that the task reads.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, run: RunFolder, task: Task, description: Mapping[str, Any], options: MeasureOptions
    ) -> None:
        self.run = run
        self.task = cast(T, task)  # of the class in the same folder
        self.description = description
        self.options = options

    def check(self) -> None:
        """Refuse options that the task does not read.

        Raises:
            UserError: one of them was given.
        """
        name = self.run.recipe.task
        if self.options.classes and "classes" not in self.reads:
            raise UserError(
                f"{self.run.path} is a run of task {name}, which has no classes to report on. "
                "Leave --classes out."
            )

        unread = {"features", "inception_weights"} - {*self.reads}
        if any(getattr(self.options, option) for option in unread):
            raise UserError(
                "features and Inception weights measure pictures that a model makes, and "
                f"{self.run.path} makes none."
            )

    def open_own(self) -> DataSplits:
        """Open the images of the run, divided as they were in training.

        Raises:
            UserError: they are not there.
        """
        return open_divided(self.run, self.description)

    def own(self, splits: DataSplits, split: str) -> dict[str, Any]:
        """Return the figures on a split of the run's own images.

        Raises:
            UserError: it cannot be measured as was asked for.
        """
        evaluation = self.measured(splits, split)
        return evaluation.figures | self.by_column(evaluation, splits, split)

    def measured(self, splits: DataSplits, split: str) -> Evaluation:
        """Measure the network on a split of the run's own images."""
        self.task.groups = splits.groups
        network = self.task.networks[self.task.main]
        return self.task.evaluate(network, splits[split], self.options.measuring)

    def by_column(self, evaluation: Evaluation, splits: DataSplits, split: str) -> dict[str, Any]:
        """Return the figures of a split by the columns that the data brings, if there are some."""
        name = self.run.recipe.task
        found = by_column(self.task, name, evaluation, splits[split].names, splits.columns)
        return {"by_column": found} if found else {}

    def other(self, data: str) -> Measured:
        """Return what is found on other images.

        Raises:
            UserError: the images are not there or do not fit the model, or the task measures none
                but the run's own.
        """
        raise UserError(
            f"runs of task {self.run.recipe.task} cannot be "
            "measured on other data. Leave --data out."
        )

    @staticmethod
    def table(figures: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Return header and rows of the file that `--csv` writes.

        Raises:
            UserError: the task has no such table.
        """
        del figures
        raise UserError("there is no table of classes to write. Leave --csv out.")


class MeasurePart(Protocol):
    """What `tasks/NAME/measure.py` holds."""

    Measure: type[Measurement[Any]]

"""What `tintype predict` says by a task of the user's own: the columns of its `answer_columns`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.interface.cards import card
from tintype.own_code import called, running
from tintype.runs.folder import RunFolder
from tintype.tasks.contract.predict import AnswerOptions, Picture, Predictor, Row, Rows
from tintype.tasks.restoring import load_task
from tintype.tasks.task import Task

Value = float | str

# Numbers may differ by this part where the same model computes in other batches.
SAME = 1e-3


@dataclass(frozen=True)
class OwnAnswer:
    """What a model of a task of the user's own says of one image.

    For an image that could not be read, `error` says why, and `values` is empty.
    """

    name: str
    values: Mapping[str, Value]
    unlike: str = ""  # why the image is unlike the training images
    error: str = ""
    # (H, W, C) uint8, a small copy of what the network saw; None where many were asked about
    thumbnail: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return for example `OwnAnswer('seven.png': psnr 21.3)`."""
        return f"OwnAnswer({self.name!r}: {self.error or _sentence(self.values)})"

    def to_row(self) -> dict[str, Value]:
        """Return the answer as a row: name, the values, unlike and error."""
        return {"name": self.name, **self.values, "unlike": self.unlike, "error": self.error}

    def _repr_html_(self) -> str:
        unlike = f"unlike the training images: {self.unlike}" if self.unlike else ""
        return card(self.name, self.thumbnail, lines=(self.error or _sentence(self.values), unlike))


class OwnRows(Rows):
    """Rows with a column for each of the answers.

    Args:
        columns: their names and types.
    """

    def __init__(self, columns: Mapping[str, type]) -> None:
        self.columns = columns

    def row(self, prediction: OwnAnswer) -> Row:
        return dict(prediction.values)

    def line(self, row: Row) -> str:
        return _sentence({name: row[name] for name in self.columns})

    def check(self, row: Row) -> None:
        for name, kind in self.columns.items():
            try:
                kind(row[name])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"the answer to {row['file']} has no {name}") from None

    def difference(self, row: Row, prediction: OwnAnswer) -> tuple[str, str] | None:
        before = {name: kind(row[name]) for name, kind in self.columns.items()}
        if all(map(_is_same, before.values(), prediction.values.values())):
            return None
        return _sentence(before), _sentence(prediction.values)


class OwnPredictor(Predictor):
    """A model of a task of the user's own, ready to answer."""

    def __init__(
        self, task: Task, name: str, about: Mapping[str, Any], batch_size: int = 64
    ) -> None:
        super().__init__(about["preprocessing"], batch_size, Typical.of(about.get("typical")))
        self.task, self.name = task, name

    @classmethod
    def of(cls, run: RunFolder, *, device: str = "auto") -> OwnPredictor:
        """Load the model of a run.

        Raises:
            UserError: the run has no finished model, its task is not trusted here, or the device is
                not there.
        """
        task, description = load_task(run, device)
        return cls(task, called(run.recipe.task), description)

    def answer(self, names: Sequence[str], pictures: Sequence[Picture]) -> list[OwnAnswer]:
        """Return an OwnAnswer for each prepared picture."""
        columns = self._columns(np.stack([picture.pixels for picture in pictures]))
        rows = zip(*columns.values(), strict=True) if columns else ((),) * len(names)
        return [
            OwnAnswer(name, dict(zip(columns, row, strict=True)), why)
            for name, row, why in zip(names, rows, self.unlike(pictures), strict=True)
        ]

    def unanswered(self, name: str, error: str) -> OwnAnswer:
        return OwnAnswer(name, {}, error=error)

    def rows(self, options: AnswerOptions) -> OwnRows:
        if options.accuracy is not None or options.top > 1:
            raise UserError(
                f"the task {self.name} gives one answer for each photo, and says no confidence. "
                "Leave --abstain and --top out."
            )
        blank = np.zeros((1, self.height, self.width, self.channels), np.uint8)
        return OwnRows({name: type(values[0]) for name, values in self._columns(blank).items()})

    def _columns(self, pixels: np.ndarray) -> dict[str, list[Value]]:
        """Return the answers to prepared pictures (N, H, W, C) uint8, each column as a list.

        Raises:
            UserError: the task does not answer, or not with numbers or texts for each image.
            OwnCodeError: it fails.
        """
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        whose = f"the answers of the task {self.name}"
        with torch.no_grad(), running(whose):
            given = self.task.answer_columns(images)
            columns = {str(name): _as_list(values) for name, values in given.items()}

        for name, values in columns.items():
            if len(values) != len(pixels) or not all(isinstance(v, float | str) for v in values):
                raise UserError(
                    f"{whose} hold no number or text for each image in {name}. Expected a mapping "
                    f"of names to {len(pixels)} values, for {len(pixels)} images."
                )
        return columns


def _as_list(values: Any) -> list[Any]:
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    return [
        float(value) if isinstance(value, int | np.number | Tensor) else value for value in values
    ]


def _is_same(before: Value, now: Value) -> bool:
    if isinstance(before, str) or isinstance(now, str):
        return before == now
    return math.isclose(before, now, rel_tol=SAME, abs_tol=SAME)


def _sentence(values: Mapping[str, Value | None]) -> str:
    """Return answers as a line: "psnr 21.3, grade good"."""
    said = (f"{v:.4g}" if isinstance(v, float) else v for v in values.values())
    return ", ".join(f"{name} {value}" for name, value in zip(values, said, strict=True))

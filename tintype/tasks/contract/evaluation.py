"""What was measured: the figures of some images, and which images those are."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Kind(StrEnum):
    """How images were set apart for an evaluation."""

    SPLIT = "split"
    """A whole split of the run: "train", "val" or "test"."""
    PART = "part"
    """A part of a split, such as the half of validation that calibrates."""
    OUT_OF_FOLD = "out-of-fold"
    """A split whose images are each answered by what was fitted or chosen without them."""
    FOLDS = "folds"
    """Every image of the run, each answered by a model that was trained without its fold: an
    estimate for the model that was then trained on all of them."""
    FOREIGN = "foreign"
    """Images that are none of the run's."""


@dataclass(frozen=True)
class EvaluatedSet:
    """Which images an evaluation is of: a kind, and a name that is unique within it."""

    kind: Kind
    name: str


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on some images.

    `figures` are plain (JSON-ready), `details` are arrays for a closer look. `of` names the images,
    where whoever measured them has said it.
    """

    figures: dict[str, Any]
    details: dict[str, np.ndarray] = field(default_factory=dict)
    of: EvaluatedSet | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the list `evaluations` of evaluation.json holds.

        The figures of whole splits stand there under `splits`, as they always have, and so do those
        of folds.

        Raises:
            ValueError: nobody has said which images were measured.
        """
        if self.of is None:
            raise ValueError("expected an evaluation that names its images")
        named = {"kind": self.of.kind.value, "name": self.of.name}
        if self.of.kind in (Kind.SPLIT, Kind.FOLDS):
            return named
        return {**named, "figures": self.figures}

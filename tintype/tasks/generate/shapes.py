"""What the JSON files of a generator hold besides what every run has."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, model_validator

from tintype.runs.shapes import (
    Count,
    Number,
    Shape,
    Share,
    SplitName,
    short_repr,
)

PREFIXES = ("fd_", "fid", "kid_", "precision_", "recall_")  # of figures that must be numbers


class _Model(Shape):
    features: Any
    num_samples: Any


class _Figures(Shape):
    num_generated: Count | None = None
    class_shares: dict[str, Share] | None = None

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name.startswith(PREFIXES) and not is_number:
                raise ValueError(f"{name}: expected a number, found {short_repr(value)}")
        return self


class _Evaluation(Shape):
    splits: dict[SplitName, _Figures]
    nearest: dict[str, Number | None] | None = None


SHAPES: dict[str, type[BaseModel]] = {"model.json": _Model, "evaluation.json": _Evaluation}

"""Classifiers are ranked by accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.runs.ranking import Criterion

ACCURACY = Criterion("accuracy", "accuracy", "points", scale=100.0, digits=1)
LOSS = Criterion("loss", "log loss", higher_is_better=False)

FURTHER = (LOSS,)
COUNTED = True


def ranked_by(figures: Mapping[str, Any]) -> Criterion:
    """Return the accuracy."""
    return ACCURACY


def image_figure(row: Mapping[str, str]) -> float | None:
    """Return 1 where the prediction is right, else 0."""
    return float(row["prediction"] == row["target"])

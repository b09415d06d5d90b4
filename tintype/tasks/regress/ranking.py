"""Regressions are ranked by their mean absolute error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tintype.runs.ranking import Criterion

MAE = Criterion("mae", "MAE", higher_is_better=False)
# Numbers of different units have no mean error, but what is left of that of the mean has.
RELATIVE = Criterion("relative_mae", "relative MAE", higher_is_better=False)
R2 = Criterion("r2", "R²", digits=3)

FURTHER = (R2,)
COUNTED = False


def ranked_by(figures: Mapping[str, Any]) -> Criterion:
    """Return the MAE; of several numbers, in parts of what their mean would leave."""
    return MAE if "mae" in figures and "per_column" not in figures else RELATIVE


def image_figure(row: Mapping[str, str]) -> float | None:
    """Return the absolute error of one image; None where it has several numbers."""
    if "prediction" not in row:
        return None
    return abs(float(row["prediction"]) - float(row["target"]))

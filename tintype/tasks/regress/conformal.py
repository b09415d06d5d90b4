"""Predictive intervals by split conformal prediction with normalised residuals.

An interval is prediction +- q * scale: the network says the scale of its error for each photo, and
q is the finite-sample quantile of |residual| / scale on images that training and selection did not
see. A new photo from the same source lies in it with the promised probability, whatever the network
(Papadopoulos et al., 2002; Lei et al., "Distribution-free predictive inference for regression",
JASA 113, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.statistics import clustered_interval

Floats = NDArray[np.float64]


def fewest_for(level: float) -> int:
    """Return how many calibration images an interval of this level needs."""
    return math.ceil(level / (1 - level) - 1e-9)


def conformal_quantile(
    scores: Floats, level: float, groups: NDArray[np.int64] | None = None
) -> float | None:
    """Return the ceil((n + 1) level)-th smallest score, or None where n is too small for it.

    Images in groups are not exchangeable with one another, groups are: then n counts groups, and
    the images of a group share its weight (Dunn, Wasserman & Ramdas, JASA 118, 2023).

    Args:
        scores: (N,) |residual| / scale.
        level: the wanted coverage, such as 0.9.
        groups: (N,) numbers, or None.
    """
    order = np.argsort(scores, kind="stable")
    if groups is None:
        weights = np.ones(len(scores))
        n = len(scores)
    else:
        _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1 / sizes[numbers]
        n = len(sizes)

    # without the rounding, 10 * 0.9 would ask for the tenth of nine scores
    needed = math.ceil(round((n + 1) * level, 9))
    if needed > n:
        return None
    reached = np.cumsum(weights[order])
    position = int(np.searchsorted(reached, needed - 1e-9))
    return float(scores[order[min(position, len(scores) - 1)]])


def calibrate(
    predictions: Floats,
    scales: Floats,
    targets: Floats,
    level: float,
    groups: NDArray[np.int64] | None = None,
) -> list[float | None]:
    """Return q for each column, from calibration images; all arrays are (N, K)."""
    scores = abs(predictions - targets) / scales
    return [conformal_quantile(column, level, groups) for column in scores.T]


def interval_ends(
    predictions: Floats, scales: Floats, quantiles: Sequence[float | None]
) -> tuple[Floats, Floats]:
    """Return the lower and upper ends (N, K); infinite in a column without a quantile."""
    q = np.array([math.inf if value is None else value for value in quantiles])
    half = scales * q
    return predictions - half, predictions + half


def interval_figures(
    low: Floats, high: Floats, targets: Floats, groups: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Return how often intervals hold the target, and how wide they are, of one column (N,)."""
    inside = (low <= targets) & (targets <= high)
    width = high - low
    alone = np.arange(len(inside)) if groups is None else groups

    return {
        "coverage": float(inside.mean()),
        "coverage_ci95": list(clustered_interval(inside, alone)),
        "mean_width": float(width.mean()),
        "width_deciles": [float(value) for value in np.quantile(width, [0.1, 0.5, 0.9])],
    }

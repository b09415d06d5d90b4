"""Figures of regression, with bootstrap intervals, and the verdict on a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.statistics import bootstrap_counts, percentile_interval, rank_correlation

RESAMPLES = 2000

Floats = NDArray[np.float64]

# A fit is too weak where training leaves more than this part of what the mean leaves, and too close
# where validation leaves this much more than training (parts of the mean's error).
MOST_LEFT = 0.5
MOST_GAP = 0.05


def regression_figures(
    predictions: Floats,
    targets: Floats,
    columns: Sequence[str],
    baseline: Floats,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Return the figures of one split, in the unit of the targets, with 95 % intervals.

    Of several columns, `mae`, `rmse`, `r2` and `spearman` are means over the columns, as
    scikit-learn averages them; `per_column` holds each. `relative_mae` is the part that is left of
    the error of `baseline`, which has no unit.

    Args:
        predictions: (N, K).
        targets: (N, K).
        columns: K names.
        baseline: (K,) the mean of the training targets, which is the answer to beat.
        groups: (N,) numbers from 0 on; whole groups are drawn by the bootstrap.
    """
    drawn = replicates(predictions, targets, baseline, groups)
    exact = _figures(_sums(predictions, targets, baseline)[None])

    rank = [rank_correlation(predictions[:, k], targets[:, k])[0] for k in range(len(columns))]
    bias = (predictions - targets).mean(0)
    each = [
        {
            "column": column,
            **{name: float(values[0, k]) for name, values in exact.items()},
            **{f"{name}_ci95": _interval(values[:, k]) for name, values in drawn.items()},
            "spearman": float(rank[k]),
            "bias": float(bias[k]),
        }
        for k, column in enumerate(columns)
    ]

    figures: dict[str, Any] = {"num_images": len(targets)}
    if groups is not None:
        figures["num_groups"] = int(groups.max()) + 1
    for name in exact:
        figures[name] = float(exact[name][0].mean())
        figures[f"{name}_ci95"] = _interval(drawn[name].mean(1))
    figures["spearman"] = float(np.mean(rank))
    if len(columns) > 1:
        figures["per_column"] = each
    else:
        figures["bias"] = each[0]["bias"]
    return figures


def replicates(
    predictions: Floats,
    targets: Floats,
    baseline: Floats,
    groups: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """Return each figure of each column (R, K) on draws of the images, or of whole groups.

    Two models that are measured on the same images meet the same draws under the same seed.
    """
    parts = _sums_by_image(predictions, targets, baseline)  # (N, S, K)
    if groups is not None:
        summed = np.zeros((int(groups.max()) + 1, *parts.shape[1:]))
        np.add.at(summed, groups, parts)
        parts = summed

    flat = parts.reshape(len(parts), -1)
    blocks = [
        _figures((counts @ flat).reshape(len(counts), *parts.shape[1:]))
        for counts in bootstrap_counts(len(flat), resamples, seed)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _sums_by_image(predictions: Floats, targets: Floats, baseline: Floats) -> Floats:
    """Return what all figures are made of, one row for each image: (N, 6, K)."""
    error = predictions - targets
    # about the baseline, so that squares of large numbers do not cancel
    centred = targets - baseline
    parts = [np.ones_like(error), abs(error), error**2, centred, centred**2, abs(centred)]
    return np.stack(parts, axis=1)


def _sums(predictions: Floats, targets: Floats, baseline: Floats) -> Floats:
    return _sums_by_image(predictions, targets, baseline).sum(0)


def _figures(sums: Floats) -> dict[str, Floats]:
    """Return the figures (R, K) of sums (R, 6, K)."""
    count, absolute, squared, total, total_squared, baseline = np.moveaxis(sums, 1, 0)
    spread = total_squared - total**2 / count

    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1 - squared / spread
        left = absolute / baseline
    # Targets that are all alike leave nothing to explain; scikit-learn answers 1 or 0 there.
    flat = spread <= 1e-12 * np.maximum(total_squared, 1e-300)
    explained = np.where(flat, np.where(squared == 0, 1.0, 0.0), explained)
    left = np.where(baseline > 0, left, np.where(absolute == 0, 0.0, 1.0))

    return {
        "mae": absolute / count,
        "rmse": np.sqrt(squared / count),
        "r2": explained,
        "baseline_mae": baseline / count,
        "relative_mae": left,
    }


def _interval(values: Floats) -> list[float]:
    return list(percentile_interval(values))


def fit_verdict(
    train: dict[str, Any], val: dict[str, Any], gap: tuple[float, float]
) -> dict[str, str]:
    """Return how the fit is to be called ("underfits", "overfits", "fits"), and a sentence.

    Args:
        train: figures of clean training images.
        val: figures of validation images.
        gap: 95 % interval of the validation less the training `relative_mae`.
    """
    error = val["mae"]
    floor = val["baseline_mae"]
    better = 1 - val["relative_mae"]
    beaten = (
        f"{better:.0%} less than by always saying the mean ({in_digits(floor)})"
        if better >= 0
        else f"more than by always saying the mean ({in_digits(floor)})"
    )
    reached = f"on validation it is off by {in_digits(error)} on average, {beaten}"

    if val["relative_mae_ci95"][1] >= 1:
        text = f"Not shown to be better than the mean of the training numbers: {reached}."
        return {"word": "underfits", "text": text}
    if train["relative_mae_ci95"][0] > MOST_LEFT:
        left = train["relative_mae"]
        text = f"Even on training images {left:.0%} of the error of the mean is left; {reached}."
        return {"word": "underfits", "text": text}
    if gap[0] > MOST_GAP:
        text = (
            f"Off by {in_digits(train['mae'])} on average on training images and by "
            f"{in_digits(error)} on validation; {reached}."
        )
        return {"word": "overfits", "text": text}

    return {"word": "fits", "text": f"{reached[:1].upper()}{reached[1:]}, much as on training."}


def in_digits(value: float) -> str:
    """Return a number in three significant digits, without an exponent where it is readable."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    size = int(np.floor(np.log10(abs(value))))
    if not -4 <= size < 7:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - size)}f}"

"""What a finished regression writes down: figures, intervals, verdict, predictions, samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tintype.data.source import ImageSource
from tintype.statistics import percentile_interval
from tintype.tasks.regress import conformal, metrics
from tintype.tasks.regress.answers import answer_columns
from tintype.tasks.task import Evaluation, Summary

if TYPE_CHECKING:
    from tintype.tasks.regress.regressor import Regress

GRID = 36  # pictures
WORST = 24
WORDS = {"train": "training", "val": "validation", "test": "test"}


def summarise(
    task: Regress, evaluations: dict[str, Evaluation], sources: Mapping[str, ImageSource]
) -> Summary:
    """Calibrate the intervals of `task` on validation, and return what is written down.

    Without a test part the intervals are kept, but no coverage is: validation made them, or all
    images out of their folds.
    """
    unseen = "folds" if "folds" in evaluations else "val"
    given = _calibrating(task, evaluations)
    task.quantiles = conformal.calibrate(
        given["predictions"], given["scales"], given["targets"], task.level, given.get("groups")
    )

    evaluation: dict[str, Any] = {
        "task": "regress",
        "columns": task.columns,
        "splits": {split: each.figures for split, each in evaluations.items()},
        "intervals": _intervals(task, evaluations),
        "verdict": _verdict(evaluations["train"], evaluations[unseen], np.array(task.mean)),
        "warnings": [
            _without_leaks(task, split, each)
            for split, each in evaluations.items()
            if split in task.leaked
        ],
    }

    measured = ["folds"] if unseen == "folds" else ["val", "test"]
    measured = [split for split in measured if split in evaluations]
    rows = [
        row for split in measured for row in _rows(task, split, evaluations[split], sources[split])
    ]
    header = ["split", "position", "name", *answer_columns(task.columns)]
    if any("groups" in evaluations[split].details for split in measured):
        header.append("group")
        rows = [[*row, task.groups.get(row[2], "")] for row in rows]

    shown = next((split for split in ("test", "folds") if split in evaluations), None)
    samples = {} if shown is None else _samples(task, evaluations[shown], sources[shown])
    return Summary(evaluation, (header, rows), samples)


def _rows(
    task: Regress, split: str, evaluation: Evaluation, source: ImageSource
) -> list[list[Any]]:
    details = evaluation.details
    low, high = task.ends(details["predictions"], details["scales"])
    # (N, K, 4), in the order of `answer_columns`
    values = np.stack([details["targets"], details["predictions"], low, high], axis=2)
    return [
        [split, position, source.names[position], *map(written, row.ravel())]
        for position, row in enumerate(values)
    ]


def written(value: float) -> str:
    """Return a number as a table holds it: six significant digits, nothing for an infinite one."""
    return f"{value:.6g}" if np.isfinite(value) else ""


def _intervals(task: Regress, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return level and quantiles of the intervals, and how they fare on test images."""
    calibrating = _calibrating(task, evaluations)
    groups = calibrating.get("groups")
    found: dict[str, Any] = {
        "level": task.level,
        "quantiles": task.quantiles,
        "num_calibrated": len(calibrating["targets"]),
        "num_needed": conformal.fewest_for(task.level),
    }
    if groups is not None:
        found["num_groups"] = len(np.unique(groups))
    if "test" in evaluations:
        found["test"] = task.coverage(evaluations["test"].details)
    return found


def _calibrating(task: Regress, evaluations: Mapping[str, Evaluation]) -> Mapping[str, np.ndarray]:
    """Return the answers that calibrate: to images out of their folds, or to the validation images
    that chose no weights.
    """
    if "folds" in evaluations:
        return evaluations["folds"].details
    details, part = evaluations["val"].details, task.validation.calibrating
    if part is None:
        return details
    return {name: values[part] for name, values in details.items()}


def _verdict(train: Evaluation, val: Evaluation, baseline: np.ndarray) -> dict[str, str]:
    drawn = [
        metrics.replicates(
            each.details["predictions"],
            each.details["targets"],
            baseline,
            each.details.get("groups"),
            seed=seed,
        )["relative_mae"].mean(1)
        for seed, each in enumerate((train, val))
    ]
    gap = percentile_interval(drawn[1] - drawn[0])
    return metrics.fit_verdict(train.figures, val.figures, gap)


def _without_leaks(task: Regress, split: str, evaluation: Evaluation) -> str:
    """Add to the figures of a split those without the images that training has seen, and return a
    warning.
    """
    leaked = task.leaked[split]
    figures = evaluation.figures
    clean = np.setdiff1d(np.arange(figures["num_images"]), leaked)
    word = WORDS[split]
    warning = (
        f"{len(leaked):,} of {figures['num_images']:,} {word} images are "
        "duplicates of images that training has seen"
    )
    if not len(clean):
        return f"{warning}: the {word} figures say nothing about new images."

    details = {name: values[clean] for name, values in evaluation.details.items()}
    if "groups" in details:
        details["groups"] = np.unique(details["groups"], return_inverse=True)[1]
    rest = task.evaluation(details).figures
    figures["without_leaked"] = rest
    without, all_of_them = (metrics.in_digits(each["mae"]) for each in (rest, figures))
    return f"{warning}; the MAE on the others is {without} instead of {all_of_them}."


def _samples(
    task: Regress, evaluation: Evaluation, source: ImageSource
) -> dict[str, list[dict[str, Any]]]:
    """Choose test images to show: some in the order of their numbers, and the largest errors."""
    details = evaluation.details
    targets = details["targets"]
    predictions = details["predictions"]
    low, high = task.ends(predictions, details["scales"])
    error = (abs(predictions - targets) / np.array(task.deviation)).max(1)

    draw = np.random.default_rng(0)
    some = draw.permutation(len(targets))[:GRID]
    grid = sorted(some.tolist(), key=lambda i: tuple(targets[i]))
    worst = np.argsort(-error, kind="stable")[:WORST]

    def item(i: int) -> dict[str, Any]:
        values = {
            "targets": targets[i],
            "predictions": predictions[i],
            "low": low[i],
            "high": high[i],
        }
        return {
            "position": int(i),
            "name": str(source.names[i]),
            **{key: [_plain(each) for each in row] for key, row in values.items()},
        }

    return {"grid": [item(i) for i in grid], "worst": [item(int(i)) for i in worst]}


def _plain(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return round(float(value), 6) if np.isfinite(value) else None

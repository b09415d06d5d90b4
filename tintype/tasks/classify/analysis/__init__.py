"""A closer look at the mistakes of a classifier, once it has been measured.

It is written as analysis.json and into samples/ for the report.

The test images are looked at in order to understand the model; no choice is made on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tintype.data.source import ImageSource
from tintype.progress import Watcher
from tintype.runs.folder import RunFolder
from tintype.tasks.classify.analysis.embedding import embedding_map
from tintype.tasks.classify.analysis.examples import Answers, confused_pairs, worst_mistakes
from tintype.tasks.classify.analysis.slices import error_rates
from tintype.tasks.classify.calibration import risk_coverage
from tintype.tasks.classify.classifier import Classify
from tintype.tasks.task import Evaluation, Task

__all__ = ["analyse"]

FORMAT = 1
CURVE_POINTS = 200


def analyse(
    run: RunFolder,
    task: Task,
    sources: Mapping[str, ImageSource],
    evaluations: Mapping[str, Evaluation],
    watcher: Watcher,
) -> None:
    """Write analysis.json, its pictures, and what was fitted on validation.

    The pictures go into samples/, what was fitted into model.json.

    `sources` hold the pixels of the images that were evaluated, in the same order; `evaluations`
    are those of "train" (clean images), "val" and "test". Call it after `task.summarise`, which
    fits the temperature.
    """
    assert isinstance(task, Classify)
    answers = {
        split: Answers.of(task, evaluations[split], sources[split], split)
        for split in ("train", "test")
    }
    model = {**run.read("model.json"), **task.describe()}
    run.write("model.json", model)
    train, test = answers["train"], answers["test"]
    network = task.result()
    parts = {
        "pairs": lambda: confused_pairs(run.path / "samples", test),
        "worst": lambda: worst_mistakes(run.path / "samples", task, network, test, train),
        "slices": lambda: error_rates(test, _folders_of_images(run), task.groups),
        # A pass through the training images that takes seconds leaves time for a better map.
        "map": lambda: embedding_map(
            run.path / "samples", test, thorough=_cost(model, train) >= 1e11
        ),
        "risk_coverage": lambda: {
            split: _curve(task, evaluations[split]) for split in ("val", "test")
        },
    }

    found: dict[str, Any] = {"format": FORMAT}
    for number, (name, look) in enumerate(parts.items()):
        watcher.on_work("error analysis", number, len(parts))
        found[name] = look()

    watcher.on_work("error analysis", len(parts), len(parts))
    watcher.close()
    run.write("analysis.json", found)


def _cost(model: Mapping[str, Any], train: Answers) -> float:
    """Return the multiply-adds of one pass through the (sampled) training images.

    It is a measure of time that is the same on every machine.
    """
    return float(model["multiply_adds"]) * len(train.targets)


def _folders_of_images(run: RunFolder) -> list[Path]:
    """Return where the names of the images may begin; none where they are no files."""
    recipe = run.recipe
    data = Path(recipe.data).expanduser()
    if data.is_dir():
        return [data]
    if data.is_file():
        return [data.parent, *([Path(recipe.data_root).expanduser()] if recipe.data_root else [])]
    return []


def _curve(task: Classify, evaluation: Evaluation) -> dict[str, list[float]]:
    """Return coverage and accuracy from the surest answers on, at most 200 points.

    The confidence at each point is with them.
    """
    answers = Answers.of(task, evaluation)
    curve = risk_coverage(answers.confidence, answers.right)
    last = len(curve.threshold) - 1
    # Evenly over the images and not over the confidences, many of which are close to one.
    ends = np.searchsorted(curve.num_answered, np.linspace(1, len(answers.targets), CURVE_POINTS))
    kept = np.unique(np.minimum(ends, last))

    return {
        "coverage": (curve.num_answered[kept] / len(answers.targets)).round(5).tolist(),
        "accuracy": (curve.num_right[kept] / curve.num_answered[kept]).round(5).tolist(),
        "threshold": curve.threshold[kept].round(5).tolist(),
        "num_answered": curve.num_answered[kept].tolist(),
    }

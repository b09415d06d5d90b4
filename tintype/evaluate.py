"""Measure a finished run again: on a split of its own data, or on other images with the same classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tintype import metrics
from tintype.data import open_data
from tintype.data.cache import Progress
from tintype.data.pairs import open_pairs, open_whole
from tintype.data.source import DataSplits, ImageSource
from tintype.errors import UserError
from tintype.model import resize_of
from tintype.predict import load_task
from tintype.run import RunFolder
from tintype.tasks.classify import Classify
from tintype.tasks.generate import Generate
from tintype.tasks.task import Task
from tintype.tasks.upscale import Upscale
from tintype.training import count_test_look


def evaluate_run(
    run: RunFolder,
    *,
    data: str | None,
    split: str | None,
    device: str,
    features: str | None = None,
    inception_weights: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the figures of a run's model on a split of its own data, or on `data` (all of it, or one split).

    `features` and `inception_weights` say what a generator's images are measured by, see tintype.generation.distances; of
    super-resolution, `features` is the network under LPIPS.
    A look at the run's own test split is counted in evaluation.json.

    Raises:
        UserError: unknown split, the data is not there, has changed, or has classes that the model does not know.
    """
    if split not in (None, "train", "val", "test"):
        raise UserError(f"unknown split '{split}'. Expected val, test or train.")
    task, description = load_task(run, device)
    recipe, how = run.recipe, description["preprocessing"]
    wishes = {key: getattr(recipe, key) for key in ("val_fraction", "test_fraction", "split_seed")}
    if isinstance(task, Upscale):
        task.measure_by(features)
        if data:
            photos = open_whole(data, task.scale, split)
            figures = task.evaluate(task.networks[task.main], photos).figures
            return {"split": split or "all", "data": photos.spec.name, **figures}
        splits = open_pairs(
            recipe.data, data_root=recipe.data_root, image_size=recipe.image_size, resize=resize_of(description), **wishes,
            **{key: recipe.task_options[key] for key in ("scale", "patch") if key in recipe.task_options},
        )  # fmt: skip
    else:
        splits = open_data(
            data or recipe.data, data_root=None if data else recipe.data_root, image_size=(how["height"], how["width"]),
            channels=how["channels"], resize=resize_of(description), one_class=isinstance(task, Generate), **wishes,
        )  # fmt: skip
    if data:
        return _on_other_data(task, splits, split)
    split = split or "test"
    if splits.spec.fingerprint != run.read("data.json")["fingerprint"]:
        raise UserError(
            f"the images of {splits.spec.name} have changed since this run was trained, so its {split} split is not the same. "
            f"To measure on them all the same: tintype evaluate {run.path} --data {recipe.data}"
        )
    more: dict[str, Any] = {}
    if isinstance(task, Generate):
        task.measure_by(splits.train, features, inception_weights, progress)
        more["protocol"] = task.protocol()
    elif inception_weights or (features and not isinstance(task, Upscale)):
        raise UserError(
            f"features and Inception weights measure pictures that a model makes, and {run.path} makes none."
        )
    figures = task.evaluate(task.networks[task.main], splits[split]).figures
    if split == "test":
        evaluation = run.read("evaluation.json")
        evaluation["test_looks"] = count_test_look(run, splits.spec.fingerprint)
        run.write("evaluation.json", evaluation)
    return {"split": split, "data": splits.spec.name, **figures, **more}


def _on_other_data(task: Task, splits: DataSplits, split: str | None) -> dict[str, Any]:
    if not isinstance(task, Classify):
        raise UserError("only a classifier can be measured on other data so far.")
    known = {name: k for k, name in enumerate(task.spec.class_names)}
    unknown = [name for name in splits.spec.class_names if name not in known]
    if unknown:
        raise UserError(
            f"the model does not know the classes {', '.join(unknown[:5])} of {splits.spec.name}. "
            f"It knows: {', '.join(list(known)[:10])}."
        )
    to_model = np.array([known[name] for name in splits.spec.class_names])
    sources: list[ImageSource] = [splits[s] for s in ([split] if split else ["train", "val", "test"])]
    details = [_measured(task, source, to_model) for source in sources]
    probabilities, targets = (np.concatenate(column) for column in zip(*details, strict=True))
    figures = metrics.classification_figures(probabilities, targets)
    return {"split": split or "all", "data": splits.spec.name, **figures}


def _measured(task: Classify, source: ImageSource, to_model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return task.predict_source(task.networks[task.main], source), to_model[source.targets.numpy()]

"""Measure a finished run again: on a split of its own data, or on other images with the same
classes.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tintype.data import open_data, open_whole
from tintype.data.identity import Identities, identify
from tintype.data.layout import class_name
from tintype.data.opening import shadowed
from tintype.data.source import ImageSource, group_numbers
from tintype.errors import UserError
from tintype.files.whole import held, written_whole
from tintype.hardware.arithmetic import choose_threads, computing
from tintype.progress import Progress
from tintype.runs.folder import PHOTOS_FILE, RunFolder
from tintype.runs.model import resize_of
from tintype.tasks.classify import metrics
from tintype.tasks.classify.task import Classify
from tintype.tasks.generate.task import Generate
from tintype.tasks.restoring import load_task
from tintype.tasks.upscale.sets.pairs import group_photos, open_pairs
from tintype.tasks.upscale.sets.pairs import open_whole as open_photos
from tintype.tasks.upscale.task import Upscale
from tintype.training.measure import count_test_look, unlike_images

# of images that are like the training images, at most half as many are called unlike them
MOST_UNLIKE = 0.02


def evaluate_run(
    run: RunFolder,
    *,
    data: str | None,
    split: str | None,
    device: str,
    features: str | None = None,
    inception_weights: str | None = None,
    classes: bool = False,
    groups: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the figures of a run's model on a split of its own data, or on `data` (all of it, or one split).

    `features` and `inception_weights` say what a generator's images are measured by, see
    tintype.tasks.generate.distances; of super-resolution, `features` is the network under LPIPS.
    `groups` says what belongs together in `data`, see tintype.grouping; the run's own images keep
    the groups of its recipe. With `classes` a classifier's figures hold `per_class` and `averages`
    as well. A look at the run's own test split is counted in evaluation.json. The arithmetic takes
    as many threads as the training did, so that the same images give the same figures.

    Raises:
        UserError: unknown split, the data is not there, has changed, or has classes that the model
            does not know.
    """
    if split not in (None, "train", "val", "test"):
        raise UserError(f"unknown split '{split}'. Expected val, test or train.")
    if groups is not None and data is None:
        raise UserError(
            "groups are for other data, named by --data; the run's own images keep the groups of its recipe."
        )

    recipe = run.recipe
    threads, _ = choose_threads(recipe.threads)
    with computing(threads, device, exact=recipe.exact):
        return _evaluated(
            run, data=data, split=split, device=device, features=features, inception_weights=inception_weights,
            classes=classes, groups=groups, progress=progress,
        )  # fmt: skip


def _evaluated(
    run: RunFolder,
    *,
    data: str | None,
    split: str | None,
    device: str,
    features: str | None,
    inception_weights: str | None,
    classes: bool,
    groups: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    task, description = load_task(run, device)
    recipe, how = run.recipe, description["preprocessing"]
    if classes and not isinstance(task, Classify):
        raise UserError(
            f"{run.path} is a run of task {recipe.task}, which has no classes to report on. Leave --classes out."
        )

    division = {
        key: getattr(recipe, key)
        for key in ("val_fraction", "test_fraction", "split_seed", "groups")
    }
    if isinstance(task, Upscale):
        task.measure_by(features)
        if data:
            photos = open_photos(data, task.scale, split)
            if groups is not None:
                task.groups = group_photos(photos.photos, groups, progress)[0]
            figures = task.evaluate(task.networks[task.main], photos).figures
            return {"split": split or "all", "data": photos.spec.name, **figures}
        splits = open_pairs(
            recipe.data, data_root=recipe.data_root, image_size=recipe.image_size, resize=resize_of(description), **division,
            **{key: recipe.task_options[key] for key in ("scale", "patch") if key in recipe.task_options},
        )  # fmt: skip
    else:
        shape = {"image_size": (how["height"], how["width"]), "channels": how["channels"]}
        shape["resize"] = resize_of(description)
        if data:
            if not isinstance(task, Classify):
                raise UserError("only a classifier can be measured on other data so far.")
            more: list[str] = []
            if split is None:
                source, known, more = open_whole(data, groups=groups, progress=progress, **shape)
            else:
                opened = open_data(
                    data, split_rule=recipe.split_rule, **shape, **{**division, "groups": groups}
                )
                source, known = opened[split], opened.groups
            figures = _on_other_data(run, task, source, known, split or "all", classes=classes)
            more += _about_groups(figures, groups, recipe.groups)
            figures["remark"] = "\n".join(
                [*shadowed(data), figures["remark"], *more, *_unlike(run, source)]
            )
            return figures
        splits = open_data(
            recipe.data,
            data_root=recipe.data_root,
            one_class=isinstance(task, Generate),
            split_rule=recipe.split_rule,
            **shape,
            **division,
        )

    if split == "test" and not len(splits.test):
        raise UserError(
            f"{run.path} has no test part, as was asked (--test none). Type: --split val"
        )
    split = split or ("test" if len(splits.test) else "val")
    if splits.spec.fingerprint != run.read("data.json")["fingerprint"]:
        raise UserError(
            f"the images of {splits.spec.name} have changed since this run was trained, so its {split} split is not the same. "
            f"To measure on them all the same: tintype evaluate {run.path} --data {recipe.data}"
        )

    besides: dict[str, Any] = {} if len(splits.test) or data else {"tested": False}
    if isinstance(task, Generate):
        task.measure_by(splits.train, features, inception_weights, progress)
        besides["protocol"] = task.protocol()
    elif inception_weights or (features and not isinstance(task, Upscale)):
        raise UserError(
            f"features and Inception weights measure pictures that a model makes, and {run.path} makes none."
        )

    task.groups = splits.groups
    evaluation = task.evaluate(task.networks[task.main], splits[split])
    figures = evaluation.figures

    if classes:
        besides |= _by_class(
            evaluation.details["probabilities"],
            evaluation.details["targets"],
            task.spec.class_names,
        )

    if split == "test":
        besides |= _count_look(run, splits.spec.fingerprint)
    return {"split": split, "data": splits.spec.name, **figures, **besides}


def _count_look(run: RunFolder, fingerprint: str) -> dict[str, str]:
    """Count a look at the test split in the run; return a remark where the run cannot be written."""
    run.read("evaluation.json")  # which says what is missing of a run that is not finished
    try:
        with held(run.path / ".lock"):  # of several that measure at once, each look counts
            evaluation = run.read("evaluation.json")
            evaluation["test_looks"] = count_test_look(run, fingerprint)
            run.write("evaluation.json", evaluation)
    except (OSError, UserError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or "no permission"
        return {
            "remark": f"{run.path} cannot be written ({reason}): this look at the test images is not counted in it."
        }

    return {}


def _by_class(
    probabilities: np.ndarray, targets: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    confusion = metrics.confusion_matrix(probabilities.argmax(1), targets, len(class_names))
    return {
        "per_class": metrics.per_class(confusion, class_names),
        "averages": metrics.averages(confusion),
    }


def refuse_taken(path: Path) -> None:
    """Raise UserError where a file for the figures of the classes exists already, or its folder
    does not.
    """
    if path.exists():
        raise UserError(f"{path} already exists and will not be overwritten. Choose another --csv.")
    if not path.absolute().parent.is_dir():
        raise UserError(
            f"there is no folder {path.parent} for --csv {path}. Make it first, or choose another file."
        )


def write_classes(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures of the classes, and their averages, as CSV.

    Raises:
        UserError: the file cannot be written.
    """
    rows = metrics.report_rows(figures["split"], figures["per_class"], figures["averages"])
    try:
        with (
            written_whole(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as out,
        ):
            csv.writer(out).writerows([metrics.REPORT_HEADER, *rows])
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Choose another --csv."
        ) from None


def _about_groups(figures: Mapping[str, Any], groups: str | None, of_run: str | None) -> list[str]:
    """Return a sentence where the intervals are by group, and one where the run had groups and
    these images have none.
    """
    lines = []
    if figures.get("num_groups"):
        lines.append(
            f"Intervals are by group: {figures['num_images']:,} images in {figures['num_groups']:,} groups."
        )
    if of_run is not None and groups is None:
        lines.append(
            f"The run was trained with groups {of_run}; where these images are named alike, type --groups too."
        )
    return lines


def _on_other_data(
    run: RunFolder,
    task: Classify,
    source: ImageSource,
    groups: Mapping[str, str],
    split: str,
    *,
    classes: bool,
) -> dict[str, Any]:
    """Return the figures on other images, and those without the images that training or validation has seen.

    `groups` names the group of each image that belongs together with others, by the image's name.
    """
    known = {class_name(name): k for k, name in enumerate(task.spec.class_names)}
    unknown = [name for name in source.spec.class_names if name not in known]
    if unknown:
        raise UserError(
            f"the model does not know the classes {', '.join(unknown[:5])} of {source.spec.name}. "
            f"It knows: {', '.join(list(known)[:10])}."
        )
    to_model = np.array([known[name] for name in source.spec.class_names])
    probabilities = task.predict_source(task.networks[task.main], source)
    targets = to_model[source.targets.numpy()]
    figures = metrics.classification_figures(
        probabilities, targets, group_numbers(source.names, groups)
    )
    result = {"split": split, "data": source.spec.name, **figures}
    if classes:
        result |= _by_class(probabilities, targets, task.spec.class_names)

    seen = _seen(run, source)
    if seen is None:
        result["remark"] = (
            "Whether these images were seen in training cannot be checked: the run holds no digests of its photos."
        )
        return result
    in_split, near = seen
    trained = np.isin(in_split, ("train", "val"))
    counts = {name: int((in_split == name).sum()) for name in ("train", "val")}
    result["seen"] = {**counts, "near": int((near & trained).sum())}
    result["remark"] = _remark(len(trained), counts, result["seen"]["near"])
    if trained.any() and not trained.all():
        new = np.flatnonzero(~trained)
        numbers = group_numbers([source.names[i] for i in new.tolist()], groups)
        result["without_seen"] = metrics.classification_figures(
            probabilities[new], targets[new], numbers
        )
    return result


def _seen(run: RunFolder, source: ImageSource) -> tuple[np.ndarray, np.ndarray] | None:
    """Return in which split of the run each image was, and whether as a near copy; None where that
    is not known.
    """
    photos = Identities.load(run.path / PHOTOS_FILE)
    if photos is None or photos.shape != (
        source.spec.height,
        source.spec.width,
        source.spec.channels,
    ):
        return None
    return photos.seen(identify({"test": source}))


def _unlike(run: RunFolder, source: ImageSource) -> list[str]:
    """Return a line where more of the images are unlike the training images than of the test images
    ever are.
    """
    reasons = unlike_images(run, source)
    counts = Counter(filter(None, reasons))
    if counts.total() <= MOST_UNLIKE * len(reasons):
        return []
    most, count = counts.most_common(1)[0]
    return [
        f"WARNING: {counts.total():,} of {len(reasons):,} images are unlike the training images, {count:,} of them because "
        f"{most}: confidence and its calibration do not apply to them."
    ]


def _remark(num_images: int, counts: dict[str, int], num_near: int) -> str:
    """Return a sentence on the images that the run has seen before."""
    seen = sum(counts.values())
    if not seen:
        return f"None of the {num_images:,} images was seen in training or validation."

    where = " and ".join(
        f"{count:,} in {word}"
        for count, word in ((counts["train"], "training"), (counts["val"], "validation"))
        if count
    )
    near = f"; {num_near:,} of them saved again, resized or mirrored" if num_near else ""
    what = f"{seen:,} of {num_images:,} images were seen before ({where}{near})"
    if seen == num_images:
        return f"WARNING: {what}: these figures say nothing about new images."

    return f"WARNING: {what}; the second row leaves them out."

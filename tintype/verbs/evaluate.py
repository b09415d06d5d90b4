"""Measure a finished run again: on a split of its own data, or on other images."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tintype.data.memory import is_again
from tintype.data.source import ImageSource
from tintype.errors import UserError
from tintype.files.whole import held, written_whole
from tintype.hardware.arithmetic import choose_threads, computing
from tintype.plugins import has_part, own_task
from tintype.progress import Progress
from tintype.runs.folder import RunFolder, estimated_by
from tintype.tasks.contract.evaluation import Kind
from tintype.tasks.contract.measure import Measurement, MeasureOptions, MeasurePart
from tintype.tasks.restoring import load_task
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
    """Return the figures of a run's model on a split of its own data, or on `data`.

    A look at the run's own test split is counted in evaluation.json. The arithmetic takes as many
    threads as the training did, so that the same images give the same figures.

    Args:
        run: a finished run.
        data: other images: all of them, or the part of them that `split` names.
        split: "train", "val" or "test".
        device: where to compute.
        features: what images that a model makes are compared by, for the tasks that read it.
        inception_weights: a weight file for FID, for the tasks that read it.
        classes: also measure each class, for the tasks that have some.
        groups: what belongs together in `data`, see tintype.grouping; the run's own images keep the
            groups of its recipe.
        progress: called as progress(what, done, total).

    Raises:
        UserError: an unknown split, an option that the task does not read, or data that is not
            there, has changed or does not fit the model.
    """
    if split not in (None, "train", "val", "test"):
        raise UserError(f"unknown split '{split}'. Expected val, test or train.")
    if groups is not None and data is None:
        raise UserError(
            "groups are for other data, named by --data; "
            "the run's own images keep the groups of its recipe."
        )

    options = MeasureOptions(
        data=data,
        split=split,
        groups=groups,
        classes=classes,
        features=features,
        inception_weights=inception_weights,
        progress=progress,
    )
    recipe = run.recipe
    if split is not None and is_again(data, recipe.data):
        data = None  # images that this process did not have
        options = replace(options, data=None)
    threads, _ = choose_threads(recipe.threads)
    kind = measurement_of(run)
    with computing(threads, device, exact=recipe.exact):
        task, description = load_task(run, device)
        measurement = kind(run, task, description, options)
        measurement.check()
        if data is None:
            return _on_own_data(run, measurement, split)
        return _on_other_data(run, measurement, data, split)


def _on_own_data(
    run: RunFolder, measurement: Measurement[Any], split: str | None
) -> dict[str, Any]:
    splits = measurement.open_own()
    has_test = len(splits.test) > 0
    if split == "test" and run.recipe.folds and not has_test:
        raise UserError(
            f"{run.path} has no test part: it was trained on all its images, and its figures are "
            f"{estimated_by(run.recipe.folds)}. On other images: tintype evaluate {run.path} "
            "--data DATA"
        )
    if split == "test" and not has_test:
        raise UserError(
            f"{run.path} has no test part, as was asked (--test none). Type: --split val"
        )

    split = split or ("test" if has_test else "val")
    if not len(splits[split]):
        raise UserError(
            f"{run.path} was trained on all its images, so none is left to measure it on. Other "
            f"images can: tintype evaluate {run.path} --data DATA"
        )
    if splits.spec.fingerprint != run.read("data.json")["fingerprint"]:
        raise UserError(
            f"the images of {splits.spec.name} have changed since this run was trained, so its "
            f"{split} split is not the same. To measure on them all the same: "
            f"tintype evaluate {run.path} --data {run.recipe.data}"
        )

    figures = measurement.own(splits, split)
    if not has_test:
        figures["tested"] = False
    if split == "test":
        figures |= _count_look(run, splits.spec.fingerprint)
    return {"kind": Kind.SPLIT.value, "split": split, "data": splits.spec.name, **figures}


def _on_other_data(
    run: RunFolder, measurement: Measurement[Any], data: str, split: str | None
) -> dict[str, Any]:
    measured = measurement.other(data)
    remarks = list(measured.remarks)
    if measured.source is not None:
        remarks += _unlike(run, measured.source)

    what = {"kind": Kind.FOREIGN.value, "split": split or "all", "data": measured.data}
    figures = {**what, **measured.figures}
    return {**figures, "remark": "\n".join(remarks)} if remarks else figures


def refuse_taken(path: Path) -> None:
    """Refuse a file for the figures of the classes that exists already, or whose folder does not.

    Raises:
        UserError: it cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} already exists and will not be overwritten. Choose another --csv.")
    if not path.absolute().parent.is_dir():
        raise UserError(
            f"there is no folder {path.parent} for --csv {path}. "
            "Make it first, or choose another file."
        )


def write_table(path: Path, run: RunFolder, figures: Mapping[str, Any]) -> None:
    """Write the table of a task's figures (of each class, say) as CSV.

    Raises:
        UserError: the task has no table, or the file cannot be written.
    """
    header, rows = measurement_of(run).table(figures)
    try:
        with (
            written_whole(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as out,
        ):
            csv.writer(out).writerows([header, *rows])
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Choose another --csv."
        ) from None


def measurement_of(run: RunFolder) -> type[Measurement[Any]]:
    """Return how the task of a run measures again; a task of the user's own may leave it open."""
    if own_task(run.recipe.task) and not has_part(run.recipe.task, "measure"):
        return Measurement
    return cast(MeasurePart, run.part("measure", "be measured again")).Measure


def _count_look(run: RunFolder, fingerprint: str) -> dict[str, str]:
    """Count a look at the test split in the run; return a remark where it cannot be written."""
    if not run.is_measured:  # and has no file for it
        count_test_look(run, fingerprint)
        return {}
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
            "remark": f"{run.path} cannot be written ({reason}): this look at the test images is "
            "not counted in it."
        }

    return {}


def _unlike(run: RunFolder, source: ImageSource) -> list[str]:
    """Return a line where more images are unlike the training images than test images ever are."""
    reasons = unlike_images(run, source)
    counts = Counter(filter(None, reasons))
    if counts.total() <= MOST_UNLIKE * len(reasons):
        return []

    most, count = counts.most_common(1)[0]
    return [
        f"WARNING: {counts.total():,} of {len(reasons):,} images are unlike the training images, "
        f"{count:,} of them because {most}: confidence and its calibration do not apply to them."
    ]

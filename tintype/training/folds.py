"""A figure from every photo: each is answered by a model that was trained without its fold.

Where a task answers out of fold by itself (heads on cached features, in seconds), it is asked. For
all others each fold is a run of its own in RUN/folds/K, without figures or report, which goes on
where it was stopped. The run itself is then trained on all photos, and the folds are its figure.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tintype.data.source import DataSplits, ImageSource, JoinedSource, group_numbers
from tintype.errors import Interrupted, UserError
from tintype.files.whole import written_whole
from tintype.progress import Watcher
from tintype.runs.folder import FOLDS_FILE, RunFolder, estimated_by
from tintype.runs.ranking import Criterion, criterion_of
from tintype.tasks.contract.evaluation import EvaluatedSet, Evaluation, Kind
from tintype.tasks.task import Task
from tintype.training.measure import (
    columns_recorded,
    count_test_look,
    evaluated,
    recorded,
    to_measure,
    write_samples,
    write_tables,
)
from tintype.training.prepare import Prepared, prepare

FOLDER = "folds"  # of the runs of single folds, in the folder of the run
ANSWERS_FILE = "answers.safetensors"  # what a fold's model answers to the images of the fold
POOLED_FILE = "folds.safetensors"  # what all folds answer, in the order of FOLDS_FILE

# By `benchmarks/coverage.py folds`, see docs/folds.md.
NAIVE = (
    "The interval is naive: it takes all answers for those of one model, and held the truth in 89 "
    "to 95 % of simulated sets, not in 95 %."
)
WIDENED = "The interval is widened by nested cross-validation (Bates et al. 2021)."

Answers = Mapping[str, np.ndarray]
TrainRun = Callable[[RunFolder, Prepared, Watcher, str], None]


class _OneFold(Watcher):
    """Shows the training of one fold as a piece of work: rows and steps are not the run's own."""

    def __init__(self, watcher: Watcher, name: str) -> None:
        self.watcher = watcher
        self.name = name

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.watcher.on_work(self.name, step, total_steps)

    def close(self) -> None:
        self.watcher.close()


def answered_by_folds(
    run: RunFolder, prepared: Prepared, seen: DataSplits, watcher: Watcher, train_run: TrainRun
) -> Answers:
    """Return the answers to all images, training's and then validation's, each out of its fold.

    Raises:
        Interrupted: a signal came; the folds that are done are kept.
        UserError: a fold cannot be trained.
    """
    everything = JoinedSource([seen.train, seen.val])
    numbers = _numbers(everything, seen)
    found = prepared.task.answers_out_of_fold(everything, numbers, watcher.on_work)
    watcher.close()
    if found is not None:
        return found

    place = {name: i for i, name in enumerate(everything.names)}
    pooled: dict[str, np.ndarray] = {}
    count = int(prepared.recipe.folds or 0)
    for fold in range(1, count + 1):
        names, answers = _answers_of(run, prepared, fold, watcher, train_run)
        rows = [place[name] for name in names]
        for key, values in answers.items():
            if key not in pooled:
                pooled[key] = np.zeros((len(place), *values.shape[1:]), values.dtype)
            pooled[key][rows] = values
        watcher.note(f"fold {fold} of {count}: {len(rows):,} photos answered")
    return pooled


def _numbers(source: ImageSource, splits: DataSplits) -> np.ndarray:
    return np.array([splits.folds[name] for name in source.names], np.int64)


def _answers_of(
    run: RunFolder, prepared: Prepared, fold: int, watcher: Watcher, train_run: TrainRun
) -> tuple[list[str], Answers]:
    """Return the images of a fold by name, and what a model answers that never saw them.

    The fold is trained from where it stands; what it wrote at its end is read again.
    """
    recipe = prepared.recipe.replace(fold=fold, track=[])
    folder = RunFolder(run.path / FOLDER / str(fold))
    if not (folder.path / "recipe.yaml").exists():
        folder = RunFolder.create(run.path / FOLDER, str(fold), exact=True, recipe=recipe)

    if folder.status.get("state") != "finished":
        shown = _OneFold(watcher, f"training fold {fold} of {recipe.folds}")
        try:
            train_run(folder, prepare(recipe, shown), shown, "")
        except Interrupted as stopped:
            raise Interrupted(stopped.number, run.path) from None
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)  # nothing goes on from them

    names = [row["name"] for row in folder.read_table("splits.csv") if row["split"] == "test"]
    return names, _read_answers(folder.path / ANSWERS_FILE, len(names))


def _read_answers(path: Path, count: int) -> Answers:
    try:
        answers = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} is broken ({reason}). Delete the folder {path.parent}, and go on."
        ) from None
    if any(len(values) != count for values in answers.values()):
        raise UserError(
            f"{path} does not hold {count:,} answers. Delete the folder {path.parent}, and go on."
        )
    return answers


def measure_fold(run: RunFolder, seen: DataSplits, task: Task, watcher: Watcher) -> None:
    """Answer the images of one fold, and write the answers down; nothing else is measured."""
    evaluations = evaluated(task, {"test": seen.test}, watcher)
    answers = task.answers(evaluations["test"])
    with written_whole(run.path / ANSWERS_FILE) as temporary:
        save_file({name: np.ascontiguousarray(each) for name, each in answers.items()}, temporary)

    recipe = run.recipe
    text = (
        f"fold {recipe.fold} of {recipe.folds}: its answers are a part of the estimate of "
        f"{run.path.parent.parent.name}."
    )
    run.write(
        "evaluation.json",
        {
            "task": recipe.task,
            "splits": {"test": evaluations["test"].figures},
            **recorded(task, evaluations),
            "verdict": {"word": "a fold", "text": text},
        },
    )


def measure_by_folds(
    run: RunFolder,
    seen: DataSplits,
    splits: DataSplits,
    task: Task,
    answers: Answers,
    watcher: Watcher,
) -> None:
    """Measure a run by the answers of its folds, and write down what was found.

    The final model has seen every photo, so that nothing here is called its own test figure.
    """
    everything = JoinedSource([splits.train, splits.val])
    numbers = _numbers(everything, splits)
    pooled = _pooled(task, answers, numbers, group_numbers(everything.names, splits.groups))

    sources = {name: source for name, source in to_measure(seen).items() if len(source)}
    sources.pop("test", None)
    evaluations = {**evaluated(task, sources, watcher), "folds": pooled}
    summary = task.summarise(evaluations, {**sources, "folds": everything})

    write_tables(run, summary)
    rows = zip(everything.names, numbers.tolist(), strict=True)
    run.write_table(FOLDS_FILE, ["name", "fold"], rows)
    with written_whole(run.path / POOLED_FILE) as temporary:
        save_file({name: np.ascontiguousarray(each) for name, each in answers.items()}, temporary)
    write_samples(run, summary.samples, everything, prefix="fold")
    run.write("model.json", {**run.read("model.json"), **task.describe()})

    num_trained = len(everything) if task.fits_validation else len(splits.train)
    looks = count_test_look(run, f"{splits.spec.fingerprint} folds {run.recipe.folds}")
    evaluation = {**summary.evaluation, **recorded(task, evaluations, summary.further)}
    evaluation |= columns_recorded(run, task, pooled, everything.names, splits, "folds")
    evaluation |= {"tested": False, "test_looks": looks}
    evaluation["folds"] = _said(run, task, answers, numbers, evaluation, num_trained)
    fit = _in_words_of_folds(evaluation["verdict"]["text"]).rstrip(".")
    evaluation["verdict"] |= {"text": f"{fit}. {evaluation['folds']['text']}"}
    if task.validation.text:
        evaluation["validation"] = task.validation.to_dict(run.recipe.rules)
    run.write("evaluation.json", evaluation)


def _pooled(
    task: Task, answers: Answers, numbers: np.ndarray, groups: np.ndarray | None
) -> Evaluation:
    details = {**answers, "fold": numbers}
    if groups is not None:
        details["groups"] = groups
    found = task.evaluation_of(details)
    return Evaluation(
        found.figures, {**found.details, "fold": numbers}, EvaluatedSet(Kind.FOLDS, "folds")
    )


def _said(
    run: RunFolder,
    task: Task,
    answers: Answers,
    numbers: np.ndarray,
    evaluation: Mapping[str, Any],
    num_trained: int,
) -> dict[str, Any]:
    """Return what evaluation.json says of the folds: their figures, and where the pooled one is
    from.
    """
    figures = evaluation["splits"]["folds"]
    criterion = criterion_of(run.recipe.task, figures)
    of_folds = []
    for fold in np.unique(numbers).tolist():
        inside = numbers == fold
        found = task.evaluation_of({key: values[inside] for key, values in answers.items()})
        value = found.figures[criterion.key]
        of_folds.append({"fold": fold, "num_images": int(inside.sum()), criterion.key: value})

    count = len(of_folds)
    widened = f"{criterion.key}_ci95_naive" in figures
    return {
        "count": count,
        "interval": "nested" if widened else "naive",
        "figures": of_folds,
        "text": _text(criterion, figures, count, len(numbers), num_trained),
    }


def _in_words_of_folds(verdict: str) -> str:
    """Return a verdict, which speaks of validation, as one on images out of their folds."""
    for said, meant in (
        ("validation images", "images out of their fold"),
        ("validation is", "images out of their fold are answered"),
        ("in validation", "out of fold"),
        ("on validation", "out of fold"),
        ("On validation", "Out of fold"),
    ):
        verdict = verdict.replace(said, meant)
    return verdict


def _text(
    criterion: Criterion, figures: Mapping[str, Any], count: int, num_images: int, num_trained: int
) -> str:
    digits = 2 if criterion.is_share else None
    reached = f"{criterion.label} {criterion.said(figures[criterion.key], digits)}"
    interval = figures.get(f"{criterion.key}_ci95")
    if interval:
        reached += f" ({' to '.join(criterion.said(end, digits) for end in interval)})"

    how = WIDENED if f"{criterion.key}_ci95_naive" in figures else NAIVE
    all_of_them = "all of them" if num_trained == num_images else f"{num_trained:,} of them"
    return (
        f"{reached[:1].upper()}{reached[1:]}, {estimated_by(count)}: each of {num_images:,} photos "
        f"was answered by a model that was trained without it. The final model was trained on "
        f"{all_of_them} and has no test figure of its own. {how if interval else ''}"
    ).rstrip()

"""Measure a trained network on its splits, and count who looked at the test part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tintype.data.source import DataSplits, ImageSource
from tintype.data.typical import Typical
from tintype.errors import UserError
from tintype.files.bounded import read_json_object
from tintype.files.whole import held, write_picture, written_whole
from tintype.hardware.processes import current, dealing, with_help
from tintype.plugins import find_part, has_part, own_task
from tintype.progress import Watcher
from tintype.runs.folder import BY_VALIDATION, RunFolder
from tintype.runs.ranking import criterion_of
from tintype.runs.shapes import MOST
from tintype.tasks.by_column import by_column
from tintype.tasks.contract.evaluation import EvaluatedSet, Evaluation, Kind
from tintype.tasks.task import Summary, Task
from tintype.training.together import EVALUATE

# Enough for an interval of about +-1 point at most; more would only cost time.
CLEAN_TRAINING_IMAGES = 10_000
# Images of a split from which is learned what they have in common.
TYPICAL_IMAGES = 2_000


def measure_run(
    run: RunFolder, seen: DataSplits, splits: DataSplits, task: Task, watcher: Watcher
) -> None:
    """Measure the final network as the recipe asks, and write down what was found.

    `seen` is what the network sees, `splits` the images that it comes from.
    """
    if run.recipe.measure == "val":
        _measure_without_test(run, seen, splits, task, watcher)
    elif len(splits.test):
        _measure(run, seen, splits, task, watcher)
    else:
        _measure_by_validation(run, seen, splits, task, watcher)

    if task.validation.text and run.recipe.measure != "val":  # which calibrates nothing
        use = task.validation.to_dict(run.recipe.rules)
        run.write("evaluation.json", {**run.read("evaluation.json"), "validation": use})


def _measure(
    run: RunFolder, seen: DataSplits, splits: DataSplits, task: Task, watcher: Watcher
) -> None:
    """Measure the network on clean training images, validation and test."""
    sources, evaluations = measured(task, seen, watcher)
    task.leaked = splits.leaked
    summary = task.summarise(evaluations, sources)

    write_tables(run, summary)
    write_samples(run, summary.samples, splits.test)
    run.write("model.json", {**run.read("model.json"), **task.describe()})
    if has_part(run.recipe.task, "analysis"):
        part = find_part(run.recipe.task, "analysis", "be analysed")
        looked_at = to_measure(splits, len(sources["train"]))
        part.analyse(run, task, looked_at, evaluations, watcher)

    looks = count_test_look(run, splits.spec.fingerprint)
    evaluation = {
        "task": run.recipe.task,
        **_score(run, task),
        **summary.evaluation,
        **recorded(task, evaluations, summary.further),
    }
    evaluation |= columns_recorded(
        run, task, evaluations["test"], splits.test.names, splits, "test"
    )
    evaluation |= {**_said_unlike(run, splits.test), "test_looks": looks}
    run.write("evaluation.json", evaluation)


def _measure_without_test(
    run: RunFolder, seen: DataSplits, splits: DataSplits, task: Task, watcher: Watcher
) -> None:
    """Measure on clean training images and validation only.

    The run is one of many of which one will be chosen.

    What is fitted on validation and shown on test (temperature, thresholds) and what shows test
    images is left out.
    """
    _, evaluations = measured(task, seen, watcher, ("train", "val"))
    figures = {split: evaluation.figures for split, evaluation in evaluations.items()}

    text = "measured on validation only, as asked (measure: val). The test split was not looked at."
    run.write(
        "evaluation.json",
        {
            "task": run.recipe.task,
            **_score(run, task),
            "splits": figures,
            **recorded(task, evaluations),
            "verdict": {"word": "not tested", "text": text},
            "test_looks": {"run": 0, "data": looks_by_data(run).get(splits.spec.fingerprint, 0)},
        },
    )


def _measure_by_validation(
    run: RunFolder, seen: DataSplits, splits: DataSplits, task: Task, watcher: Watcher
) -> None:
    """Measure on training images and validation of data without a test part.

    Figures and predictions are written.

    Validation chose the model, so its figures are too good; they are never called by the name of
    what a test would show.
    """
    parts = [split for split, source in to_measure(seen).items() if len(source)]
    sources, evaluations = measured(task, seen, watcher, parts)
    task.leaked = splits.leaked
    summary = task.summarise(evaluations, sources)
    write_tables(run, summary)

    evaluation = {
        "task": run.recipe.task,
        **_score(run, task),
        **summary.evaluation,
        **recorded(task, evaluations, summary.further),
    }
    evaluation |= columns_recorded(run, task, evaluations["val"], splits.val.names, splits, "val")
    evaluation |= {"tested": False, "test_looks": {"run": 0, "data": 0}}
    fit = evaluation["verdict"]["text"].rstrip(".")
    reached = _reached(run.recipe.task, evaluation["splits"]["val"])
    evaluation["verdict"] |= {
        "text": f"{fit}. {BY_VALIDATION[:1].upper()}{BY_VALIDATION[1:]}: {reached}. There is no "
        "test part, so how good the model is on new photos is not known."
    }
    run.write("evaluation.json", evaluation)
    model = run.read("model.json")
    run.write("model.json", {**model, **task.describe()})


def _reached(task: str, figures: dict[str, Any]) -> str:
    """Return the figure that runs of a task are ranked by, with its interval where it has one."""
    criterion = criterion_of(task, figures)
    digits = 2 if criterion.is_share else None
    value = criterion.said(figures[criterion.key], digits)
    interval = figures.get(f"{criterion.key}_ci95")
    if not interval:
        return value
    return f"{value} ({' to '.join(criterion.said(end, digits) for end in interval)})"


def measured(
    task: Task, seen: DataSplits, watcher: Watcher, splits: Sequence[str] = ("train", "val", "test")
) -> tuple[dict[str, ImageSource], dict[str, Evaluation]]:
    """Return the splits as they are measured, and what the main network reaches on each.

    Of the training images a few are measured; only where those leave the verdict open, as many as
    are ever.
    """
    most = to_measure(seen)
    few = to_measure(seen, task.fewest_to_settle or CLEAN_TRAINING_IMAGES)
    sources = {split: few[split] for split in splits}
    evaluations = evaluated(task, sources, watcher)

    num_images = len(most["train"])
    if num_images > len(few["train"]) and not task.settles(evaluations, num_images):
        sources["train"] = most["train"]
        evaluations |= evaluated(task, {"train": most["train"]}, watcher)
    return sources, evaluations


def evaluated(
    task: Task, sources: dict[str, ImageSource], watcher: Watcher
) -> dict[str, Evaluation]:
    """Return what the main network reaches on each split."""
    evaluations: dict[str, Evaluation] = {}
    for split, source in sources.items():

        def show(done: int, total: int, split: str = split) -> None:
            watcher.on_work(f"measuring {split}", done, total)

        with with_help([EVALUATE, split, len(source)]):
            found = task.evaluate(task.networks[task.main], source, show)
        _check_learned(found.figures, split)
        out_of_fold = split == "val" and task.fits_validation
        kind = Kind.OUT_OF_FOLD if out_of_fold else Kind.SPLIT
        evaluations[split] = replace(found, of=EvaluatedSet(kind, split))

    watcher.close()
    return evaluations


def _check_learned(figures: Mapping[str, Any], split: str) -> None:
    """Raise where answers are so far off that no file of a run may hold their figures."""
    for name, value in figures.items():
        if isinstance(value, float) and abs(value) > MOST:
            raise UserError(
                f"{name} is {value:.3g} on {split}: training has diverged. "
                "Try a lower --lr, --set clip=1 or --set warmup=0.1."
            )


def evaluate_along(task: Task, seen: DataSplits, split: str, num_images: int) -> None:
    """Do the share of this process in `evaluated`, called by process 0 for one of `to_measure`."""
    source = to_measure(seen, num_images)[split]
    with dealing(current()):
        task.evaluate(task.networks[task.main], source)


def recorded(
    task: Task, evaluations: Mapping[str, Evaluation], further: Sequence[Evaluation] = ()
) -> dict[str, Any]:
    """Return the list of everything that was measured, by kind and name, for evaluation.json.

    With it come the names of the figures that are of the user's own making, where there are some.
    """
    measured = [each.to_dict() for each in (*evaluations.values(), *further)]
    own = {"own_figures": list(task.own_figures)} if task.own_figures else {}
    return {"evaluations": measured, **own}


def columns_recorded(
    run: RunFolder,
    task: Task,
    evaluation: Evaluation,
    names: Sequence[str],
    splits: DataSplits,
    split: str,
) -> dict[str, Any]:
    """Return the figures by the values of columns that the data brings, for evaluation.json.

    `names` are those of the images of `split`, in the order of the answers.
    """
    found = by_column(task, run.recipe.task, evaluation, names, splits.columns)
    return {"by_column": {split: found}} if found else {}


def _score(run: RunFolder, task: Task) -> dict[str, Any]:
    """Return the score of a task of the user's own, for lists, which do not run its code."""
    return {"score": task.score_name} if own_task(run.recipe.task) else {}


def to_measure(splits: DataSplits, most: int = CLEAN_TRAINING_IMAGES) -> dict[str, ImageSource]:
    """Return the three splits, of many training images a fixed sample."""
    train = splits.train
    if len(train) > most:
        generator = torch.Generator().manual_seed(0)
        train = train.subset(torch.randperm(len(train), generator=generator)[:most].sort().values)
    return {"train": train, "val": splits.val, "test": splits.test}


def write_tables(run: RunFolder, summary: Summary) -> None:
    """Write predictions.csv, and the further tables of a task."""
    run.write_table("predictions.csv", *summary.predictions)
    for name, table in summary.tables.items():
        run.write_table(name, *table)


def write_samples(
    run: RunFolder,
    samples: dict[str, list[dict[str, Any]]],
    source: ImageSource,
    prefix: str = "test",
) -> None:
    """Write the pictures that the report shows, at their own size, and which they are."""
    index: dict[str, list[dict[str, Any]]] = {}
    for group, items in samples.items():
        index[group] = []
        for item in items:
            if "picture" in item:
                write_picture(run.path / "samples" / item["file"], item["picture"])
                index[group].append({key: value for key, value in item.items() if key != "picture"})
                continue
            file = f"{prefix}-{item['position']:06d}.png"
            index[group].append({"file": file, **item})
            if (run.path / "samples" / file).exists():
                continue
            pixels = (
                source.take(torch.tensor([item["position"]]))
                .images[0]
                .permute(1, 2, 0)
                .cpu()
                .numpy()
            )
            write_picture(run.path / "samples" / file, pixels)

    run.write("samples/samples.json", index)


def _said_unlike(run: RunFolder, test: ImageSource) -> dict[str, Any]:
    """Return how many test images are called unlike the training images."""
    reasons = unlike_images(run, test)
    return (
        {"unlike": {"num_images": len(reasons), "num_unlike": sum(map(bool, reasons))}}
        if reasons
        else {}
    )


def unlike_images(run: RunFolder, source: ImageSource) -> list[str]:
    """Return why images are unlike the training images of a run, "" where they are not.

    Of many images, evenly spread ones are looked at.

    The list is empty where the run does not know. Colour that a grey model does not see is not
    looked at.
    """
    typical = Typical.of(run.read("model.json").get("typical"))
    if typical is None:
        return []
    return [
        reason
        for some in typical_images(source)
        for reason in typical.reasons(some, [None] * len(some))
    ]


def typical_images(source: ImageSource, most: int = TYPICAL_IMAGES) -> Iterator[np.ndarray]:
    """Yield evenly spread images of a split in batches (N, H, W, C) uint8.

    There are at most `most` in all.
    """
    index = (
        torch.linspace(0, len(source) - 1, min(len(source), most), dtype=torch.float64)
        .round()
        .long()
    )
    for some in index.split(64):
        yield source.take(some).images.permute(0, 2, 3, 1).cpu().numpy()


def count_test_look(run: RunFolder, fingerprint: str) -> dict[str, int]:
    """Count one look at the test split: by this run, and by all runs beside it that share the data.

    Each look invites a choice made on test images; many looks make the test figure optimistic. The
    runs of a study count with those beside the study.
    """
    before = 0
    if (run.path / "evaluation.json").exists():
        before = (run.read("evaluation.json").get("test_looks") or {}).get("run", 0)
    ledger = _ledger(run)
    with held(ledger.with_name(f"{ledger.name}.lock")):
        looks = looks_by_data(run)
        looks[fingerprint] = looks.get(fingerprint, 0) + 1
        with written_whole(ledger) as temporary:
            temporary.write_text(json.dumps(looks, indent=1), encoding="utf-8")
    return {"run": before + 1, "data": looks[fingerprint]}


def looks_by_data(run: RunFolder) -> dict[str, int]:
    """Return how often each test split was looked at, by fingerprint of the data.

    The runs beside this one count.
    """
    try:
        looks = read_json_object(_ledger(run))
    except (OSError, ValueError):
        return {}
    return {data: count for data, count in looks.items() if isinstance(count, int)}


def _ledger(run: RunFolder) -> Path:
    return run.root / ".test-looks.json"

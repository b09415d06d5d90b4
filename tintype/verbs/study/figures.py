"""The figures of a study: each run's, each variant's over its seeds, each image's."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tintype.runs.folder import RunFolder
from tintype.runs.ranking import Criterion, ranking_part
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder


@dataclass(frozen=True)
class Finished:
    """A finished run of the study with the figures that its files hold."""

    planned: PlannedRun
    run: RunFolder
    evaluation: Mapping[str, Any]
    model: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The task of the run."""
        return str(self.evaluation.get("task") or self.planned.recipe.task)

    def figure(self, split: str, key: str) -> float | None:
        """Return a figure of a split, or None where it was not measured."""
        value = (self.evaluation["splits"].get(split) or {}).get(key)
        return float(value) if value is not None else None


@dataclass(frozen=True)
class VariantResult:
    """What the runs of one variant reached: for each split the figure of each seed, their mean and
    deviation.
    """

    title: str
    levels: Mapping[str, str]
    finished: Sequence[Finished]
    values: Mapping[str, Sequence[float]]
    parameters: int
    multiply_adds: int
    seconds: float
    verdicts: Mapping[str, int]

    def mean(self, split: str) -> float | None:
        """Return the mean over seeds."""
        return float(np.mean(self.values[split])) if self.values.get(split) else None

    def deviation(self, split: str) -> float | None:
        """Return the standard deviation between seeds, None of fewer than two."""
        values = self.values.get(split, ())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def read_finished(study: StudyFolder) -> list[Finished]:
    """Return the finished runs, in the order of the plan."""
    found = []
    for planned in study.planned:
        run = study.run(planned)
        if run.status.get("state") == "finished":
            found.append(
                Finished(
                    planned,
                    run,
                    *(run.read(f"{f}.json") for f in ("evaluation", "model", "environment")),
                )
            )

    return found


def variants_of(finished: Sequence[Finished], measure: Criterion) -> list[VariantResult]:
    """Gather the runs of each variant, in the order of the plan."""
    titles = dict.fromkeys(each.planned.variant for each in finished)
    return [
        _variant(title, [each for each in finished if each.planned.variant == title], measure)
        for title in titles
    ]


def _variant(title: str, runs: list[Finished], measure: Criterion) -> VariantResult:
    splits = ("train", "val", "test")
    values = {
        s: [v for each in runs if (v := each.figure(s, measure.key)) is not None] for s in splits
    }
    seconds = float(np.mean([each.environment.get("training_seconds", 0.0) for each in runs]))
    model, words = runs[0].model, Counter(each.evaluation["verdict"]["word"] for each in runs)

    return VariantResult(
        title,
        runs[0].planned.levels,
        runs,
        values,
        model["parameters"],
        model["multiply_adds"],
        seconds,
        dict(words),
    )


def table(study: StudyFolder) -> tuple[list[str], list[list[Any]]]:
    """Return a row for each planned run, finished or not; no timings, so that it does not depend on
    the machine's load.
    """
    done = {each.planned.name: each for each in read_finished(study)}
    factors = list(study.declaration.factors)
    names = dict.fromkeys(
        f"{split}_{name}"
        for each in done.values()
        for split, figures in each.evaluation["splits"].items()
        for name, value in figures.items()
        if isinstance(value, int | float)
    )
    header = [
        "run",
        "variant",
        *factors,
        "seed",
        "state",
        "parameters",
        "multiply_adds",
        "verdict",
        *names,
    ]

    rows = []
    for planned in study.planned:
        each = done.get(planned.name)
        state = "finished" if each else study.record.get(planned.name, {}).get("state", "waiting")
        row = [planned.name, planned.variant, *planned.levels.values(), planned.seed, state]
        if each:
            row += [
                each.model["parameters"],
                each.model["multiply_adds"],
                each.evaluation["verdict"]["word"],
            ]
            row += [each.figure(*name.split("_", 1)) for name in names]
        rows.append(row + [""] * (len(header) - len(row)))

    return header, rows


def image_figures(each: Finished, split: str) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Return the names of the images of a split, in order, and the figure of each (N,).

    None where images have no figure of their own, or the predictions are missing.
    """
    part = ranking_part(each.task)
    rows = _predictions(each, split)
    values = [part.image_figure(row) for _, row in rows]
    if not rows or None in values:
        return None
    return tuple(name for name, _ in rows), np.array(values, np.float64)


def image_groups(each: Finished, split: str) -> dict[str, str]:
    """Return the group of each image of a split that belongs together with others, by the name in
    `image_figures`.
    """
    return {name: row["group"] for name, row in _predictions(each, split) if row.get("group")}


def _predictions(each: Finished, split: str) -> list[tuple[str, dict[str, str]]]:
    """Return the predictions of a split with a name for each, in the order of names; none where
    there is no file, or images of no split are in it, as a generator's are.
    """
    path = each.run.path / "predictions.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("split") == split]
    return sorted(
        ((f"{row['name']} {row['position']}", row) for row in rows), key=lambda named: named[0]
    )

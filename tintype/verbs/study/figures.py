"""The figures of a study's runs: what they are judged by, each run's, each variant's over seeds,
each image's.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tintype.runs.folder import RunFolder
from tintype.verbs.study.declaration import PlannedRun
from tintype.verbs.study.folder import StudyFolder

# column of predictions.csv; None is right or wrong
IMAGE_FIGURES = {"classify": None, "upscale": "psnr_y"}


@dataclass(frozen=True)
class Measure:
    """The figure that a task is judged by. `scale` turns it into what is written with `unit`."""

    key: str
    label: str
    unit: str
    scale: float = 1.0
    higher_is_better: bool = True

    def said(self, value: float | None, digits: int | None = None) -> str:
        """Return a figure in words: "93.2 %"."""
        unit = " %" if self.unit == "points" else f" {self.unit}" if self.unit else ""
        return "–" if value is None else f"{self.number(value, digits)}{unit}"

    def signed(self, value: float) -> str:
        """Return a difference without its unit: "+1.8"."""
        return ("−" if value < 0 else "+") + self.number(abs(value))

    def difference(self, value: float) -> str:
        """Return a difference in words: "+1.8 points"."""
        return f"{self.signed(value)} {self.unit}".rstrip()

    def interval(self, bounds: Sequence[float] | None) -> str:
        """Return the bounds of a difference: "0.6 to 3.0"."""
        return (
            " to ".join(("−" if b < 0 else "") + self.number(abs(b)) for b in bounds)
            if bounds
            else "not known"
        )

    def number(self, value: float, digits: int | None = None) -> str:
        """Return a figure or a difference without its unit."""
        usual = {"points": 1, "dB": 2}.get(self.unit)
        digits = usual if digits is None else digits
        return f"{value * self.scale:.4g}" if digits is None else f"{value * self.scale:.{digits}f}"

    def tick(self, value: float, step: float) -> str:
        """Return what stands at a mark of a scale whose marks are `step` apart: as many digits as
        tell them exactly.
        """
        value, step = value * self.scale, step * self.scale
        digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-3 * step), 6)
        return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Finished:
    """A finished run of the study with the figures that its files hold."""

    planned: PlannedRun
    run: RunFolder
    evaluation: Mapping[str, Any]
    model: Mapping[str, Any]
    environment: Mapping[str, Any]

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


def measure_of(evaluation: Mapping[str, Any]) -> Measure:
    """Return the figure that a run of this task is judged by."""
    if evaluation["task"] == "classify":
        return Measure("accuracy", "accuracy", "points", scale=100.0)
    if evaluation["task"] == "upscale":
        return Measure("psnr_y", "PSNR on luma", "dB")
    names = [
        name
        for name in evaluation["splits"]["val"]
        if name.startswith("fd_") and not name.endswith("_floor")
    ]
    return Measure(names[0], f"Fréchet distance ({names[0]})", "", higher_is_better=False)


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


def variants_of(finished: Sequence[Finished], measure: Measure) -> list[VariantResult]:
    """Gather the runs of each variant, in the order of the plan."""
    titles = dict.fromkeys(each.planned.variant for each in finished)
    return [
        _variant(title, [each for each in finished if each.planned.variant == title], measure)
        for title in titles
    ]


def _variant(title: str, runs: list[Finished], measure: Measure) -> VariantResult:
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
    """Return the names of the images of a split and the figure of each (N,), in the order of names;
    None without such.
    """
    task = each.evaluation["task"]
    if task not in IMAGE_FIGURES:
        return None

    column, rows = IMAGE_FIGURES[task], _predictions(each, split)
    of_row: Callable[[dict[str, str]], float] = (
        (lambda row: float(row["prediction"] == row["target"]))
        if column is None
        else (lambda row: float(row[column]))
    )
    return (
        (tuple(name for name, _ in rows), np.array([of_row(row) for _, row in rows]))
        if rows
        else None
    )


def image_groups(each: Finished, split: str) -> dict[str, str]:
    """Return the group of each image of a split that belongs together with others, by the name in
    `image_figures`.
    """
    return {name: row["group"] for name, row in _predictions(each, split) if row.get("group")}


def _predictions(each: Finished, split: str) -> list[tuple[str, dict[str, str]]]:
    """Return the predictions of a split with a name for each, in the order of names; none where
    there is no file.
    """
    path = each.run.path / "predictions.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    return sorted(
        ((f"{row['name']} {row['position']}", row) for row in rows), key=lambda named: named[0]
    )

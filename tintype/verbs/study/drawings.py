"""The figures of a study: what its variants reach over their seeds, against each cost, and its runs
of the first seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tintype.pages import figures
from tintype.pages.drawings import Drawing
from tintype.pages.section import SPLIT_NAMES
from tintype.runs.ranking import Criterion, ranking_part
from tintype.tasks.contract.compare import Group, Progress
from tintype.verbs.compare import Comparison, compare
from tintype.verbs.compare.charts import Point, Scale
from tintype.verbs.compare.figures import (
    COSTS,
    DrawnFigures,
    cost_drawing,
    histories,
    of_the_task,
    ranking_drawing,
)
from tintype.verbs.study.effects import by_data
from tintype.verbs.study.figures import VariantResult, variants_of
from tintype.verbs.study.folder import StudyFolder
from tintype.verbs.study.result import Result

FOLDER = "figures"
MOST_COMPARED = 12  # runs whose pictures, pairs and histories are shown
STUDY_COSTS = ("parameters", "multiply_adds", "training_seconds")


def figures_of(
    study: StudyFolder, result: Result | None, comparison: Comparison | None
) -> DrawnFigures:
    """Return the figures of a study, a set for the variants on each data set.

    Histories and confusions come from the `comparison` of the runs of the first seed, as
    `compare_first_seed` makes it.
    """
    if result is None:
        return DrawnFigures(str(study.path), [])
    finished = [each for variant in result.variants for each in variant.finished]
    sets = list(by_data(study.declaration, finished).values())

    drawn = []
    for number, members in enumerate(sets, 1):
        suffix = f"-{number}" if len(sets) > 1 else ""
        variants = ordered(variants_of(members, result.measure), result.measure)
        own = _of_variants(variants, result.split, result.measure, "", suffix)
        for further in ranking_part(members[0].task).FURTHER:
            by_title = {variant.title: variant for variant in variants_of(members, further)}
            in_order = [by_title[variant.title] for variant in variants]
            own += _of_variants(in_order, result.split, further, f"-{further.key}", suffix)
        drawn.append(own + _of_runs(comparison, {variant.title for variant in variants}, suffix))

    return DrawnFigures(str(study.path), drawn)


def ordered(variants: Sequence[VariantResult], measure: Criterion) -> list[VariantResult]:
    """Return variants in their order on validation, the best first."""
    return sorted(variants, key=lambda variant: -measure.sign * (variant.mean("val") or 0.0))


def compare_first_seed(result: Result, progress: Progress | None = None) -> Comparison | None:
    """Compare the best variants by their runs of the first seed.

    Only these are paired image by image.

    Returns:
        The comparison, or None of fewer than two variants.

    Raises:
        UserError: they cannot be compared, as where predictions are missing.
    """
    best = ordered(result.variants, result.measure)[:MOST_COMPARED]
    if len(best) < 2:
        return None
    runs, names = [variant.finished[0].run for variant in best], [variant.title for variant in best]
    return compare(runs, names=names, split=result.split, latency=False, progress=progress)


def _of_variants(
    variants: Sequence[VariantResult], split: str, measure: Criterion, end: str, suffix: str
) -> list[Drawing]:
    """Return what the variants reach, and the same against each cost."""
    measured = [variant for variant in variants if variant.values.get(split)]
    value = _scale(measured, measure, split)
    ranked = ranking_drawing(
        _points(measured, split, measure, ""), value, f"ranking{end}{suffix}", "variants"
    )

    found = [ranked] if ranked else []
    for cost in STUDY_COSTS:
        name, points = (
            f"cost-{cost.replace('_', '-')}{end}{suffix}",
            _points(measured, split, measure, cost),
        )
        drawing = cost_drawing(points, COSTS[cost], value, name, "variants")
        found += [drawing] if drawing else []

    return found


def _scale(variants: Sequence[VariantResult], measure: Criterion, split: str) -> Scale:
    """Return how the axis of a figure is called: of several seeds, what its dots and bars are."""
    most = max((len(variant.values[split]) for variant in variants), default=1)
    title = f"{SPLIT_NAMES[split].capitalize()} {measure.label}"
    if most > 1:
        title += f", mean over {most} seeds (bars: lowest to highest)"
    return Scale(title, *measure.axis, higher_is_better=measure.higher_is_better)


def _points(
    variants: Sequence[VariantResult], split: str, measure: Criterion, cost: str
) -> list[Point]:
    """Return the mean of each variant over its seeds, with the lowest and highest; of one seed,
    with its interval.
    """
    colours = figures.class_colours(len(variants))

    costs = [_costs(variant).get(cost, 0.0) for variant in variants]
    return [
        Point(
            v.title,
            spent,
            float(np.mean(v.values[split])),
            _bounds(v, split, measure),
            colour,
            number,
        )
        for number, (v, spent, colour) in enumerate(zip(variants, costs, colours, strict=True), 1)
    ]


def _costs(variant: VariantResult) -> Mapping[str, float]:
    spent = (variant.parameters, variant.multiply_adds, variant.seconds)
    return dict(zip(STUDY_COSTS, map(float, spent), strict=True))


def _bounds(variant: VariantResult, split: str, measure: Criterion) -> tuple[float, float] | None:
    values = variant.values[split]
    if len(values) > 1:
        return min(values), max(values)
    interval = variant.finished[0].evaluation["splits"][split].get(f"{measure.key}_ci95")
    return (interval[0], interval[1]) if interval else None


def _of_runs(comparison: Comparison | None, titles: set[str], suffix: str) -> list[Drawing]:
    """Return histories and confusions of the runs that stand for these variants; none where they
    were not compared.
    """
    if comparison is None:
        return []
    groups = [
        group
        for group in comparison.groups
        if len(group.rows) > 1 and titles.issuperset(_names(group))
    ]
    if len(groups) != 1:
        return []

    over_training = histories(comparison.task, groups[0], suffix)
    found = [over_training] if over_training else []
    return found + of_the_task(comparison.task, groups[0], suffix)


def _names(group: Group) -> list[str]:
    return [run.name for run in group.runs]

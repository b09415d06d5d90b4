"""Regressions on the same test images: paired differences of absolute errors, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tintype.errors import UserError
from tintype.tasks.contract.compare import (
    Column,
    Group,
    HistoryCurve,
    Pair,
    PairColumn,
    Progress,
    Ranked,
    conclude,
    figure_column,
    more_needed,
)
from tintype.tasks.contract.compared_run import (
    Compared,
    groups_of,
    remark_on_folds,
    remark_on_groups,
)
from tintype.tasks.contract.paired import folds_column, gathered, paired_means
from tintype.tasks.regress.answers import answers_of
from tintype.tasks.regress.charts import Answers
from tintype.tasks.regress.metrics import in_digits
from tintype.tasks.regress.ranking import R2, ranked_by

COLUMNS: Sequence[str] = ()
NUMBERS: Sequence[str] = ()  # their names follow from those of the numbers
APART = "different data or numbers"
PAIRED = (
    "Each run compared with {best} on the same images: the mean absolute error of {best} less that "
    "of the other, below zero where {best} is nearer, "
    "with Student's paired 95 % interval and p-value"
)
METHOD = (
    "Runs are ranked by their mean absolute error. Differences are paired image by image; one is "
    "called significant if p < 0.05 in the paired t-test after Holm's correction for all pairs."
)
HISTORY_AXIS = "epoch"

SHOWN = (
    "mae", "mae_ci95", "rmse", "rmse_ci95", "r2", "r2_ci95", "spearman", "baseline_mae",
    "relative_mae", "relative_mae_ci95",
)  # fmt: skip


def groups(runs: Sequence[Compared]) -> list[Group]:
    """Return the runs in groups that share numbers and test images, ranked by MAE.

    Of several numbers it is the MAE of each in parts of what the mean of the training numbers
    leaves, averaged over the numbers: their units differ.

    Raises:
        UserError: a run has no predictions, or damaged ones.
    """
    return [_group(members) for members in gathered(runs, same_images)]


def same_images(one: Compared, other: Compared) -> bool:
    """Return whether two runs were measured on the same images, for the same numbers."""
    if one.evaluation.get("columns") != other.evaluation.get("columns"):
        return False
    if one.table["name"] != other.table["name"]:
        return False
    pairs = zip(_answers(one), _answers(other), strict=True)
    return all(bool((a.targets == b.targets).all()) for a, b in pairs)


def _answers(run: Compared) -> list[Answers]:
    try:
        return answers_of(run.table, run.evaluation["columns"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{run.folder.path / 'predictions.csv'} is broken ({error}). "
            f"Leave {run.name} out, or train it again."
        ) from None


def _group(runs: list[Compared]) -> Group:
    errors = absolute_errors(runs)
    order = sorted(range(len(runs)), key=lambda i: float(errors[i].mean()))
    runs = [runs[i] for i in order]
    errors = [errors[i] for i in order]
    names = runs[0].evaluation["columns"]
    best = runs[0].figures

    title = f"{runs[0].data.get('name')}, {', '.join(names)}, {best['num_images']:,} images"
    group = Group(title, runs, [_row(run) for run in runs])
    criterion = ranked_by(best)
    group.pairs = paired_means(
        runs,
        errors,
        criterion.key,
        lambda pair: _sentence(pair, criterion.label),
        higher_is_better=False,
        further=lambda differences: {"wilcoxon_p": wilcoxon_p(differences)},
    )
    reached = f"{criterion.label}, {in_digits(best[criterion.key])}"
    if criterion.key == "mae":
        reached += f" (always the mean: {in_digits(best['baseline_mae'])})"
    text = conclude(group, f"the highest {reached}")
    group.conclusion = text.replace("the highest", "the lowest", 1)
    group.remarks = [
        *remark_on_folds(runs, criterion.label, "the paired t-test"),
        *remark_on_groups(groups_of(runs), "images"),
    ]
    return group


def _row(run: Compared) -> dict[str, Any]:
    figures = run.figures
    clean = figures.get("without_leaked")
    return {
        **run.facts,
        "num_images": figures["num_images"],
        **{key: figures[key] for key in SHOWN if key in figures},
        **({} if clean is None else {"mae_without_leaked": clean["mae"]}),
    }


def absolute_errors(runs: Sequence[Compared]) -> list[np.ndarray]:
    """Return the absolute errors (N,) of each run.

    Of several numbers they are in parts of what one number for all images would leave.
    """
    answers = [_answers(run) for run in runs]
    if len(answers[0]) == 1:
        return [abs(each[0].residuals) for each in answers]

    # one measure for all runs, whatever the mean of their training images was
    floors = [abs(each.targets - each.targets.mean()).mean() for each in answers[0]]
    units = [floor or 1.0 for floor in floors]
    return [
        np.mean([abs(a.residuals) / unit for a, unit in zip(each, units, strict=True)], axis=0)
        for each in answers
    ]


def wilcoxon_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where nothing differs."""
    from scipy.stats import wilcoxon

    found: Any = wilcoxon(differences) if differences.any() else (0.0, 1.0)
    return float(found[1])


def _sentence(pair: Pair, unit: str) -> str:
    size = f"{in_digits(abs(pair.estimate))} {unit}"
    if pair.ci95:
        # as a gain of the first run, which has the smaller error
        low, high = sorted(-end for end in pair.ci95)
        size += f" ({in_digits(low)} to {in_digits(high)})"

    if pair.shown:
        return f"{pair.better} is better than {pair.other} by {size}"
    text = f"no difference can be shown between {pair.better} and {pair.other}: {size}"
    return f"{text}{more_needed(pair.more['more_images'], 'test images')}"


# ---- tables and figures --------------------------------------------------------------------------


def figures(group: Group) -> list[Ranked]:
    """Return the MAE and R²."""
    criterion = ranked_by(group.runs[0].figures)
    error = Ranked(
        criterion, f"{criterion.label}, lower is better", in_digits, f"{criterion.key}_ci95"
    )
    return [error, Ranked(R2, "R²", in_digits, "r2_ci95")]


def columns(group: Group) -> dict[str, Column]:
    """Return the errors, R² and the rank correlation."""
    heads = {"mae": "MAE", "relative_mae": "of the mean's", "rmse": "RMSE", "r2": "R²"}
    heads["spearman"] = "Spearman"
    if any("mae_without_leaked" in row for row in group.rows):
        heads["mae_without_leaked"] = "without leaks"
    return {key: figure_column(key, head, in_digits) for key, head in heads.items()}


def pair_columns(group: Group) -> list[PairColumn]:
    """Return on how many images the better run is nearer, and Wilcoxon's p-value."""
    return [
        PairColumn(
            "Nearer on",
            lambda pair: pair.more["num_better"],
            lambda pair: f"{pair.more['num_better']:,} of {pair.more['num_images']:,}",
        ),
        PairColumn(
            "Wilcoxon's p",
            lambda pair: pair.more["wilcoxon_p"],
            lambda pair: f"{pair.more['wilcoxon_p']:.2g}",
        ),
        *folds_column(group, in_digits),
    ]


def curves(group: Group) -> list[HistoryCurve]:
    """Return MAE and R² on validation."""
    del group
    return [
        HistoryCurve("val_mae", "MAE on validation"),
        HistoryCurve("val_r2", "R² on validation"),
    ]


def facts(run: Compared) -> dict[tuple[str, str], Any]:
    """Return the numbers that are answered with."""
    return {("data", "numbers"): ", ".join(run.evaluation.get("columns") or [])}


def measure_costs(
    runs: Sequence[Compared], device: str, progress: Progress | None
) -> dict[str, Any]:
    """Measure nothing."""
    del runs, device, progress
    return {}

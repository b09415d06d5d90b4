"""The figures of a comparison: what runs reach, what that costs, how they were trained, what they
take for what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.errors import UserError
from tintype.pages import figures, print_figures, words
from tintype.pages.drawings import Drawing, Library, check_library, write_drawings
from tintype.runs.reading import read_metrics
from tintype.verbs.compare import charts as comparison_figures
from tintype.verbs.compare import print_charts as comparison_print
from tintype.verbs.compare.charts import Point, Scale

if TYPE_CHECKING:
    from tintype.tasks.contract.compare import Group
    from tintype.verbs.compare import Comparison

COSTS = {
    "parameters": Scale("parameters"),
    "multiply_adds": Scale("multiply-adds"),
    "training_seconds": Scale("training time", "~g", " s"),
    "latency_1_ms": Scale("latency of one image", "~g", " ms"),
    "latency_64_ms": Scale("latency of a batch of 64", "~g", " ms"),
}
HISTORIES = {
    "classify": {"val_accuracy": "Validation accuracy", "val_loss": "Validation loss"},
    "upscale": {"val_psnr_y": "PSNR on validation, dB", "val_ssim_y": "SSIM on validation"},
}
HISTORY, CONFUSION = "histories", "confusion-difference"  # what their files are called


class DrawnFigures:
    """Figures of several runs, each as a Plotly figure, or as a Matplotlib figure where `library` says so.

    Of runs that cannot all be ranked against each other, each set (from 1 on) has figures of its
    own.
    """

    def __init__(self, what: str, sets: Sequence[Sequence[Drawing]]) -> None:
        self._what, self._sets = what, sets

    @property
    def drawings(self) -> list[Drawing]:
        """All figures, with the names of their files."""
        return [drawing for each in self._sets for drawing in each]

    def ranking(
        self, figure: str = "", library: Library = "plotly", *, number: int = 1
    ) -> go.Figure | Figure:
        """Draw what each reaches, with its interval: the figure by which they are ranked, or "loss".

        Raises:
            UserError: there is no such figure, or an unknown library.
        """
        return self._draw(_named("ranking", figure), library, number)

    def against(
        self,
        cost: str = "parameters",
        figure: str = "",
        library: Library = "plotly",
        *,
        number: int = 1,
    ) -> go.Figure | Figure:
        """Draw what each reaches against what it costs: parameters, multiply_adds, training_seconds, or a latency.

        Raises:
            UserError: there is no such figure, as where all cost the same, or an unknown library.
        """
        return self._draw(_named(f"cost-{cost.replace('_', '-')}", figure), library, number)

    def history(self, library: Library = "plotly", *, number: int = 1) -> go.Figure | Figure:
        """Draw the validation figures over the training of all runs.

        Raises:
            UserError: nothing was logged, or an unknown library.
        """
        return self._draw(HISTORY, library, number)

    def confusion(self, library: Library = "plotly", *, number: int = 1) -> go.Figure | Figure:
        """Draw how the confusion matrix of the first run differs from that of the second.

        Raises:
            UserError: they are no classifiers, or an unknown library.
        """
        return self._draw(CONFUSION, library, number)

    def save(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG and SVG, and return the paths; figures that tintype wrote before are replaced.

        Raises:
            UserError: a file that tintype did not write is in the way, or nothing may be written
                there.
        """
        return write_drawings(Path(folder), self.drawings)

    def _draw(self, name: str, library: str, number: int) -> go.Figure | Figure:
        check_library(library)
        if not 1 <= number <= len(self._sets):
            raise UserError(
                f"{self._what} has {len(self._sets)} sets of runs to rank, and no number {number}."
            )

        drawings = {_without_number(each.name, number): each for each in self._sets[number - 1]}
        if name not in drawings:
            raise UserError(
                f"{self._what} has no figure {name}. It has {', '.join(drawings) or 'none'}."
            )

        drawing = drawings[name]
        return drawing.plotly() if library == "plotly" else drawing.matplotlib()

    def __repr__(self) -> str:
        return f"Figures({', '.join(drawing.name for drawing in self.drawings)})"


def _named(name: str, figure: str) -> str:
    return (
        f"{name}-loss"
        if figure == "loss"
        else f"{name}-{figure}"
        if figure not in ("", "accuracy")
        else name
    )


def _without_number(name: str, number: int) -> str:
    return name.removesuffix(f"-{number}")


def figures_of(comparison: Comparison) -> DrawnFigures:
    """Return the figures of a comparison, a set for each group of runs that can be ranked."""
    ranked = [group for group in comparison.groups if len(group.rows) > 1]
    suffixes = [f"-{number}" if len(ranked) > 1 else "" for number in range(1, len(ranked) + 1)]
    sets = [
        drawings_of(comparison, group, suffix)
        for group, suffix in zip(ranked, suffixes, strict=True)
    ]
    return DrawnFigures("this comparison", sets)


def drawings_of(comparison: Comparison, group: Group, suffix: str) -> list[Drawing]:
    """Return all figures of a group; `suffix` ends their names where there are several groups."""
    found = [
        *rankings(comparison, group, suffix),
        *(drawing for _, drawing in against_costs(comparison, group, suffix)),
    ]
    others = (histories(comparison, group, suffix), confusion(comparison, group, suffix))
    return found + [drawing for drawing in others if drawing is not None]


def value_of(task: str, group: Group) -> tuple[str, str, Callable[[float], str], str]:
    """Return the figure by which a group is ranked: its key, that of its interval, how it is
    written, and its title.
    """
    if task == "classify":
        digits = 2 if group.rows[0]["num_images"] >= 5000 else 1
        split = "Test" if group.runs[0].split == "test" else "Validation"
        return "accuracy", "accuracy_ci95", lambda v: words.percent(v, digits), f"{split} accuracy"
    if task == "upscale":
        return "psnr_y", "", lambda v: f"{v:.2f} dB", "PSNR"
    measure = group.details["measure"]
    return measure, "", lambda v: f"{v:.4g}", f"{measure}, lower is nearer"


def _measures(task: str, group: Group) -> list[tuple[str, str, Scale, str]]:
    """Return the figures that are drawn: key, that of the interval, how the axis is written, and
    the end of the name.
    """
    key, interval, _, title = value_of(task, group)
    form, unit = {"classify": (".1~%", ""), "upscale": (".2f", " dB")}.get(task, ("~g", ""))
    measures = [(key, interval, Scale(title, form, unit, higher_is_better=task != "generate"), "")]
    if task == "classify":
        loss = Scale(title.replace("accuracy", "log loss"), "~g", higher_is_better=False)
        measures.append(("loss", "", loss, "-loss"))
    return measures


def rankings(comparison: Comparison, group: Group, suffix: str) -> list[Drawing]:
    """Return what each run reaches: the figure by which they are ranked, and the log loss of
    classifiers.
    """
    found = []
    for key, interval, value, end in _measures(comparison.task, group):
        drawing = ranking_drawing(
            _points(group, key, interval, ""), value, f"ranking{end}{suffix}", "runs"
        )
        found += [drawing] if drawing else []
    return found


def ranking_drawing(points: list[Point], value: Scale, name: str, what: str) -> Drawing | None:
    """Return a figure of what each of several `what` reaches, None of fewer than two."""
    if len(points) < 2:
        return None
    return Drawing(
        name,
        f"{value.title} of {len(points)} {what}.",
        lambda: comparison_figures.ranking(points, value),
        lambda: comparison_print.ranking(points, value),
    )


def against_costs(comparison: Comparison, group: Group, suffix: str) -> list[tuple[str, Drawing]]:
    """Return each figure against each cost in which the runs differ, with what the choice among
    them is called.
    """
    found = []
    for key, interval, value, end in _measures(comparison.task, group):
        for cost in COSTS:
            points, name = (
                _points(group, key, interval, cost),
                f"cost-{cost.replace('_', '-')}{end}{suffix}",
            )
            drawing = cost_drawing(points, COSTS[cost], value, name, "runs")
            if drawing is not None:
                found.append((COSTS[cost].title + (", log loss" if end else ""), drawing))
    return found


def cost_drawing(
    points: list[Point], cost: Scale, value: Scale, name: str, what: str
) -> Drawing | None:
    """Return a figure of what each of several `what` reaches against a cost, None where all cost
    the same.
    """
    if len({point.cost for point in points}) < 2:
        return None
    return Drawing(
        name,
        f"{value.title} of {len(points)} {what} against {cost.title}, with the Pareto front.",
        lambda: comparison_figures.against_cost(points, cost, value, legend=True),
        lambda: comparison_print.against_cost(points, cost, value),
    )


def _points(group: Group, key: str, interval: str, cost: str) -> list[Point]:
    colours = figures.class_colours(len(group.rows))
    return [
        Point(
            row["name"], float(row[cost]) if cost else 0.0, row[key],
            tuple(row[interval]) if row.get(interval) else None, colour, number,
        )
        for number, (row, colour) in enumerate(zip(group.rows, colours, strict=True), 1)
        if row.get(key) is not None and (not cost or row.get(cost) is not None)
    ]  # fmt: skip


def histories(comparison: Comparison, group: Group, suffix: str) -> Drawing | None:
    """Return the validation figures of all runs over their training, None where nothing was logged."""
    columns, x = HISTORIES.get(comparison.task), "epoch"
    if columns is None:
        key = f"val_{group.details['measure']}"
        columns, x = {key: f"{group.details['measure']} on validation"}, "step"

    metrics = {run.name: read_metrics(run.folder.path / "metrics.csv") for run in group.runs}
    panels = comparison_figures.overlaid(metrics, columns, x)
    if not panels:
        return None

    return Drawing(
        HISTORY + suffix,
        f"{' and '.join(panel.title for panel in panels)} of {len(group.runs)} runs over their training.",
        lambda: figures.history(panels, x),
        lambda: print_figures.history(panels, x),
    )


def confusion(comparison: Comparison, group: Group, suffix: str) -> Drawing | None:
    """Return how the confusion matrix of the first run differs from that of the second; None
    without two.
    """
    one, other = group.runs[:2]
    first, second = (
        (run.evaluation.get("confusion") or {}).get(comparison.split) for run in (one, other)
    )
    names: list[Any] = group.details.get("class_names") or []
    if not (first and second and len(first) == len(second) == len(names)):
        return None

    return Drawing(
        CONFUSION + suffix,
        f"Confusion matrix of {one.name} less that of {other.name}, {len(names)} classes.",
        lambda: comparison_figures.confusion_difference(first, second, names),
        lambda: comparison_print.confusion_difference(
            first, second, names, f"{one.name} less {other.name}"
        ),
    )

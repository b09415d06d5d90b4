"""The figures of a comparison: what runs reach, what that costs, and how they were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.errors import UserError
from tintype.pages import figures, print_figures
from tintype.pages.drawings import Drawing, Library, check_library, write_drawings
from tintype.runs.reading import read_metrics
from tintype.tasks.contract.compare import Ranked, compare_page_part, compare_part
from tintype.verbs.compare import charts, print_charts
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
HISTORY = "histories"  # what its file is called


class DrawnFigures:
    """Figures of several runs, each as a Plotly or a Matplotlib figure.

    `library` says which. Of runs that cannot all be ranked against each other, each set (from 1 on)
    has figures of its own.
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
        """Draw what each reaches, with its interval.

        That is the figure by which they are ranked, or "loss".

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
        """Draw what each reaches against what it costs.

        That is parameters, multiply_adds, training_seconds, or a latency.

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
        """Draw the "confusion-difference" of the first two runs, which classifiers have.

        Raises:
            UserError: as `draw`.
        """
        return self._draw("confusion-difference", library, number)

    def draw(
        self, name: str, library: Library = "plotly", *, number: int = 1
    ) -> go.Figure | Figure:
        """Draw a figure by the name of its file.

        Raises:
            UserError: there is no such figure, or an unknown library.
        """
        return self._draw(name, library, number)

    def save(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG and SVG, and return the paths.

        Figures that tintype wrote before are replaced.

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
    return f"{name}-{figure}" if figure else name


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
    over_training = histories(comparison.task, group, suffix)
    return [
        *rankings(comparison.task, group, suffix),
        *(drawing for _, drawing in against_costs(comparison.task, group, suffix)),
        *([over_training] if over_training else []),
        *of_the_task(comparison.task, group, suffix),
    ]


def _ranked(task: str, group: Group) -> list[tuple[Ranked, Scale, str]]:
    """Return the figures that are drawn, with their axis and the end of their name."""
    found = []
    for number, ranked in enumerate(compare_part(task).figures(group)):
        higher = ranked.criterion.higher_is_better
        scale = Scale(ranked.title, *ranked.criterion.axis, higher_is_better=higher)
        found.append((ranked, scale, f"-{ranked.criterion.key}" if number else ""))
    return found


def rankings(task: str, group: Group, suffix: str) -> list[Drawing]:
    """Return what each run reaches, in each figure that is drawn."""
    found = []
    for ranked, scale, end in _ranked(task, group):
        points = _points(group, ranked, "")
        drawing = ranking_drawing(points, scale, f"ranking{end}{suffix}", "runs")
        found += [drawing] if drawing else []
    return found


def ranking_drawing(points: list[Point], value: Scale, name: str, what: str) -> Drawing | None:
    """Return a figure of what each of several `what` reaches, None of fewer than two."""
    if len(points) < 2:
        return None
    return Drawing(
        name,
        f"{value.title} of {len(points)} {what}.",
        lambda: charts.ranking(points, value),
        lambda: print_charts.ranking(points, value),
    )


def against_costs(task: str, group: Group, suffix: str) -> list[tuple[str, Drawing]]:
    """Return each figure against each cost in which the runs differ, with its name in a choice."""
    found = []
    for ranked, scale, end in _ranked(task, group):
        for key, cost in COSTS.items():
            name = f"cost-{key.replace('_', '-')}{end}{suffix}"
            drawing = cost_drawing(_points(group, ranked, key), cost, scale, name, "runs")
            if drawing is not None:
                further = f", {ranked.criterion.label}" if end else ""
                found.append((f"{cost.title}{further}", drawing))
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
        lambda: charts.against_cost(points, cost, value, legend=True),
        lambda: print_charts.against_cost(points, cost, value),
    )


def _points(group: Group, ranked: Ranked, cost: str) -> list[Point]:
    key = ranked.criterion.key
    colours = figures.class_colours(len(group.rows))
    points = []
    for number, (row, colour) in enumerate(zip(group.rows, colours, strict=True), 1):
        spent = row.get(cost) if cost else 0.0
        if row.get(key) is None or spent is None:
            continue
        bounds = tuple(row[ranked.interval]) if row.get(ranked.interval) else None
        points.append(Point(row["name"], float(spent), row[key], bounds, colour, number))
    return points


def histories(task: str, group: Group, suffix: str) -> Drawing | None:
    """Return the validation figures of all runs over their training, if any were logged."""
    part = compare_part(task)
    x = part.HISTORY_AXIS
    metrics = {run.name: read_metrics(run.folder.path / "metrics.csv") for run in group.runs}
    panels = charts.overlaid(metrics, part.curves(group), x)
    if not panels:
        return None

    titles = " and ".join(panel.title for panel in panels)
    return Drawing(
        HISTORY + suffix,
        f"{titles} of {len(group.runs)} runs over their training.",
        lambda: figures.history(panels, x),
        lambda: print_figures.history(panels, x),
    )


def of_the_task(task: str, group: Group, suffix: str) -> list[Drawing]:
    """Return the figures that only runs of this task have."""
    part = compare_page_part(task)
    if part is None or len(group.runs) < 2:
        return []
    return [replace(each, name=f"{each.name}{suffix}") for each in part.drawings(group)]

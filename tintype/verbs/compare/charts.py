"""Interactive figures of a comparison (Plotly).

Rankings, a figure against cost, training curves.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tintype.pages import figures
from tintype.pages.figures import COLOURS, Panel, Series
from tintype.tasks.contract.compare import HistoryCurve

NUMBER = "#14110f"  # the number in a dot: at least 4:1 on every colour of `class_colours`
LOGARITHMIC = 8.0  # the dearest by the cheapest from which on a cost has a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A run among others: what it costs, what it reaches with its interval, where there is one, its
    number in the plot.
    """

    name: str
    cost: float
    value: float
    bounds: tuple[float, float] | None
    colour: str
    number: int


@dataclass(frozen=True)
class Scale:
    """How an axis is called, and how its values are written."""

    title: str
    format: str = "~s"  # of d3
    suffix: str = ""
    higher_is_better: bool = True


def pareto_front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[Point]:
    """Return the points that no other one beats in both cost and value, the cheapest first."""
    sign = 1 if higher_is_better else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.value)):
        if not front or sign * point.value > sign * front[-1].value:
            front.append(point)
    return front


def logarithmic(points: Sequence[Point]) -> bool:
    """Return whether the costs span so much that their axis is logarithmic."""
    costs = [point.cost for point in points]
    return min(costs) > 0 and max(costs) / min(costs) >= LOGARITHMIC


def against_cost(
    points: Sequence[Point], cost: Scale, value: Scale, *, legend: bool = False
) -> go.Figure:
    """Draw what each run reaches against what it costs, with its interval and the Pareto front.

    Each dot holds the run's number, by which the page or the `legend` names it: names in the plot
    would be cut at its edges and crossed by the front.
    """
    figure = figures.new_figure(height=400)
    front = pareto_front(points, higher_is_better=value.higher_is_better)
    figure.add_trace(
        go.Scatter(
            x=[p.cost for p in front],
            y=[p.value for p in front],
            mode="lines",
            name="Pareto front",
            hoverinfo="skip",
            line={"color": COLOURS["guide"], "width": 1.5, "dash": "dot", "shape": "hv"},
            meta={"role": "guide"},
            showlegend=False,
        )
    )

    for point in points:
        low, high = point.bounds or (point.value, point.value)
        name = f"{point.number}  {point.name}" if legend else point.name
        figure.add_trace(
            go.Scatter(
                x=[point.cost],
                y=[point.value],
                name=html.escape(name),
                showlegend=legend,
                cliponaxis=False,
                mode="markers+text",
                text=[str(point.number)],
                textposition="middle center",
                textfont={"size": 11, "color": NUMBER},
                marker={"color": point.colour, "size": 19, "line": {"width": 0}},
                error_y={
                    "type": "data",
                    "array": [high - point.value],
                    "arrayminus": [point.value - low],
                    "color": point.colour,
                    "thickness": 1.2,
                    "width": 3,
                    "visible": point.bounds is not None,
                },
                hovertemplate="<b>%{fullData.name}</b>"
                f"<br>{value.title} %{{y:{value.format}}}{value.suffix}"
                f"<br>{cost.title} %{{x:{cost.format}}}{cost.suffix}<extra></extra>",
            )
        )

    x_axis: dict[str, Any] = {"tickformat": cost.format, "ticksuffix": cost.suffix}
    x_axis |= {"range": _cost_range(points), "type": "log" if logarithmic(points) else "linear"}
    if logarithmic(points) and _decades(points) < 2:
        x_axis["dtick"] = "D2"  # 1, 2, 5, 10, ...
    common = {"gridcolor": COLOURS["grid"], "zeroline": False}
    figure.update_layout(
        hovermode="closest",
        margin={"t": 24, "r": 24},
        xaxis={**common, **x_axis, "title": {"text": cost.title}},
        yaxis={
            **common,
            "title": {"text": value.title},
            "tickformat": value.format,
            "ticksuffix": value.suffix,
        },
    )

    return figure


def ranking(points: Sequence[Point], value: Scale) -> go.Figure:
    """Draw what each run reaches, with its interval.

    There is a line for each, in their order from the top.
    """
    figure = figures.new_figure(height=110 + 30 * len(points))
    for place, point in enumerate(points):
        low, high = point.bounds or (point.value, point.value)
        figure.add_trace(
            go.Scatter(
                x=[point.value],
                y=[place],
                name=html.escape(point.name),
                showlegend=False,
                mode="markers",
                marker={"color": point.colour, "size": 11, "line": {"width": 0}},
                cliponaxis=False,
                error_x={
                    "type": "data",
                    "array": [high - point.value],
                    "arrayminus": [point.value - low],
                    "color": point.colour,
                    "thickness": 1.2,
                    "width": 3,
                    "visible": point.bounds is not None,
                },
                hovertemplate="<b>%{fullData.name}</b>"
                f"<br>{value.title} %{{x:{value.format}}}{value.suffix}<extra></extra>",
            )
        )

    common = {"gridcolor": COLOURS["grid"], "zeroline": False}
    names = [html.escape(point.name) for point in points]
    figure.update_layout(
        hovermode="closest",
        margin={"t": 12, "r": 24},
        xaxis={
            **common,
            "title": {"text": value.title},
            "tickformat": value.format,
            "ticksuffix": value.suffix,
        },
        yaxis={
            **common,
            "tickvals": list(range(len(points))),
            "ticktext": names,
            "range": [len(points) - 0.5, -0.5],
        },
    )

    return figure


def _decades(points: Sequence[Point]) -> float:
    return math.log10(max(p.cost for p in points) / min(p.cost for p in points))


def _cost_range(points: Sequence[Point]) -> list[float]:
    """Return the ends of the cost axis (powers of ten of a logarithmic one), with room at both
    sides.
    """
    costs = [point.cost for point in points]
    if logarithmic(points):
        low, high = math.log10(min(costs)), math.log10(max(costs))
    else:
        low, high = min(costs), max(costs)
    room = 0.08 * ((high - low) or abs(high) or 1.0)
    return [low - room, high + room]


def overlaid(
    histories: Mapping[str, Mapping[str, Sequence[float]]], shown: Sequence[HistoryCurve], x: str
) -> list[Panel]:
    """Arrange the same columns of many runs' metrics.csv.

    There is a panel for each column, a curve for each run. `histories` holds the columns of each
    run by its name.
    """
    colours = dict(zip(histories, figures.class_colours(len(histories)), strict=True))
    panels = []
    for curve in shown:
        curves = []
        for name, metrics in histories.items():
            pairs = zip(metrics.get(x, []), metrics.get(curve.column, []), strict=False)
            known = [(a, b) for a, b in pairs if not math.isnan(a + b)]
            if known:
                xs, ys = figures.thinned(np.array(known), 400)
                curves.append(
                    Series(name, xs.tolist(), ys.tolist(), "guide", "points", colours[name])
                )
        panels.append(Panel(curve.title, curves, 1.0, percent=curve.percent))

    return [panel for panel in panels if panel.series]

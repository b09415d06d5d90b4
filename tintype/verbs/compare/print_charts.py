"""Static twins of a comparison's figures (Matplotlib), for print and papers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from tintype.pages.figures import COLOURS
from tintype.pages.print_figures import STYLE, new_figure, short
from tintype.verbs.compare.charts import NUMBER, Point, Scale, logarithmic, pareto_front


@matplotlib.rc_context(STYLE)
def against_cost(points: Sequence[Point], cost: Scale, value: Scale) -> Figure:
    """Draw what each run reaches against what it costs, with its interval and the Pareto front.

    Dots hold numbers, and the legend says which run each number is.
    """
    figure = new_figure(4.6, 3.2 + 0.16 * math.ceil(len(points) / 2))
    ax = figure.subplots()
    front = pareto_front(points, higher_is_better=value.higher_is_better)
    steps = {
        "color": COLOURS["guide"],
        "linestyle": ":",
        "linewidth": 1.1,
        "drawstyle": "steps-post",
    }
    ax.plot([p.cost for p in front], [p.value for p in front], **steps)

    for point in points:
        low, high = point.bounds or (point.value, point.value)
        bars = [[point.value - low], [high - point.value]]
        ax.errorbar(
            point.cost,
            point.value,
            yerr=bars,
            fmt="o",
            color=point.colour,
            elinewidth=0.9,
            capsize=2,
            markersize=9,
        )
        ax.plot(
            [],
            [],
            "o",
            color=point.colour,
            markersize=6,
            label=f"{point.number}  {short(point.name, 32)}",
        )
        ax.text(
            point.cost,
            point.value,
            str(point.number),
            ha="center",
            va="center_baseline",
            fontsize=6,
            color=NUMBER,
        )

    if logarithmic(points):
        ax.set_xscale("log")
    ax.margins(x=0.12)
    ax.set(
        xlabel=cost.title + (f" ({cost.suffix.strip()})" if cost.suffix else ""), ylabel=value.title
    )
    if "%" in value.format:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if cost.format == "~s":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))

    figure.legend(loc="outside lower left", ncols=2, fontsize=7, handletextpad=0.2, columnspacing=1)
    return figure


@matplotlib.rc_context(STYLE)
def ranking(points: Sequence[Point], value: Scale) -> Figure:
    """Draw what each run reaches, with its interval.

    There is a line for each, in their order from the top.
    """
    figure = new_figure(5.2, 0.7 + 0.26 * len(points))
    ax = figure.subplots()
    for place, point in enumerate(points):
        low, high = point.bounds or (point.value, point.value)
        bars = [[point.value - low], [high - point.value]]
        ax.errorbar(
            point.value,
            place,
            xerr=bars,
            fmt="o",
            color=point.colour,
            elinewidth=0.9,
            capsize=2,
            markersize=5,
        )

    ax.set_yticks(range(len(points)), [short(point.name, 40) for point in points])
    ax.set(xlabel=value.title, ylim=(len(points) - 0.5, -0.5))
    if "%" in value.format:
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))

    return figure

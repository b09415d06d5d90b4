"""Static twins of a comparison's figures (Matplotlib), for print and papers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from tintype.report.comparison_figures import NUMBER, Point, Scale, logarithmic, pareto_front, signed
from tintype.report.figures import COLOURS, CONFUSION_RIGHT, CONFUSION_WRONG
from tintype.report.print_figures import STYLE, name_axes, new_figure


@matplotlib.rc_context(STYLE)
def against_cost(points: Sequence[Point], cost: Scale, value: Scale) -> Figure:
    """Draw what each run reaches against what it costs, with 95 % intervals and the Pareto front; dots hold numbers."""
    figure = new_figure(4.6, 3.2)
    ax = figure.subplots()
    front = pareto_front(points, higher_is_better=value.higher_is_better)
    steps = {"color": COLOURS["guide"], "linestyle": ":", "linewidth": 1.1, "drawstyle": "steps-post"}
    ax.plot([p.cost for p in front], [p.value for p in front], **steps)
    for point in points:
        low, high = point.bounds or (point.value, point.value)
        bars = [[point.value - low], [high - point.value]]
        ax.errorbar(
            point.cost, point.value, yerr=bars, fmt="o", color=point.colour, elinewidth=0.9, capsize=2, markersize=9
        )
        ax.text(point.cost, point.value, str(point.number), ha="center", va="center_baseline", fontsize=6, color=NUMBER)
    if logarithmic(points):
        ax.set_xscale("log")
    ax.margins(x=0.12)
    ax.set(xlabel=cost.title + (f" ({cost.suffix.strip()})" if cost.suffix else ""), ylabel=value.title)
    if "%" in value.format:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if cost.format == "~s":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


@matplotlib.rc_context(STYLE)
def confusion_difference(
    one: Sequence[Sequence[int]] | np.ndarray, other: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Draw how one confusion matrix differs from another: in one colour where it is better, in another where worse."""
    change = np.asarray(one) - np.asarray(other)
    better = np.where(np.eye(len(change), dtype=bool), change > 0, change < 0)
    size = min(9.5, max(3.6, 1.6 + 0.42 * len(change)))
    figure = new_figure(size, size)
    ax = figure.subplots()
    for shown, scale in ((better, CONFUSION_RIGHT), (~better & (change != 0), CONFUSION_WRONG)):
        colours = LinearSegmentedColormap.from_list("", list(scale))
        sizes = np.ma.masked_where(~shown, abs(change))
        ax.imshow(sizes, cmap=colours, vmin=0, vmax=max(1, abs(change).max()), interpolation="nearest")
    if len(change) <= 20:
        for row, column in np.argwhere(change != 0):
            ax.text(column, row, signed(change[row, column]), ha="center", va="center", fontsize=7)
    name_axes(ax, class_names)
    return figure

"""Static twins of a classifier's figures (Matplotlib), for print and papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tintype.pages.figures import (
    COLOURS,
    MAX_LEGEND,
    class_colours,
    dot_sizes,
    interval_bars,
    percent_ticks,
)
from tintype.pages.print_figures import STYLE, legend_below, new_figure, short
from tintype.tasks.classify.charts import (
    CONFUSION_RIGHT,
    CONFUSION_WRONG,
    accuracy_range,
    filled_bins,
    reliability_range,
    signed,
)


@matplotlib.rc_context(STYLE)
def confusion(matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, with one colour scale for the diagonal and one for the errors."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    size = min(9.5, max(3.6, 1.6 + 0.42 * len(counts)))
    figure = new_figure(size, size)

    ax = figure.subplots()
    for keep, scale in ((diagonal, CONFUSION_RIGHT), (~diagonal, CONFUSION_WRONG)):
        shown = np.ma.masked_where(~keep | (counts == 0), share)
        top = float(shown.max()) if shown.count() else 1.0
        bottom = -0.4 * top if len(counts) > 20 else 0  # small cells need the stronger colours
        colours = LinearSegmentedColormap.from_list("", list(scale))
        ax.imshow(shown, cmap=colours, vmin=bottom, vmax=top, interpolation="nearest")

    if len(counts) <= 20:
        for row, column in np.argwhere(counts > 0):
            size = 8 if len(counts) <= 12 else 6
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size)

    name_axes(ax, class_names)
    return figure


def name_axes(ax: Axes, class_names: Sequence[str]) -> None:
    """Write the classes at both axes of a confusion matrix."""
    small = 8 if len(class_names) <= 20 else max(3.5, 8 - 0.05 * len(class_names))
    labels = [short(str(name)) for name in class_names]
    upright = len(labels) <= 12 and max(map(len, labels), default=0) <= 3
    ax.set_xticks(range(len(labels)), labels, rotation=0 if upright else 90, fontsize=small)
    ax.set_yticks(range(len(labels)), labels, fontsize=small)
    ax.set(xlabel="prediction", ylabel="true class")
    ax.grid(False)
    ax.tick_params(length=0)


@matplotlib.rc_context(STYLE)
def reliability(
    bins: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
) -> Figure:
    """Draw accuracy against confidence with 95 % intervals, a dot for each bin."""
    bins, before = filled_bins(bins), filled_bins(before)
    counts = [int(each["count"]) for each in bins]
    x, y = [each["confidence"] for each in bins], [each["accuracy"] for each in bins]
    ends = reliability_range(bins, before)

    figure = new_figure(4.2, 4.2)
    ax = figure.subplots()
    ax.plot(ends, ends, ":", color=COLOURS["guide"], linewidth=1.2, label="perfectly calibrated")
    if before:
        middle = [each["confidence"] for each in before], [each["accuracy"] for each in before]
        ax.scatter(
            *middle,
            s=14,
            facecolors="none",
            edgecolors=COLOURS["guide"],
            label="without temperature",
        )
    ax.errorbar(
        x,
        y,
        yerr=interval_bars(bins, "accuracy", "count"),
        fmt="none",
        ecolor=COLOURS["val"],
        elinewidth=0.9,
        capsize=2,
    )
    areas = [(0.55 * size) ** 2 for size in dot_sizes(counts, largest=11)]
    ax.scatter(
        x, y, s=areas, color=COLOURS["val"], zorder=3, label="this model, with 95 % intervals"
    )

    ticks = percent_ticks(ends, 6)
    ax.set(xlim=ends, ylim=ends, xticks=ticks, yticks=ticks, xlabel="confidence", ylabel="accuracy")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    legend_below(figure)
    return figure


@matplotlib.rc_context(STYLE)
def class_sizes(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the recall of each class with its 95 % interval against the number of its training
    images.
    """
    x, y = [row["trained"] for row in rows], [row["recall"] for row in rows]
    figure = new_figure(4.6, 3.2)
    ax = figure.subplots()
    bars = interval_bars(rows, "recall", "support")
    ax.errorbar(
        x, y, yerr=bars, fmt="o", color=COLOURS["val"], elinewidth=0.9, capsize=2, markersize=4
    )

    if len(rows) <= MAX_LEGEND:
        for row in rows:
            place = (row["trained"], row["recall"])
            ax.annotate(
                short(str(row["name"]), 14), place, (4, 3), textcoords="offset points", fontsize=6.5
            )

    ax.set_xscale("log" if max(x) > 20 * min(x) else "linear")
    ax.set(xlabel="training images", ylabel="recall")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))

    return figure


@matplotlib.rc_context(STYLE)
def risk_coverage(
    curves: Mapping[str, Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw accuracy among the answered images against their share, and where the thresholds lie on
    test.
    """
    figure = new_figure(4.6, 3.2)
    ax = figure.subplots()
    for split, name in (("val", "validation"), ("test", "test")):
        if split in curves:
            curve = curves[split]
            ax.step(
                curve["coverage"],
                curve["accuracy"],
                color=COLOURS[split],
                linewidth=1.3,
                label=name,
                where="post",
            )

    for target in targets:
        if target.get("test", {}).get("accuracy") is not None:
            place = (target["test"]["coverage"], target["test"]["accuracy"])
            ax.plot(*place, "o", color=COLOURS["right"], markersize=4.5, clip_on=False)
            ax.annotate(
                f"{target['accuracy']:.0%}",
                place,
                (-4, -3),
                textcoords="offset points",
                fontsize=7,
                ha="right",
                va="top",
            )

    ax.set(
        xlim=(0, 1.02),
        ylim=accuracy_range(curves),
        xlabel="images answered",
        ylabel="accuracy of the answers",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    legend_below(figure)

    return figure


@matplotlib.rc_context(STYLE)
def embedding(found: Mapping[str, Any], class_names: Sequence[str]) -> Figure:
    """Draw points of test images coloured by true class, mistakes ringed."""
    target, prediction = np.array(found["target"]), np.array(found["prediction"])
    x, y = np.array(found["x"]), np.array(found["y"])
    figure = new_figure(5.2, 5.2)

    ax = figure.subplots()
    for k, colour in enumerate(class_colours(len(class_names))):
        own = target == k
        label = (
            short(str(class_names[k]), 14) if len(class_names) <= MAX_LEGEND and own.any() else None
        )
        ax.scatter(x[own], y[own], s=9, color=colour, linewidths=0, alpha=0.8, label=label)

    wrong = target != prediction
    label = "mistakes" if wrong.any() else None
    ax.scatter(
        x[wrong],
        y[wrong],
        s=36,
        facecolors="none",
        edgecolors=COLOURS["wrong"],
        linewidths=0.9,
        label=label,
    )
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    if len(class_names) <= MAX_LEGEND or wrong.any():
        figure.legend(
            loc="outside upper left", ncols=5, fontsize=7, handletextpad=0.2, columnspacing=1
        )

    return figure


@matplotlib.rc_context(STYLE)
def confusion_difference(
    one: Sequence[Sequence[int]] | np.ndarray,
    other: Sequence[Sequence[int]] | np.ndarray,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw how one confusion matrix differs from another: in one colour where it is better, in
    another where worse.
    """
    change = np.asarray(one) - np.asarray(other)
    better = np.where(np.eye(len(change), dtype=bool), change > 0, change < 0)
    size = min(9.5, max(3.6, 1.6 + 0.42 * len(change)))
    figure = new_figure(size, size)

    ax = figure.subplots()
    for shown, scale in ((better, CONFUSION_RIGHT), (~better & (change != 0), CONFUSION_WRONG)):
        colours = LinearSegmentedColormap.from_list("", list(scale))
        sizes = np.ma.masked_where(~shown, abs(change))
        ax.imshow(
            sizes, cmap=colours, vmin=0, vmax=max(1, abs(change).max()), interpolation="nearest"
        )

    if len(change) <= 20:
        for row, column in np.argwhere(change != 0):
            ax.text(column, row, signed(change[row, column]), ha="center", va="center", fontsize=7)

    name_axes(ax, class_names)
    ax.set_title(title)
    return figure

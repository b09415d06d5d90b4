"""Static figures for papers and for print (Matplotlib): plain data in, a figure out.

They are drawn without pyplot, so that no global state is touched and no window system is needed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from tintype.pages.figures import (
    COLOURS,
    CONFUSION_RIGHT,
    CONFUSION_WRONG,
    MAX_LEGEND,
    Panel,
    accuracy_range,
    class_colours,
    dot_sizes,
    filled_bins,
    interval_bars,
    percent_range,
    percent_ticks,
    reliability_range,
    whole_ticks,
)
from tintype.pages.pictures import Card

DPI = 200
# What a file of each kind holds near its start if it was written here.
MARKS = {"png": b"Software\0tintype", "svg": b"<dc:title>tintype</dc:title>"}
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["guide"],
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called "$x^$"
}


class ShownFigure(Figure):
    """A figure that shows itself in a notebook, also without pyplot and `%matplotlib inline`."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = png(self)
        # two pixels in one, for fine screens
        return content, {"width": int.from_bytes(content[16:20], "big") // 2}


def png(figure: Figure) -> bytes:
    """Render a figure as PNG, 200 dots per inch."""
    return _rendered(figure, "png", {"Software": "tintype"})


def svg(figure: Figure) -> bytes:
    """Render a figure as SVG with its letters as outlines; the same figure gives the same bytes."""
    return _rendered(figure, "svg", {"Creator": "tintype", "Date": None})


def _rendered(figure: Figure, form: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    look = {"dpi": DPI, "bbox_inches": "tight", "pad_inches": 0.05, "facecolor": "white"}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "tintype"}), warnings.catch_warnings():
        # Names of classes come from the user; a letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=form, metadata=metadata, **look)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@matplotlib.rc_context(STYLE)
def history(panels: Sequence[Panel], x_title: str = "epoch") -> Figure:
    """Draw panels one above the other over a shared x axis."""
    figure = new_figure(6.5, 0.7 + 2.0 * sum(panel.share for panel in panels))
    ratios = [panel.share for panel in panels]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        for series in panel.series:
            faint = series.style == "faint"
            few = len(series.x) == 1 or (series.style == "points" and len(series.x) < 40)
            look = {
                "linewidth": 0.7 if faint else 1.5,
                "alpha": 0.35 if faint else 1,
                "marker": "o" if few else None,
            }
            ax.plot(
                series.x,
                series.y,
                color=series.colour or COLOURS[series.role],
                label=f"_{series.name}" if faint else series.name,
                markersize=3,
                **look,
            )
        ax.set_title(panel.title)
        if panel.percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            ax.set_ylim(percent_range(panel))
            ax.set_yticks(percent_ticks(percent_range(panel), 6 if panel.share > 0.5 else 3))
        # The title of a panel names its curve where there is only one, not counting the same one
        # unsmoothed.
        named = sum(series.style != "faint" for series in panel.series) > 1
        if named and (ax is axes[0] or not panel.series[0].colour):
            ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3)

    axes[-1].set_xlabel(x_title)
    if whole_ticks([x for panel in panels for series in panel.series for x in series.x]):
        axes[-1].xaxis.set_major_locator(MultipleLocator(1))

    return figure


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
    _legend_below(figure)
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
    curves: Mapping[str, Mapping[str, Any]], wishes: Sequence[Mapping[str, Any]]
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

    for wish in wishes:
        if wish.get("test", {}).get("accuracy") is not None:
            place = (wish["test"]["coverage"], wish["test"]["accuracy"])
            ax.plot(*place, "o", color=COLOURS["right"], markersize=4.5, clip_on=False)
            ax.annotate(
                f"{wish['accuracy']:.0%}",
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
    _legend_below(figure)

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
def picture_grid(cards: Sequence[Card], columns: int = 6) -> Figure:
    """Draw pictures in rows with the true class, the prediction and its confidence below each."""
    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    figure = ShownFigure(figsize=(1.1 * columns, 1.42 * rows))
    FigureCanvasAgg(figure)

    # One coordinate system for all pictures: an Axes for each of them would take seconds.
    ax = figure.add_axes((0, 0, 1, 1))
    for number, card in enumerate(cards):
        x, y = number % columns, -1.3 * (number // columns)
        colour = COLOURS["right" if card.correct else "wrong"]
        image = np.asarray(card.image)
        height, width = image.shape[0] / max(image.shape[:2]), image.shape[1] / max(image.shape[:2])
        box = (x + 0.5 - 0.45 * width, x + 0.5 + 0.45 * width, y - 0.45 * height, y + 0.45 * height)
        crisp = "nearest" if card.tiny else "antialiased"
        ax.imshow(
            image, cmap="gray", vmin=0, vmax=255, extent=box, interpolation=crisp, aspect="auto"
        )
        ax.plot(
            np.take(box, [0, 1, 1, 0, 0]),
            np.take(box, [2, 2, 3, 3, 2]),
            color=colour,
            linewidth=1.4,
            clip_on=False,
        )
        mark = "✓" if card.correct else "✗"
        text = (
            short(card.target, 16)
            if card.correct
            else f"{short(card.target, 10)} → {short(card.prediction, 10)}"
        )
        ax.text(
            x + 0.5,
            y - 0.52,
            f"{mark} {text}\n{card.confidence:.0%}",
            ha="center",
            va="top",
            fontsize=6,
            color=colour,
        )

    ax.set(xlim=(-0.05, columns + 0.05), ylim=(-1.3 * rows + 0.5, 0.5))
    ax.axis("off")
    return figure


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.4)


def short(text: str, length: int = 22) -> str:
    """Return a text cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "…"

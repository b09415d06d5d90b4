"""Interactive figures (Plotly): plain data in, a figure out.

A figure looks right by itself, in a notebook say, on a light ground. So that a page can switch
between light and dark, each trace names its role in `meta`, and `templates/page.js` gives it the
colour that the page has for that role.
"""

from __future__ import annotations

import colorsys
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from tintype.statistics import wilson_interval

# One colour for each role, for a light ground; they stay distinct under the common kinds of colour
# blindness (after Okabe and Ito). style.css holds the same roles for a dark ground.
COLOURS = {
    "train": "#b5622c",
    "val": "#1f6a9c",
    "test": "#211c17",
    "rate": "#6f6659",
    "right": "#00704f",
    "wrong": "#b04400",
    "guide": "#8c8274",
    "ink": "#211c17",
    "grid": "#e4dccf",
}
CONFUSION_RIGHT = ((0.0, "#eef4f0"), (1.0, "#8cc5ae"))
CONFUSION_WRONG = ((0.0, "#fbf1e7"), (1.0, "#e99a63"))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_POINTS = 1500
# Of classes: of middle lightness, so that they stand on a light and on a dark ground.
CLASS_COLOURS = (
    "#3b7dd8", "#d97a2b", "#3c9a68", "#c24b78", "#8668c4", "#9a8425", "#2f9cae", "#b4503c", "#74869a", "#7a9a34",
)  # fmt: skip
MAX_LEGEND = 12  # classes that a legend can name
PERCENT_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


@dataclass(frozen=True)
class Series:
    """One curve: `x` and `y` of equal length, without NaN. `role` picks the colour; "faint" lies behind the others.

    With a `colour` of its own it stays as it is on a light and on a dark ground, and is named once
    for all panels.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    role: str
    style: Literal["line", "faint", "points"] = "line"
    colour: str = ""


@dataclass(frozen=True)
class Panel:
    """One of several diagrams that share the x axis; `share` is its part of the height."""

    title: str
    series: Sequence[Series]
    share: float = 1.0
    percent: bool = False


def history_panels(metrics: Mapping[str, Sequence[float]], *, smooth: bool = True) -> list[Panel]:
    """Arrange the columns of metrics.csv as loss, accuracy and learning rate; what was never logged is left out.

    What was measured on training batches, which is noisy, comes twice: faint as it is, and smoothed
    by an exponential mean; without `smooth`, once, each value as it was logged. It is of the images
    as they were trained on, augmentation and dropout included.
    """
    x = metrics.get("epoch") or metrics.get("step") or []
    loss = _noisy(x, metrics.get("loss", []), smooth)
    val_loss = _column("validation", x, metrics.get("val_loss", []), "val", "points")
    batches = _noisy(x, metrics.get("train_accuracy", []), smooth)
    clean = _column(
        "training, not augmented", x, metrics.get("clean_train_accuracy", []), "train", "points"
    )
    accuracy = _column("validation", x, metrics.get("val_accuracy", []), "val", "points")
    rate = _column("learning rate", x, metrics.get("lr", []), "rate", "line")
    panels = [
        Panel("Loss", [s for s in (*loss, val_loss) if len(s.x)], share=1.0),
        Panel(
            "Accuracy",
            [s for s in (*batches, clean, accuracy) if len(s.x)],
            share=0.8,
            percent=True,
        ),
        Panel("Learning rate", [s for s in (rate,) if len(s.x)], share=0.42),
    ]

    return [panel for panel in panels if panel.series]


def _noisy(x: Sequence[float], y: Sequence[float], smooth: bool) -> list[Series]:
    if not smooth:
        known = [(a, b) for a, b in zip(x, y, strict=False) if not (math.isnan(a) or math.isnan(b))]
        return [Series("training", [a for a, _ in known], [b for _, b in known], "train")]
    each = _column("training, each interval", x, y, "train", "faint")
    return [each, Series("training", each.x, smoothed(each.y), "train")]


def _column(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    role: str,
    style: Literal["line", "faint", "points"],
) -> Series:
    pairs = [(a, b) for a, b in zip(x, y) if not (math.isnan(a) or math.isnan(b))]  # noqa: B905 (a column may be absent)
    if not pairs:
        return Series(name, [], [], role, style)
    xs, ys = thinned(np.array(pairs))
    return Series(name, xs.tolist(), ys.tolist(), role, style)


def thinned(points: np.ndarray, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of `points` (N, 2), averaged over equal groups so that at most `max_points`
    remain.
    """
    if len(points) > max_points:
        points = np.array([group.mean(axis=0) for group in np.array_split(points, max_points)])
    return points[:, 0], points[:, 1]


def smoothed(y: Sequence[float]) -> list[float]:
    """Return the exponential moving mean over about a fortieth of the points, corrected for its
    start (as in Adam).
    """
    decay = 1 - 2 / (max(1.0, len(y) / 40) + 1)
    result, mean = [], 0.0
    for step, value in enumerate(y, start=1):
        mean = decay * mean + (1 - decay) * value
        result.append(mean / (1 - decay**step))
    return result


def history(panels: Sequence[Panel], x_title: str = "epoch") -> go.Figure:
    """Draw panels one above the other over a shared x axis, with one hover label for all."""
    figure = new_figure(height=round(80 + 230 * sum(panel.share for panel in panels)))
    gap = 0.13 if len(panels) > 1 else 0.0
    scale = (1 - gap * (len(panels) - 1)) / (sum(panel.share for panel in panels) or 1)
    top = 1.0

    in_legend: set[str] = set()
    for number, panel in enumerate(panels, start=1):
        axis = "y" if number == 1 else f"y{number}"
        bottom = max(0.0, top - panel.share * scale)
        for series in panel.series:
            # The title of a panel names its curve where there is only one, not counting the same
            # one unsmoothed.
            named = sum(each.style != "faint" for each in panel.series) > 1 and (
                number == 1 or not series.colour
            )
            named = named and series.name not in in_legend
            figure.add_trace(_curve(series, axis, panel.percent, legend=named))
            if named and series.style != "faint":
                in_legend.add(series.name)
        figure.update_layout(
            {
                f"yaxis{number if number > 1 else ''}": {
                    "domain": [bottom, top],
                    "anchor": "x",
                    **(_percent_axis(panel) if panel.percent else {}),
                    "automargin": True,
                    "nticks": 6 if panel.share > 0.5 else 3,
                    "gridcolor": COLOURS["grid"],
                    "zeroline": False,
                }
            }
        )
        _title(figure, panel.title, top)
        top = bottom - gap

    lowest = "y" if len(panels) < 2 else f"y{len(panels)}"
    x_axis = {
        "title": {"text": x_title},
        "anchor": lowest,
        "gridcolor": COLOURS["grid"],
        "zeroline": False,
    }
    x_axis |= whole_ticks([x for panel in panels for series in panel.series for x in series.x])
    x_axis |= {"spikethickness": 1, "spikedash": "solid", "spikecolor": COLOURS["guide"]}
    figure.update_layout(
        xaxis=x_axis, hovermode="x unified", hoversubplots="axis", margin={"t": 32}
    )

    return figure


def percent_range(panel: Panel) -> list[float]:
    """Return the ends of an axis of shares, so far around them that no curve lies on the frame, not
    even one at 100 %.
    """
    values = [y for series in panel.series for y in series.y]
    high = max(values)
    low = max(0.0, min(*values, high - 0.05))
    room = 0.08 * max(high - low, 0.05)
    return [low - room, high + room]


def percent_ticks(ends: Sequence[float], most: int) -> list[float]:
    """Return the ticks of an axis of shares, none beyond 0 and 100 %."""
    low, high = max(0.0, ends[0]), min(1.0, ends[1])
    step = next(
        (step for step in PERCENT_STEPS if (high - low) / step <= most - 1), PERCENT_STEPS[-1]
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(tick * step, 6) for tick in range(first, last + 1)]


def _percent_axis(panel: Panel) -> dict[str, Any]:
    ends = percent_range(panel)
    return {
        "tickformat": ".4~p",
        "range": ends,
        "tickvals": percent_ticks(ends, 6 if panel.share > 0.5 else 3),
    }


def whole_ticks(values: Sequence[float], most: int = 8) -> dict[str, Any]:
    """Return the ticks of an axis of counts (epochs, steps): whole ones also where there are few of
    them.
    """
    return {"dtick": 1} if values and max(values) - min(0, *values) <= most else {}


def _curve(series: Series, axis: str, percent: bool, legend: bool) -> go.Scatter:
    few = len(series.x) < 40
    mode = {"faint": "lines", "line": "lines", "points": "lines+markers" if few else "lines"}[
        series.style
    ]
    if len(series.x) == 1:
        mode = "markers"
    colour = series.colour or COLOURS[series.role]

    return go.Scatter(
        x=list(series.x),
        y=list(series.y),
        yaxis=axis,
        name=html.escape(series.name),
        legendgroup=series.name if series.colour else series.role,
        showlegend=legend and series.style != "faint",
        mode=mode,
        line={"color": colour, "width": 1 if series.style == "faint" else 2.25},
        marker={"color": colour, "size": 6},
        opacity=0.35 if series.style == "faint" else 1.0,
        hoverinfo="skip" if series.style == "faint" else None,
        hovertemplate=None if series.style == "faint" else ("%{y:.2%}" if percent else "%{y:.4g}"),
        meta=None if series.colour else {"role": series.role},
    )


def _title(figure: go.Figure, text: str, y: float) -> None:
    figure.add_annotation(
        text=f"<b>{text}</b>",
        x=0,
        y=y,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        yshift=4,
    )


def confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> go.Figure:
    """Draw a confusion matrix: rows are the true classes, columns the predictions, colour is the share of the row.

    The diagonal and the errors have a scale each, the errors' scale ending at the largest of them:
    on one common scale the errors of a good model would be invisible. Cells hold their number up to
    20 classes.
    """
    counts = np.asarray(matrix)
    names = [html.escape(str(name)) for name in class_names]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)

    figure = new_figure(height=max(420, min(940, 150 + 46 * len(names))))
    for role, keep, scale in (
        ("right", diagonal, CONFUSION_RIGHT),
        ("wrong", ~diagonal, CONFUSION_WRONG),
    ):
        shown = keep & (counts > 0)
        top = max(float(share[shown].max()) if shown.any() else 1.0, 1e-9)
        numbers = (
            {"text": np.where(shown, counts, "").tolist(), "texttemplate": "%{text}"}
            if len(names) <= 20
            else {}
        )
        figure.add_trace(
            go.Heatmap(
                x=names,
                y=names,
                z=_rounded(share, shown),
                customdata=counts.tolist(),
                colorscale=scale,
                # cells of few pixels need the stronger colours
                zmin=-0.4 * top if len(names) > 20 else 0,
                zmax=top,
                showscale=False,
                xgap=1 if len(names) <= 40 else 0,
                ygap=1 if len(names) <= 40 else 0,
                hoverongaps=False,
                hovertemplate=(
                    "<b>%{y}</b> taken for <b>%{x}</b>"
                    if role == "wrong"
                    else "<b>%{y}</b> recognised"
                )
                + "<br>%{customdata} images, %{z:.1%} of the class<extra></extra>",
                textfont={"color": COLOURS["ink"]},
                meta={"role": role},
                **numbers,
            )
        )

    axis = {
        "type": "category",
        "showgrid": False,
        "ticks": "",
        "tickfont": {"size": 12 if len(names) <= 40 else 8},
    }
    every = {"tickmode": "linear", "dtick": 1}  # all names, though Plotly would thin them out
    figure.update_layout(
        xaxis={**axis, **every, "title": {"text": "prediction"}, "tickangle": tick_angle(names)},
        yaxis={**axis, **every, "title": {"text": "true class"}, "autorange": "reversed"},
    )

    return figure


def tick_angle(names: Sequence[str]) -> int:
    """Return the angle at which names of classes stand below a matrix."""
    if len(names) > 20:
        return -90
    return 0 if len(names) * max(map(len, names)) <= 60 else -45


def _rounded(share: np.ndarray, shown: np.ndarray) -> list[list[float | None]]:
    # Rounded and without NaN, a matrix of 100 classes takes a fifth of the space in the page.
    return [
        [round(float(value), 4) if keep else None for value, keep in zip(row, keeps, strict=True)]
        for row, keeps in zip(share, shown, strict=True)
    ]


def reliability(
    bins: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
) -> go.Figure:
    """Draw accuracy against confidence with 95 % intervals, a dot for each bin.

    `bins` are mappings with low, high, count, confidence (mean) and accuracy; empty bins may hold
    None. No line joins the dots: in bins of a few images it would draw the eye to chance. `before`
    are the bins without temperature.
    """
    bins, before = filled_bins(bins), filled_bins(before)
    x = [each["confidence"] for each in bins]
    y = [each["accuracy"] for each in bins]
    counts = [int(each["count"]) for each in bins]
    below, above = interval_bars(bins, "accuracy", "count")
    ends = reliability_range(bins, before)

    figure = new_figure(height=480)
    figure.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": COLOURS["guide"], "dash": "dot", "width": 1.5},
            hoverinfo="skip", name="perfectly calibrated", meta={"role": "guide"},
        )
    )  # fmt: skip
    if before:
        figure.add_trace(
            go.Scatter(
                x=[each["confidence"] for each in before],
                y=[each["accuracy"] for each in before],
                mode="markers",
                name="without temperature",
                marker={
                    "color": COLOURS["guide"],
                    "size": 8,
                    "symbol": "circle-open",
                    "line": {"width": 1.5},
                },
                hovertemplate="without temperature<br>confidence %{x:.1%}<br>accuracy %{y:.1%}<extra></extra>",
                meta={"role": "guide"},
            )
        )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            name="this model, with 95 % intervals",
            marker={
                "color": COLOURS["val"],
                "size": dot_sizes(counts, largest=11),
                "opacity": 1,
                "line": {"width": 0},
            },
            error_y={
                "type": "data",
                "array": above,
                "arrayminus": below,
                "color": COLOURS["val"],
                "thickness": 1.2,
                "width": 3,
            },
            customdata=[[each["count"], each["low"], each["high"]] for each in bins],
            hovertemplate="confidence %{x:.1%} (%{customdata[1]:.1%} to %{customdata[2]:.1%})<br>accuracy %{y:.1%}"
            "<br>%{customdata[0]} images<extra></extra>",
            meta={"role": "val"},
        )
    )

    share = {"tickformat": ".0%", "range": ends, "gridcolor": COLOURS["grid"], "zeroline": False}
    figure.update_layout(
        margin={"t": 12},
        hovermode="closest",
        xaxis={**share, "title": {"text": "confidence"}},
        yaxis={**share, "title": {"text": "accuracy"}},
    )
    return figure


def filled_bins(bins: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the bins that hold images."""
    return [each for each in bins if each.get("count")]


def reliability_range(*groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the ends of both axes: from the tenth below the lowest dot, with room so that dots at
    100 % are whole.
    """
    shown = [each[key] for bins in groups for each in bins for key in ("confidence", "accuracy")]
    low = max(0.0, math.floor(10 * min(shown, default=0.0) - 0.5) / 10)
    room = 0.03 * (1 - low)
    return [low - room, 1 + room]


def class_sizes(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draw the recall of each class with its 95 % interval against the number of its training images.

    `rows` are mappings with name, recall, support and trained, and the interval recall_ci95 where
    it is not Wilson's.
    """
    recall = [row["recall"] for row in rows]
    low, high = interval_bars(rows, "recall", "support")
    names = [html.escape(str(row["name"])) for row in rows]
    figure = new_figure(height=420)
    figure.add_trace(
        go.Scatter(
            x=[row["trained"] for row in rows],
            y=recall,
            mode="markers+text" if len(rows) <= MAX_LEGEND else "markers",
            text=names,
            textposition="top right",
            textfont={"size": 12},
            cliponaxis=False,
            marker={"color": COLOURS["val"], "size": 9, "line": {"width": 0}},
            error_y={
                "type": "data", "array": high, "arrayminus": low, "color": COLOURS["val"], "thickness": 1.2, "width": 3,
            },
            customdata=[row["support"] for row in rows],
            hovertemplate="<b>%{text}</b><br>trained on %{x:,} images<br>recall %{y:.1%} of %{customdata}<extra></extra>",
            showlegend=False,
            meta={"role": "val"},
        )
    )  # fmt: skip
    figure.update_layout(
        xaxis={
            "title": {"text": "training images"},
            "gridcolor": COLOURS["grid"],
            "zeroline": False,
            **_count_axis(rows),
        },
        yaxis={
            "title": {"text": "recall"},
            "tickformat": ".0%",
            "gridcolor": COLOURS["grid"],
            "zeroline": False,
        },
    )

    return figure


def _count_axis(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = [row["trained"] for row in rows]
    return (
        {"type": "log", "dtick": "D1"}
        if max(counts) > 20 * min(counts)
        else {"rangemode": "tozero"}
    )


def risk_coverage(
    curves: Mapping[str, Mapping[str, Any]], wishes: Sequence[Mapping[str, Any]]
) -> go.Figure:
    """Draw accuracy among the answered images against their share, for validation and test.

    `curves` hold coverage and accuracy for each split; `wishes` are entries of `abstain` in
    evaluation.json, whose thresholds are marked on the curve of the test images.
    """
    figure = new_figure(height=420)
    names = {"val": "validation", "test": "test"}
    for split in (split for split in names if split in curves):
        curve = curves[split]
        figure.add_trace(
            go.Scatter(
                x=curve["coverage"], y=curve["accuracy"], mode="lines", name=names[split],
                line={"color": COLOURS[split], "width": 2.25 if split == "test" else 1.5, "shape": "hv"},
                customdata=curve["threshold"], meta={"role": split},
                hovertemplate="%{x:.1%} answered, from confidence %{customdata:.3f}<br>%{y:.2%} of them right",
            )
        )  # fmt: skip

    marked = [wish for wish in wishes if wish.get("test", {}).get("accuracy") is not None]
    if marked:
        figure.add_trace(
            go.Scatter(
                x=[wish["test"]["coverage"] for wish in marked], y=[wish["test"]["accuracy"] for wish in marked],
                mode="markers+text", name="thresholds", text=[f"{wish['accuracy']:.0%}" for wish in marked],
                textposition="bottom left", marker={"color": COLOURS["right"], "size": 10}, meta={"role": "right"},
                hovertemplate="target %{text}: %{x:.1%} answered, %{y:.2%} of them right<extra></extra>", cliponaxis=False,
            )
        )  # fmt: skip

    figure.update_layout(
        margin={"t": 12},
        hovermode="closest",
        xaxis={
            "title": {"text": "images answered"}, "tickformat": ".0%", "range": [0, 1.04], "gridcolor": COLOURS["grid"],
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "accuracy of the answers"}, "tickformat": ".1~%", "range": accuracy_range(curves),
            "gridcolor": COLOURS["grid"], "zeroline": False,
        },
    )  # fmt: skip
    return figure


def accuracy_range(curves: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Return the range of the accuracy axis: down to the lowest value once a tenth is answered;
    before that, chance rules.
    """
    values = [
        accuracy
        for curve in curves.values()
        for coverage, accuracy in zip(curve["coverage"], curve["accuracy"], strict=True)
        if coverage >= 0.1
    ]
    low = min(values, default=0.0)
    span = max(1 - low, 0.01)
    return [max(0.0, low - 0.06 * span), 1 + 0.06 * span]


def class_colours(count: int) -> list[str]:
    """Return a colour for each class: chosen ones for a few, else hues around the circle."""
    if count <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:count])
    # Neighbours in the list of classes differ in lightness as well.
    rgb = [colorsys.hls_to_rgb(k / count, (0.45, 0.6)[k % 2], 0.55) for k in range(count)]
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in each) for each in rgb]


def embedding(found: Mapping[str, Any], class_names: Sequence[str]) -> go.Figure:
    """Draw points of test images coloured by true class, mistakes ringed.

    `found` holds x, y, target, prediction, confidence and thumbnail for each point; the last three
    go into `customdata`, from which the page shows the picture.
    """
    colours = class_colours(len(class_names))
    target, prediction = np.array(found["target"]), np.array(found["prediction"])
    x, y = np.array(found["x"]), np.array(found["y"])
    data = np.array([target, prediction, found["confidence"], found["thumbnail"]]).T
    figure = new_figure(height=620)
    wrong = target != prediction
    if wrong.any():
        figure.add_trace(
            go.Scatter(
                x=x[wrong].tolist(), y=y[wrong].tolist(), mode="markers", name="mistakes", hoverinfo="skip",
                marker={"color": COLOURS["wrong"], "size": 13, "symbol": "circle-open", "line": {"width": 2}},
                meta={"role": "wrong"},
            )
        )  # fmt: skip

    for k, name in enumerate(class_names):
        own = target == k
        if own.any():
            figure.add_trace(
                go.Scatter(
                    x=x[own].tolist(), y=y[own].tolist(), mode="markers", name=html.escape(str(name)),
                    customdata=data[own].tolist(), hoverinfo="none",
                    marker={"color": colours[k], "size": 7, "opacity": 0.8, "line": {"width": 0}},
                    showlegend=len(class_names) <= MAX_LEGEND,
                )
            )  # fmt: skip

    bare = {
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "showline": False,
    }
    figure.update_layout(
        xaxis=bare,
        yaxis={**bare, "scaleanchor": "x"},
        hovermode="closest",
        legend={"itemsizing": "constant"},
        margin={"t": 8},
    )
    return figure


def dot_sizes(counts: Sequence[int], smallest: float = 6, largest: float = 16) -> list[float]:
    """Return the diameter of a dot for each count, so that its area tells how many images stand
    behind it.
    """
    most = max(counts, default=1)
    return [max(smallest, largest * math.sqrt(count / most)) for count in counts]


def interval_bars(
    rows: Sequence[Mapping[str, Any]], share: str, count: str
) -> tuple[list[float], list[float]]:
    """Return how far the 95 % interval of each row's share reaches below and above it.

    It is the row's own (`share` with _ci95), as of images in groups, or else Wilson's of `count`
    images.
    """
    below, above = [], []
    for row in rows:
        value = row[share]
        low, high = row.get(f"{share}_ci95") or wilson_interval(
            round(value * row[count]), int(row[count])
        )
        below.append(max(0.0, value - low))
        above.append(max(0.0, high - value))
    return below, above


def new_figure(height: int) -> go.Figure:
    """Return an empty figure in the style of the pages."""
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "autosize": True,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": COLOURS["ink"]},
            "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
            # Below the plot, whatever its height: above it are the titles, and the toolbar.
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
            },
            "hoverlabel": {"align": "left"},
            "xaxis": {"automargin": True, "title": {"font": {"size": 13}, "standoff": 10}},
            "yaxis": {"automargin": True, "title": {"font": {"size": 13}, "standoff": 10}},
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": COLOURS["guide"],
                "activecolor": COLOURS["ink"],
            },
        }
    )

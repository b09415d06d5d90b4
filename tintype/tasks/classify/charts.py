"""Interactive figures of a classifier (Plotly): plain data in, a figure out."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tintype.pages.figures import (
    COLOURS,
    MAX_LEGEND,
    class_colours,
    dot_sizes,
    interval_bars,
    new_figure,
)

CONFUSION_RIGHT = ((0.0, "#eef4f0"), (1.0, "#8cc5ae"))


CONFUSION_WRONG = ((0.0, "#fbf1e7"), (1.0, "#e99a63"))


def confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str]
) -> go.Figure:
    """Draw a confusion matrix: rows are the true classes, columns the predictions.

    Colour is the share of the row. The diagonal and the errors have a scale each, the errors' scale
    ending at the largest of them: on one common scale the errors of a good model would be
    invisible. Cells hold their number up to 20 classes.
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
            x=ends,
            y=ends,
            mode="lines",
            line={"color": COLOURS["guide"], "dash": "dot", "width": 1.5},
            hoverinfo="skip",
            name="perfectly calibrated",
            meta={"role": "guide"},
        )
    )
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
                hovertemplate="without temperature<br>confidence %{x:.1%}"
                "<br>accuracy %{y:.1%}<extra></extra>",
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
            hovertemplate="confidence %{x:.1%} (%{customdata[1]:.1%} to %{customdata[2]:.1%})"
            "<br>accuracy %{y:.1%}<br>%{customdata[0]} images<extra></extra>",
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
    """Draw the recall of each class against the number of its training images.

    Each has its 95 % interval. `rows` are mappings with name, recall, support and trained, and the
    interval recall_ci95 where it is not Wilson's.
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
                "type": "data",
                "array": high,
                "arrayminus": low,
                "color": COLOURS["val"],
                "thickness": 1.2,
                "width": 3,
            },
            customdata=[row["support"] for row in rows],
            hovertemplate="<b>%{text}</b><br>trained on %{x:,} images"
            "<br>recall %{y:.1%} of %{customdata}<extra></extra>",
            showlegend=False,
            meta={"role": "val"},
        )
    )
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
    curves: Mapping[str, Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]
) -> go.Figure:
    """Draw accuracy among the answered images against their share, for validation and test.

    `curves` hold coverage and accuracy for each split; `targets` are entries of `abstain` in
    evaluation.json, whose thresholds are marked on the curve of the test images.
    """
    figure = new_figure(height=420)
    names = {"val": "validation", "test": "test"}
    for split in (split for split in names if split in curves):
        curve = curves[split]
        figure.add_trace(
            go.Scatter(
                x=curve["coverage"],
                y=curve["accuracy"],
                mode="lines",
                name=names[split],
                line={
                    "color": COLOURS[split],
                    "width": 2.25 if split == "test" else 1.5,
                    "shape": "hv",
                },
                customdata=curve["threshold"],
                meta={"role": split},
                hovertemplate="%{x:.1%} answered, from confidence %{customdata:.3f}"
                "<br>%{y:.2%} of them right",
            )
        )

    marked = [target for target in targets if target.get("test", {}).get("accuracy") is not None]
    if marked:
        figure.add_trace(
            go.Scatter(
                x=[target["test"]["coverage"] for target in marked],
                y=[target["test"]["accuracy"] for target in marked],
                mode="markers+text",
                name="thresholds",
                text=[f"{target['accuracy']:.0%}" for target in marked],
                textposition="bottom left",
                marker={"color": COLOURS["right"], "size": 10},
                meta={"role": "right"},
                hovertemplate="target %{text}: %{x:.1%} answered, "
                "%{y:.2%} of them right<extra></extra>",
                cliponaxis=False,
            )
        )

    figure.update_layout(
        margin={"t": 12},
        hovermode="closest",
        xaxis={
            "title": {"text": "images answered"},
            "tickformat": ".0%",
            "range": [0, 1.04],
            "gridcolor": COLOURS["grid"],
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "accuracy of the answers"},
            "tickformat": ".1~%",
            "range": accuracy_range(curves),
            "gridcolor": COLOURS["grid"],
            "zeroline": False,
        },
    )
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
                x=x[wrong].tolist(),
                y=y[wrong].tolist(),
                mode="markers",
                name="mistakes",
                hoverinfo="skip",
                marker={
                    "color": COLOURS["wrong"],
                    "size": 13,
                    "symbol": "circle-open",
                    "line": {"width": 2},
                },
                meta={"role": "wrong"},
            )
        )

    for k, name in enumerate(class_names):
        own = target == k
        if own.any():
            figure.add_trace(
                go.Scatter(
                    x=x[own].tolist(),
                    y=y[own].tolist(),
                    mode="markers",
                    name=html.escape(str(name)),
                    customdata=data[own].tolist(),
                    hoverinfo="none",
                    marker={"color": colours[k], "size": 7, "opacity": 0.8, "line": {"width": 0}},
                    showlegend=len(class_names) <= MAX_LEGEND,
                )
            )

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


def confusion_difference(
    one: Sequence[Sequence[int]] | np.ndarray,
    other: Sequence[Sequence[int]] | np.ndarray,
    class_names: Sequence[str],
) -> go.Figure:
    """Draw how the confusion matrix `one` differs from `other`.

    One colour says where it is better, another where it is worse. Better is more images on the
    diagonal, and fewer beside it.
    """
    change = np.asarray(one) - np.asarray(other)
    better = np.where(np.eye(len(change), dtype=bool), change > 0, change < 0)
    names = [html.escape(str(name)) for name in class_names]
    figure = new_figure(height=max(420, min(940, 150 + 46 * len(names))))

    top = max(1, int(abs(change).max()))
    for role, shown, scale in (
        ("right", better, CONFUSION_RIGHT),
        ("wrong", ~better & (change != 0), CONFUSION_WRONG),
    ):
        text = [
            [signed(v) if keep else "" for v, keep in zip(*row, strict=True)]
            for row in zip(change, shown, strict=True)
        ]
        sizes = [
            [abs(int(v)) if keep else None for v, keep in zip(*row, strict=True)]
            for row in zip(change, shown, strict=True)
        ]
        figure.add_trace(
            go.Heatmap(
                x=names,
                y=names,
                z=sizes,
                customdata=text,
                colorscale=scale,
                showscale=False,
                zmax=top,
                zmin=-0.4 * top if len(names) > 20 else 0,
                xgap=1 if len(names) <= 40 else 0,
                ygap=1 if len(names) <= 40 else 0,
                hoverongaps=False,
                textfont={"color": COLOURS["ink"]},
                meta={"role": role},
                hovertemplate="<b>%{y}</b> taken for <b>%{x}</b>"
                "<br>%{customdata} images<extra></extra>",
                **({"text": text, "texttemplate": "%{text}"} if len(names) <= 20 else {}),
            )
        )

    axis = {
        "type": "category",
        "showgrid": False,
        "ticks": "",
        "tickfont": {"size": 12 if len(names) <= 40 else 8},
    }
    every = {"tickmode": "linear", "dtick": 1}
    figure.update_layout(
        xaxis={
            **axis,
            **every,
            "title": {"text": "prediction"},
            "tickangle": tick_angle(names),
        },
        yaxis={**axis, **every, "title": {"text": "true class"}, "autorange": "reversed"},
    )

    return figure


def signed(value: Any) -> str:
    return f"{int(value):+d}".replace("-", "−")

"""Figures of a regression, drawn by either library: predicted against true, and residuals."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.pages import print_figures
from tintype.pages.drawings import Drawing
from tintype.pages.figures import COLOURS, new_figure
from tintype.pages.print_figures import STYLE
from tintype.tasks.regress.metrics import in_digits

MOST_DOTS = 2000  # of more images an even sample in the order of their numbers


@dataclass(frozen=True)
class Answers:
    """One number of each test image (N,): the truth, and the prediction with its interval."""

    column: str
    names: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    low: np.ndarray  # infinite or NaN where there are no intervals
    high: np.ndarray

    @property
    def residuals(self) -> np.ndarray:
        """Prediction less truth."""
        return self.predictions - self.targets

    @property
    def bounded(self) -> bool:
        """Whether there are intervals."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def sample(self) -> Answers:
        """Return at most `MOST_DOTS` images, evenly spread over the order of their numbers."""
        count = len(self.targets)
        if count <= MOST_DOTS:
            return self
        order = np.argsort(self.targets, kind="stable")
        kept = order[np.linspace(0, count - 1, MOST_DOTS).astype(np.int64)]
        arrays = (each[kept] for each in (self.targets, self.predictions, self.low, self.high))
        return Answers(self.column, [self.names[i] for i in kept], *arrays)

    def ends(self) -> list[float]:
        """Return the ends of an axis that holds truth and predictions, with some room."""
        both = np.concatenate([self.targets, self.predictions])
        low = float(both.min())
        high = float(both.max())
        room = 0.04 * (high - low) or 1.0
        return [low - room, high + room]


def agreement(answers: Answers) -> Drawing:
    """Return predictions against the truth, with their intervals where there are some."""
    shown = answers.sample()
    return Drawing(
        "agreement",
        f"Predicted {answers.column} against the true one, a dot for each test image.",
        lambda: _agreement_plotly(shown),
        lambda: _agreement_print(shown),
    )


def residuals(answers: Answers) -> Drawing:
    """Return the errors against the truth, which show where answers are drawn to the mean."""
    shown = answers.sample()
    return Drawing(
        "residuals",
        f"Error of the predicted {answers.column} against the true one, a dot for each test image.",
        lambda: _residuals_plotly(shown),
        lambda: _residuals_print(shown),
    )


def _agreement_plotly(shown: Answers) -> go.Figure:
    ends = shown.ends()
    figure = _with_line(ends, ends, "prediction = truth")
    bars = None
    if shown.bounded:
        bars = {
            "type": "data",
            "array": shown.high - shown.predictions,
            "arrayminus": shown.predictions - shown.low,
            "color": "rgba(31, 106, 156, 0.25)",
            "thickness": 1,
            "width": 0,
        }

    name = "test images, with intervals" if shown.bounded else "test images"
    figure.add_trace(_dots(shown, shown.predictions, name, bars))
    title = html.escape(shown.column)
    figure.update_layout(
        xaxis=_axis(f"true {title}", ends), yaxis=_axis(f"predicted {title}", ends)
    )
    return figure


def _residuals_plotly(shown: Answers) -> go.Figure:
    ends = shown.ends()
    figure = _with_line(ends, [0.0, 0.0], "no error")
    figure.add_trace(_dots(shown, shown.residuals, "test images", None))
    figure.update_layout(
        xaxis=_axis(f"true {html.escape(shown.column)}", ends),
        yaxis=_axis("prediction less truth", None),
    )
    return figure


def _with_line(x: list[float], y: list[float], name: str) -> go.Figure:
    figure = new_figure(height=480)
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines", line={"color": COLOURS["guide"], "dash": "dot", "width": 1.5},
            hoverinfo="skip", name=name, meta={"role": "guide"},
        )
    )  # fmt: skip
    figure.update_layout(margin={"t": 12}, hovermode="closest")
    return figure


def _dots(shown: Answers, y: np.ndarray, name: str, bars: dict[str, Any] | None) -> go.Scatter:
    rows = zip(shown.names, shown.targets, shown.predictions, shown.low, shown.high, strict=True)
    texts = []
    for image, target, prediction, low, high in rows:
        between = f" ({in_digits(low)} to {in_digits(high)})" if shown.bounded else ""
        texts.append(
            f"{html.escape(image)}<br>true {in_digits(target)}"
            f"<br>predicted {in_digits(prediction)}{between}"
        )
    return go.Scatter(
        x=shown.targets, y=y, mode="markers", name=name, error_y=bars,
        marker={"color": COLOURS["val"], "size": 6, "opacity": 0.7, "line": {"width": 0}},
        text=texts, hovertemplate="%{text}<extra></extra>", meta={"role": "val"},
    )  # fmt: skip


def _axis(title: str, ends: list[float] | None) -> dict[str, Any]:
    axis = {"title": {"text": title}, "gridcolor": COLOURS["grid"], "zeroline": False}
    return axis if ends is None else {**axis, "range": ends}


@matplotlib.rc_context(STYLE)
def _agreement_print(shown: Answers) -> Figure:
    ends = shown.ends()
    figure = print_figures.new_figure(4.2, 4.2)
    ax = figure.subplots()
    ax.plot(ends, ends, ":", color=COLOURS["guide"], linewidth=1.2)
    if shown.bounded:
        bars = np.stack([shown.predictions - shown.low, shown.high - shown.predictions])
        ax.errorbar(
            shown.targets, shown.predictions, yerr=bars, fmt="none", ecolor=COLOURS["val"],
            elinewidth=0.5, alpha=0.3,
        )  # fmt: skip
    ax.scatter(shown.targets, shown.predictions, s=6, color=COLOURS["val"], alpha=0.7, zorder=3)
    ax.set(xlim=ends, ylim=ends, xlabel=f"true {shown.column}", ylabel=f"predicted {shown.column}")
    return figure


@matplotlib.rc_context(STYLE)
def _residuals_print(shown: Answers) -> Figure:
    figure = print_figures.new_figure(4.2, 3.2)
    ax = figure.subplots()
    ax.axhline(0, linestyle=":", color=COLOURS["guide"], linewidth=1.2)
    ax.scatter(shown.targets, shown.residuals, s=6, color=COLOURS["val"], alpha=0.7, zorder=3)
    ax.set(xlim=shown.ends(), xlabel=f"true {shown.column}", ylabel="prediction less truth")
    return figure

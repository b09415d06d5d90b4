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
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MAX_POINTS = 1500
# Of classes: of middle lightness, so that they stand on a light and on a dark ground.
CLASS_COLOURS = (
    "#3b7dd8",
    "#d97a2b",
    "#3c9a68",
    "#c24b78",
    "#8668c4",
    "#9a8425",
    "#2f9cae",
    "#b4503c",
    "#74869a",
    "#7a9a34",
)
MAX_LEGEND = 12  # classes that a legend can name
PERCENT_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


@dataclass(frozen=True)
class Series:
    """One curve: `x` and `y` of equal length, without NaN.

    `role` picks the colour; "faint" lies behind the others. With a `colour` of its own it stays as
    it is on a light and on a dark ground, and is named once for all panels.
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
    """Arrange the columns of metrics.csv as loss, validation figures and learning rate.

    The training loss, which is noisy, comes twice: faint as it was logged, and smoothed by an
    exponential mean; without `smooth`, once, as it was logged. What was never logged is left out.
    """
    x = metrics.get("epoch") or metrics.get("step") or []
    loss = noisy(x, metrics.get("loss", []), smooth=smooth)
    val_loss = column("validation", x, metrics.get("val_loss", []), "val", "points")
    panels = [Panel("Loss", [series for series in (*loss, val_loss) if series.x])]

    for name, values in metrics.items():
        if name.startswith("val_") and name != "val_loss":
            curve = column("validation", x, values, "val", "points")
            title = name.removeprefix("val_").replace("_", " ")
            panels.append(Panel(f"{title} on validation", [curve] if curve.x else [], share=0.6))

    rate = column("learning rate", x, metrics.get("lr", []), "rate", "line")
    panels.append(Panel("Learning rate", [rate] if rate.x else [], share=0.42))
    return [panel for panel in panels if panel.series]


def noisy(x: Sequence[float], y: Sequence[float], *, smooth: bool) -> list[Series]:
    """Return a curve measured on training batches: faint as it was logged, and smoothed."""
    if not smooth:
        known = [(a, b) for a, b in zip(x, y, strict=False) if not (math.isnan(a) or math.isnan(b))]
        return [Series("training", [a for a, _ in known], [b for _, b in known], "train")]
    each = column("training, each interval", x, y, "train", "faint")
    return [each, Series("training", each.x, smoothed(each.y), "train")]


def column(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    role: str,
    style: Literal["line", "faint", "points"],
) -> Series:
    """Return a column of metrics.csv as a curve, without NaN."""
    both = zip(x, y, strict=False)  # a column may be absent
    pairs = [(a, b) for a, b in both if not (math.isnan(a) or math.isnan(b))]
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

    faint = series.style == "faint"
    value = "%{y:.2%}" if percent else "%{y:.4g}"
    return go.Scatter(
        x=list(series.x),
        y=list(series.y),
        yaxis=axis,
        name=html.escape(series.name),
        legendgroup=series.name if series.colour else series.role,
        showlegend=legend and not faint,
        mode=mode,
        line={"color": colour, "width": 1 if faint else 2.25},
        marker={"color": colour, "size": 6},
        opacity=0.35 if faint else 1.0,
        hoverinfo="skip" if faint else None,
        hovertemplate=None if faint else value,
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


def class_colours(count: int) -> list[str]:
    """Return a colour for each class: chosen ones for a few, else hues around the circle."""
    if count <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:count])
    # Neighbours in the list of classes differ in lightness as well.
    rgb = [colorsys.hls_to_rgb(k / count, (0.45, 0.6)[k % 2], 0.55) for k in range(count)]
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in each) for each in rgb]


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

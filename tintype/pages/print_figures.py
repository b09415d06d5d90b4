"""Static figures for papers and for print (Matplotlib): plain data in, a figure out.

They are drawn without pyplot, so that no global state is touched and no window system is needed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from tintype.pages.figures import (
    COLOURS,
    Panel,
    percent_range,
    percent_ticks,
    whole_ticks,
)

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


def legend_below(figure: Figure) -> None:
    """Put the legend below the plot."""
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.4)


def short(text: str, length: int = 22) -> str:
    """Return a text cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "…"

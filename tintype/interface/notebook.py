"""A display in a notebook that is updated in place, and the small image of curves it shows.

The browser needs no script, widget or style sheet. The image is an SVG inside an <img>, because
viewers that strip SVG from untrusted pages keep images. It works on light and dark backgrounds.
"""

from __future__ import annotations

import base64
import html
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tintype.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

Points = Sequence[tuple[float, float]]

MOST_POINTS = 300  # per curve; more are averaged, so that an update stays a few kilobytes

# Sizes in pixels: a panel, the gap between two, and the margins of a panel.
WIDTH, HEIGHT = 330, 170
GAP = 20
LEFT = 52
RIGHT = 8
TOP = 24
BOTTOM = 20

COLOURS = ("#c76b2c", "#3c86bd")  # visible on white and on black
GREY = "#8a8a8a"
FONT = "font-family='system-ui, sans-serif' font-size='11'"
# the axis is logarithmic if the largest value is this many times the smallest
LOG_FROM = 20.0


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel.

    IPython is not imported here; a kernel has it already.
    """
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return getattr(get_ipython() if get_ipython else None, "kernel", None) is not None


def link_to(path: Path) -> str:
    """Return the address of a file for a link in a notebook, "" where no link would work.

    JupyterLab and VS Code take one from the folder of the notebook, and serve files below it.
    """
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))
    folder = notebook.parent if notebook.is_absolute() else Path.cwd()
    try:
        return quote(path.resolve().relative_to(folder.resolve()).as_posix())
    except ValueError:  # it lies elsewhere
        return ""


def frame_of(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return a table as a pandas frame.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError(
            "a frame needs pandas. Type: pip install pandas (or use .table())."
        ) from None
    return pandas.DataFrame(list(rows))


class Display:
    """A display in a notebook, created by the first `show` and replaced by later ones."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, content: str, text: str) -> None:
        """Show HTML, or the plain text where HTML cannot be shown."""
        bundle = {"text/html": content, "text/plain": text}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Curve:
    """Values by step, averaged over equal stretches, so that a long run takes no more space."""

    def __init__(self) -> None:
        # stretch -> mean step, mean value, count
        self._means: dict[int, tuple[float, float, int]] = {}

    def add(self, step: int, value: float, total_steps: int) -> None:
        """Add a value, unless it is not finite."""
        if not math.isfinite(value):
            return
        stretch = step * MOST_POINTS // max(1, total_steps)
        x, y, count = self._means.get(stretch, (0.0, 0.0, 0))
        count += 1
        self._means[stretch] = (x + (step - x) / count, y + (value - y) / count, count)

    @property
    def points(self) -> list[tuple[float, float]]:
        """The means (step, value) in order."""
        return [(x, y) for x, y, _ in self._means.values()]


@dataclass
class Panel:
    """Curves over steps: {name: points}. The axis ends at `last_x`; `written` formats a value."""

    title: str
    curves: Mapping[str, Points]
    last_x: float
    written: Callable[[float], str] = field(default=lambda value: f"{value:.3g}")
    dots: bool = False


def picture(panels: Sequence[Panel], share: float) -> str:
    """Return an <img> with a bar filled to `share` (0..1) and panels side by side."""
    panels = [panel for panel in panels if any(panel.curves.values())]
    width = 2 * WIDTH + GAP
    height = 12 + (HEIGHT if panels else 0)
    filled = width * min(1.0, max(0.0, share))

    drawn = [
        f"<rect width='{width}' height='6' rx='3' fill='{GREY}' fill-opacity='.3'/>",
        f"<rect width='{filled:.1f}' height='6' rx='3' fill='{COLOURS[0]}'/>",
    ]
    for number, panel in enumerate(panels):
        drawn.append(f"<g transform='translate({number * (WIDTH + GAP)} 12)'>{_panel(panel)}</g>")
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}'>{''.join(drawn)}</svg>"
    )
    words = "; ".join(_alternative(panel) for panel in panels) or f"{share:.0%} done"
    source = base64.b64encode(svg.encode()).decode()

    return (
        f'<img src="data:image/svg+xml;base64,{source}" width="{width}" '
        f'style="max-width: 100%; height: auto" alt="{html.escape(words)}">'
    )


def _alternative(panel: Panel) -> str:
    last = [
        f"{name} {panel.written(points[-1][1])}" for name, points in panel.curves.items() if points
    ]
    return f"{panel.title}: {', '.join(last)} at last"


def _panel(panel: Panel) -> str:
    values = [y for points in panel.curves.values() for _, y in points]
    low = min(values)
    high = max(values)
    logarithmic = low > 0 and high / low > LOG_FROM
    scale = math.log if logarithmic else float
    bottom = scale(low)
    span = scale(high) - bottom
    right = WIDTH - RIGHT
    floor = HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        up = (scale(y) - bottom) / span if span > 0 else 0.5
        return LEFT + x / max(1.0, panel.last_x) * (right - LEFT), floor - up * (floor - TOP)

    drawn = [_text(LEFT, 12, panel.title + (", logarithmic" if logarithmic else ""), GREY)]
    for value in dict.fromkeys([low, high]):
        y = place(0, value)[1]
        drawn.append(f"<path d='M{LEFT} {y:.1f}H{right}' stroke='{GREY}' stroke-opacity='.4'/>")
        drawn.append(_text(LEFT - 5, y + 4, panel.written(value), GREY, "end"))
    drawn.append(_text(right, HEIGHT - 5, f"step {panel.last_x:,.0f}", GREY, "end"))
    for number, (name, points) in enumerate(panel.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn += _curve([place(x, y) for x, y in points], colour, panel.dots)
        if len(panel.curves) > 1:
            drawn.append(_text(LEFT + number * 130, HEIGHT - 5, name, colour))
    return "".join(drawn)


def _curve(places: Points, colour: str, dots: bool) -> list[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [
        f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.6' "
        "stroke-linejoin='round'/>"
    ]
    if dots or len(places) == 1:
        shown = places if len(places) <= 60 else places[-1:]
        drawn += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{colour}'/>" for x, y in shown]
    return drawn


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} fill='{colour}' text-anchor='{anchor}'>"
        f"{html.escape(text)}</text>"
    )

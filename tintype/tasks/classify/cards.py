"""Pictures on a classifier's report: samples with their predictions, and first-layer filters."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tintype.pages.figures import COLOURS, new_figure
from tintype.pages.pictures import THUMBNAIL, TINY, data_uri, enlarged, open_picture, png_bytes
from tintype.pages.print_figures import STYLE, ShownFigure, short
from tintype.runs.reading import RunFiles

COLUMNS = 6  # of pictures in a figure


@dataclass(frozen=True)
class Card:
    """A picture with what it is and what it was taken for."""

    image: Image.Image
    name: str
    target: str
    prediction: str
    confidence: float
    correct: bool

    @property
    def tiny(self) -> bool:
        return max(self.image.size) < TINY

    @property
    def alt(self) -> str:
        verdict = "rightly" if self.correct else f"true class {self.target}, wrongly"
        return (
            f"{self.name}: {verdict} taken for {self.prediction} "
            f"with {self.confidence:.0%} confidence"
        )

    @property
    def uri(self) -> str:
        """The picture as a data URI: PNG where it is tiny, else JPEG, which takes a tenth of the
        space.
        """
        if self.tiny:
            return data_uri(png_bytes(self.image))
        buffer = io.BytesIO()
        self.image.convert("RGB").save(buffer, format="JPEG", quality=85)
        return data_uri(buffer.getvalue(), "image/jpeg")


def read_cards(
    folder: Path, entries: Iterable[Mapping[str, Any]], largest: int = THUMBNAIL
) -> list[Card]:
    """Read the pictures that `entries` of samples.json name.

    They have at most `largest` pixels a side; what cannot be read is left out. Only files that lie
    in `folder` itself are read, whatever path an entry holds: run folders are passed around.
    """
    cards = []
    for entry in entries:
        image = open_picture(folder / Path(str(entry.get("file", ""))).name, largest)
        if image is None:
            continue
        target, prediction = str(entry.get("target", "")), str(entry.get("prediction", ""))
        confidence = float(entry.get("confidence") or 0.0)
        correct = bool(entry.get("correct", target == prediction))
        cards.append(
            Card(image, str(entry.get("name", "")), target, prediction, confidence, correct)
        )

    return cards


def filter_sheet(weights: np.ndarray, max_filters: int = 128) -> Image.Image:
    """Lay out first-layer filters (O, I, kh, kw), I of 1 or 3, on a transparent sheet.

    Each weight has 4 x 4 pixels. Each filter is scaled by its own largest weight, with zero at
    middle grey.
    """
    weights = weights[:max_filters]
    scale = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    pixels = 127.5 + 127.5 * weights / np.where(scale > 0, scale, 1)
    pixels = (
        np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))
        .transpose(0, 2, 3, 1)
        .round()
        .astype(np.uint8)
    )
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)
    height, width = pixels.shape[1:3]
    columns = min(len(pixels), max(8, math.ceil(math.sqrt(2 * len(pixels)))))
    rows, gap = -(-len(pixels) // columns), 3

    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, pixel in enumerate(pixels):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = pixel
        sheet[top : top + height, left : left + width, 3] = 255

    return Image.fromarray(sheet)


@matplotlib.rc_context(STYLE)
def print_grid(cards: Sequence[Card], columns: int = COLUMNS) -> Figure:
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


def picture_grid(cards: list[Card], columns: int = COLUMNS) -> go.Figure:
    """Draw pictures in rows, each with its true class and what it was taken for below it."""
    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    figure = new_figure(height=60 + 165 * rows)
    places = [(i % columns, -(i // columns)) for i in range(len(cards))]
    said = [
        f"{html.escape(c.target)} → {html.escape(c.prediction)}<br>{c.confidence:.0%}"
        for c in cards
    ]
    text = [f"<b>{html.escape(c.name)}</b><br>{line}" for c, line in zip(cards, said, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers",
            marker={"opacity": 0, "size": 60},
            hovertext=text,
            hoverinfo="text",
            showlegend=False,
        )
    )

    for card, (x, y), line in zip(cards, places, said, strict=True):
        figure.add_layout_image(
            source=_source(card),
            xref="x",
            yref="y",
            x=x,
            y=y,
            sizex=0.9,
            sizey=0.72,
            xanchor="center",
            yanchor="middle",
        )
        place = {"x": x, "y": y - 0.37, "yanchor": "top", "showarrow": False}
        figure.add_annotation(text=line, font={"size": 11}, **place)

    bare = {
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "fixedrange": True,
    }
    figure.update_layout(
        xaxis={**bare, "range": [-0.6, columns - 0.4]},
        yaxis={**bare, "range": [-rows + 0.3, 0.5]},
        margin={"t": 8},
    )
    return figure


def _source(card: Card) -> str:
    """Return a picture as a data URI; Plotly would smooth a tiny one, so it is enlarged before."""
    return data_uri(png_bytes(enlarged(card.image, 128))) if card.tiny else card.uri


def first_layer(run: RunFiles) -> np.ndarray | None:
    """Return the first convolution's weights (O, I, kh, kw), I of 1 or 3, or None where they cannot
    be shown.
    """
    name, path = run.model.get("first_layer"), run.folder / "model.safetensors"
    if not name or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as tensors:
            weights = np.asarray(tensors.get_tensor(name), dtype=np.float32)
    # a broken file, or a type that NumPy lacks (bfloat16)
    except (SafetensorError, OSError, TypeError, ValueError):
        return None
    can_be_shown = weights.ndim == 4 and weights.shape[1] in (1, 3) and min(weights.shape[2:]) > 1
    return weights if can_be_shown and np.isfinite(weights).all() else None

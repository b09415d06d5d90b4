"""A run in a notebook: its figures as Plotly or Matplotlib objects, and a small card."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.errors import UserError
from tintype.pages import figures, print_figures, words
from tintype.pages.drawings import Library, check_library
from tintype.pages.pages import templates
from tintype.pages.pictures import Card, data_uri, enlarged, png_bytes, read_cards
from tintype.pages.section import SPLIT_NAMES
from tintype.runs.reading import RunFiles, read_run
from tintype.tasks.generate import report as generate_sections
from tintype.tasks.upscale import report as upscale_sections

COLUMNS = 6  # of pictures


class RunFigures:
    """The figures of a run's report, each as a Plotly figure, or as a Matplotlib figure where
    `library` says so.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def history(self, library: Library = "plotly", *, smooth: bool = True) -> go.Figure | Figure:
        """Draw losses, validation figures and learning rate over the training.

        What was measured on training batches is drawn smoothed, over a faint line of what it was;
        with `smooth=False` every value that was logged is drawn as it is: both losses of a GAN at
        every step.

        Raises:
            UserError: nothing has been logged yet, or an unknown library.
        """
        run = self._read(library)
        arrange = {
            "generate": generate_sections.history_panels,
            "upscale": upscale_sections.history_panels,
        }
        panels = arrange.get(run.task, figures.history_panels)(run.metrics, smooth=smooth)
        if not panels:
            raise UserError(f"{self.folder} has no history: nothing has been logged yet.")

        x = "step" if run.task == "generate" or not run.metrics.get("epoch") else "epoch"
        return (
            figures.history(panels, x) if library == "plotly" else print_figures.history(panels, x)
        )

    def confusion(self, library: Library = "plotly") -> go.Figure | Figure:
        """Draw the confusion matrix of the test split.

        Raises:
            UserError: the run is no finished classifier, or an unknown library.
        """
        run = self._read(library)
        matrix = run.evaluated("confusion")
        if not matrix:
            raise UserError(
                f"{self.folder} has no confusion matrix: it is no classifier, or it is not finished."
            )
        draw = figures.confusion if library == "plotly" else print_figures.confusion
        return draw(matrix, run.class_names)

    def mistakes(self, library: Library = "plotly") -> go.Figure | Figure:
        """Show the mistakes on test images that the model was surest of.

        Raises:
            UserError: the run is no finished classifier, made no mistake, or an unknown library.
        """
        run = self._read(library)
        cards = read_cards(run.folder / "samples", run.samples.get("worst") or [])
        if not cards:
            raise UserError(
                f"{self.folder} has no mistakes to show: it is no classifier, not finished, or made none."
            )
        return (
            picture_grid(cards)
            if library == "plotly"
            else print_figures.picture_grid(cards, COLUMNS)
        )

    def _read(self, library: str) -> RunFiles:
        check_library(library)
        return read_run(self.folder)


def picture_grid(cards: list[Card], columns: int = COLUMNS) -> go.Figure:
    """Draw pictures in rows, each with its true class and what it was taken for below it."""
    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    figure = figures.new_figure(height=60 + 165 * rows)
    places = [(i % columns, -(i // columns)) for i in range(len(cards))]
    said = [
        f"{html.escape(c.target)} → {html.escape(c.prediction)}<br>{c.confidence:.0%}"
        for c in cards
    ]
    text = [f"<b>{html.escape(c.name)}</b><br>{line}" for c, line in zip(cards, said, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in places], y=[y for _, y in places], mode="markers", marker={"opacity": 0, "size": 60},
            hovertext=text, hoverinfo="text", showlegend=False,
        )
    )  # fmt: skip

    for card, (x, y), line in zip(cards, places, said, strict=True):
        figure.add_layout_image(
            source=_source(card), xref="x", yref="y", x=x, y=y, sizex=0.9, sizey=0.72, xanchor="center", yanchor="middle"
        )  # fmt: skip
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


def run_card(folder: Path) -> str:
    """Return a run as a small piece of HTML: its figures with intervals, the verdict, and where the
    report lies.
    """
    run = read_run(folder)
    splits = run.evaluation.get("splits") or {}
    rows = [
        (SPLIT_NAMES[name], *_figure(splits[name]))
        for name in ("test", "val", "train")
        if name in splits
    ]
    report = folder / "report.html"
    context = {
        "run": run, "rows": rows, "verdict": (run.evaluation.get("verdict") or {}).get("text"),
        "report": report.as_posix() if report.is_file() else "", "state": run.status.get("state", "empty"),
    }  # fmt: skip

    return templates().get_template("run_card.html").render(**context)


def _figure(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Return the figure of a split that counts, and its interval, in words."""
    if "accuracy" in figures:
        return f"accuracy {words.percent(figures['accuracy'])}", words.interval(
            figures.get("accuracy_ci95")
        )
    if "psnr_y" in figures:
        interval = figures.get("gain_ci95")
        gain = f"gain {figures['gain']:+.2f} dB" + (
            f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
        )
        return f"PSNR {figures['psnr_y']:.2f} dB", gain

    name = next(
        (key for key in figures if key.startswith(("fid", "fd_")) and not key.endswith("_floor")),
        "",
    )
    if not name:
        return "", ""

    floor = figures.get(f"{name}_floor")
    return (
        f"{name} {figures[name]:.4g}",
        f"real against real {floor:.4g}" if floor is not None else "",
    )

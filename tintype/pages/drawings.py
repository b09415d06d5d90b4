"""Figures that are drawn when they are asked for: as an object of either library, or as PNG and SVG
files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.pages import print_figures
from tintype.pages.print_figures import MARKS
from tintype.pages.section import Chart

Library = Literal["plotly", "matplotlib"]


@dataclass(frozen=True)
class Drawing:
    """A figure under the name of its files: what it shows, and how each library draws it."""

    name: str
    alt: str
    plotly: Callable[[], go.Figure]
    matplotlib: Callable[[], Figure]

    def draw(self, library: Library = "plotly") -> go.Figure | Figure:
        """Draw it.

        Raises:
            UserError: an unknown library.
        """
        check_library(library)
        return self.plotly() if library == "plotly" else self.matplotlib()

    def chart(self, *, legend: bool = True) -> Chart:
        """Return it as a part of a page, which may have a legend of its own."""
        figure = self.plotly()
        if not legend:
            figure.update_layout(showlegend=False)
        return Chart(self.name, figure, print_figures.png(self.matplotlib()), self.alt)


def check_library(library: str) -> None:
    """Refuse a library that draws nothing here.

    Raises:
        UserError: it is neither plotly nor matplotlib.
    """
    if library not in ("plotly", "matplotlib"):
        raise UserError(f"unknown library '{library}'. Expected plotly or matplotlib.")


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """Raise where figures could not be written into a folder.

    Raises:
        UserError: a file has the folder's name, a file that tintype did not write has the name of a
            figure, or nothing
            may be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Expected a folder for the figures.")
    for path in (folder / f"{name}.{ending}" for name in names for ending in MARKS):
        if path.is_dir() or (path.exists() and not _is_ours(path)):
            raise UserError(
                f"{path} is there already and was not written by tintype. Choose another folder."
            )

    parent = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"cannot write figures to {folder}: nothing may be written in {parent}. "
            "Choose another folder."
        )


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return MARKS[path.suffix[1:]] in file.read(2000)


def write_drawings(folder: Path, drawings: Sequence[Drawing]) -> list[Path]:
    """Write each figure as PNG and SVG and return the paths. The same figures give the same bytes.

    Raises:
        UserError: as `check_folder`; nothing is written then.
    """
    check_folder(folder, [drawing.name for drawing in drawings])
    written = []
    for drawing in drawings:
        figure = drawing.matplotlib()
        for ending, content in (
            ("png", print_figures.png(figure)),
            ("svg", print_figures.svg(figure)),
        ):
            path = folder / f"{drawing.name}.{ending}"
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
            written.append(path)

    return written

"""A run in a notebook: its figures as Plotly or Matplotlib objects, and a small card."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.figure import Figure

from tintype.errors import UserError
from tintype.interface.notebook import link_to
from tintype.pages.drawings import Library, check_library
from tintype.pages.pages import templates
from tintype.pages.part import report_part
from tintype.pages.section import SPLIT_NAMES
from tintype.runs.reading import RunFiles, read_run
from tintype.runs.summary import summary_part


class RunFigures:
    """The figures of a run's report, as Plotly figures, or as Matplotlib figures on request.

    Besides `history`, each task offers figures of its own: a classifier has `confusion` and
    `mistakes`. `names` lists them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def names(self) -> list[str]:
        """The names of the figures that a run of this task can have."""
        return ["history", *report_part(read_run(self.folder).task).FIGURES]

    def history(self, library: Library = "plotly", *, smooth: bool = True) -> go.Figure | Figure:
        """Draw losses, validation figures and learning rate over the training.

        What was measured on training batches is drawn smoothed, over a faint line of the values
        themselves; with `smooth=False` every value is drawn as it was logged: both losses of a GAN
        at every step.

        Raises:
            UserError: nothing has been logged yet, or an unknown library.
        """
        run = self._read(library)
        drawing = report_part(run.task).draw_history(run, smooth=smooth)
        if drawing is None:
            raise UserError(f"{self.folder} has no history: nothing has been logged yet.")
        return drawing.draw(library)

    def draw(self, name: str, library: Library = "plotly") -> go.Figure | Figure:
        """Draw one of the figures in `names`.

        Raises:
            UserError: runs of this task have no such figure, this run has nothing to show in it
                (yet), or an unknown library.
        """
        if name == "history":
            return self.history(library)

        run = self._read(library)
        makers = report_part(run.task).FIGURES
        if name not in makers:
            raise UserError(
                f"runs of task {run.task} have no figure '{name}'. They have "
                f"{', '.join(self.names)}."
            )

        drawing = makers[name](run)
        if drawing is None:
            raise UserError(
                f"{self.folder} has nothing to show under '{name}': "
                "it is not finished, or has none."
            )
        return drawing.draw(library)

    def __getattr__(self, name: str) -> Callable[..., go.Figure | Figure]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self.draw, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names]

    def _read(self, library: str) -> RunFiles:
        check_library(library)
        return read_run(self.folder)


def run_card(folder: Path) -> str:
    """Return a run as a small piece of HTML: figures, verdict, and a link to the report."""
    run = read_run(folder)
    part = summary_part(run.task)
    rows = [
        (SPLIT_NAMES[name], *part.in_words(figures))
        for name, figures in run.splits.items()
        if part is not None
    ]
    report = folder / "report.html"
    context = {
        "run": run,
        "rows": rows,
        "verdict": (run.evaluation.get("verdict") or {}).get("text"),
        "report": report.resolve() if report.is_file() else "",
        "link": link_to(report),
        "state": run.status.get("state", "empty"),
    }

    return templates().get_template("run_card.html").render(**context)

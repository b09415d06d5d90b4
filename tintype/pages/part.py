"""What the report part of a task offers, and where it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from tintype import plugins
from tintype.pages import sections
from tintype.pages.drawings import Drawing
from tintype.pages.section import Section
from tintype.runs.reading import RunFiles

MakeSection = Callable[[RunFiles], Section | None]


class ReportPart(Protocol):
    """The module `tasks/NAME/report.py`; it must not import PyTorch.

    Attributes:
        SECTIONS: the page in its order; each function returns None where it has nothing to show.
            Those that every run can have (`warnings`, `range_test`, `making`) come from
            `tintype.pages.sections`. A template of the task lies in `tasks/NAME/templates/` and is
            named "NAME/FILE.html".
        FIGURES: what `run.figures` offers besides the training curves, by name; None where a run
            has nothing to draw.
    """

    SECTIONS: Sequence[MakeSection]
    FIGURES: Mapping[str, Callable[[RunFiles], Drawing | None]]

    def draw_history(self, run: RunFiles, *, smooth: bool = True) -> Drawing | None:
        """Return the training curves; without `smooth`, every value as it was logged."""
        ...


def report_part(task: str) -> ReportPart:
    """Return the report part of a task, or the common one where the task brings none."""
    brought = plugins.is_there(task, "report")
    part = plugins.find_part(task, "report", "have a report") if brought else sections
    return cast(ReportPart, part)

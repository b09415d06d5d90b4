"""Turn a run folder into one self-contained HTML page, with static figures for papers beside it.

The page needs no network: styles, scripts, pictures and Plotly's JavaScript (compressed, about 2
MB) are inside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from tintype import plugins
from tintype.files.whole import written_whole
from tintype.pages.pages import render_page, templates
from tintype.pages.part import report_part
from tintype.pages.section import Section
from tintype.pages.sections import warnings
from tintype.runs.reading import RunFiles, files_beside, read_run
from tintype.runs.shapes import MISFIT

__all__ = ["write_report"]

FILES = (
    "recipe.yaml",
    "environment.json",
    "data.json",
    "metrics.csv",
    "evaluation.json",
    "analysis.json",
    "predictions.csv",
    "model.json",
    "model.safetensors",
    "graph.onnx",
)


def write_report(folder: Path) -> Path:
    """Write `report.html` and `figures/*.png` into a run folder; return the page's path.

    They are made from its plain files alone. What is missing (no samples, no filters, a run that is
    not finished) leaves its section out. The page and the figures are written under a temporary
    name and renamed, so that a reader never sees half of one.

    Raises:
        UserError: `folder` is not a run folder, or cannot be written to.
    """
    run = read_run(Path(folder))
    sections = _sections(run)
    for section in sections:
        for name, content in section.static.items():
            with written_whole(run.folder / "figures" / f"{name}.png") as temporary:
                temporary.write_bytes(content)
    page = run.folder / "report.html"
    with written_whole(page) as temporary:
        temporary.write_text(render(run, sections), encoding="utf-8")
    return page


def _sections(run: RunFiles) -> list[Section]:
    """Return the sections that have something to show.

    What a damaged file spoils is left out, with a line in `warnings`.
    """
    makers = report_part(run.task).SECTIONS
    made: dict[Any, Section | None] = {}

    problems = list(run.problems)
    for make in (each for each in makers if each is not warnings):
        try:
            made[make] = _rendered(make(run))
        except (*MISFIT, TemplateError) as error:  # what no description of a file can foresee
            what = make.__name__.replace("_", " ")
            problems.append(
                f"the section on {what} is left out, since files of the run are damaged "
                f"({type(error).__name__}: {error})"
            )

    made[warnings] = _rendered(warnings(replace(run, problems=tuple(problems))))
    return [section for make in makers if (section := made.get(make))]


def _rendered(section: Section | None) -> Section | None:
    """Return a section with its body, so that a value which its template cannot show spoils no
    other section.
    """
    if section is None:
        return None
    body = templates().get_template(section.template).render(s=section.context)
    return replace(section, body=Markup(body))


def render(run: RunFiles, sections: list[Section]) -> str:
    """Return the page of a run as HTML."""
    figures = sorted(f"figures/{name}.png" for section in sections for name in section.static)
    files = [*files_beside(run, FILES), *figures]
    title = plugins.task_title(run.task)
    return render_page("page.html", sections, run=run, title=title, files=files)

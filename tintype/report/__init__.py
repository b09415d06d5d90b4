"""Turn a run folder into one self-contained HTML page, with static figures for papers beside it.

The page needs no network: styles, scripts, pictures and Plotly's JavaScript (compressed, about 2 MB) are inside it.
"""

from __future__ import annotations

from pathlib import Path

from tintype.report.folder import RunFiles, files_beside, read_run
from tintype.report.pages import render_page
from tintype.report.section import Section
from tintype.report.sections import COMMON, SECTIONS
from tintype.run import written_whole

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
)


def write_report(folder: Path) -> Path:
    """Write `report.html` and `figures/*.png` into a run folder from its plain files alone; return the page's path.

    What is missing (no samples, no filters, a run that is not finished) leaves its section out. The page and the
    figures are written under a temporary name and renamed, so that a reader never sees half of one.

    Raises:
        UserError: `folder` is not a run folder, or cannot be written to.
    """
    run = read_run(Path(folder))
    sections = [section for make in SECTIONS.get(run.task, COMMON) if (section := make(run))]
    for section in sections:
        for name, content in section.static.items():
            with written_whole(run.folder / "figures" / f"{name}.png") as temporary:
                temporary.write_bytes(content)
    page = run.folder / "report.html"
    with written_whole(page) as temporary:
        temporary.write_text(render(run, sections), encoding="utf-8")
    return page


def render(run: RunFiles, sections: list[Section]) -> str:
    """Return the page of a run as HTML."""
    figures = sorted(f"figures/{name}.png" for section in sections for name in section.static)
    return render_page("page.html", sections, run=run, files=[*files_beside(run, FILES), *figures])

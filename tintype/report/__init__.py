"""Turn a run folder into one self-contained HTML page, with static figures for papers beside it.

The page needs no network: styles, scripts, pictures and Plotly's JavaScript (compressed, about 2 MB) are inside it.
"""

from __future__ import annotations

import base64
import gzip
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from tintype.report import words
from tintype.report.folder import RunFiles, files_beside, read_run
from tintype.report.section import Section
from tintype.report.sections import COMMON, SECTIONS
from tintype.run import written_whole

__all__ = ["write_report"]


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
    """Return the page as HTML."""
    has_charts = any(section.context.get("chart") for section in sections)
    figures = sorted(f"figures/{name}.png" for section in sections for name in section.static)
    files = (
        "recipe.yaml",
        "environment.json",
        "data.json",
        "metrics.csv",
        "evaluation.json",
        "analysis.json",
        "predictions.csv",
        "model.json",
    )
    return (
        _templates()
        .get_template("page.html")
        .render(
            run=run,
            sections=sections,
            plotly=compressed_plotly() if has_charts else "",
            files=[*files_beside(run, [*files, "model.safetensors"]), *figures],
        )
    )


@lru_cache(maxsize=1)
def compressed_plotly() -> str:
    """Return Plotly's JavaScript, gzip and base64; the page unpacks it with the browser's DecompressionStream."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, compresslevel=9, mtime=0)).decode("ascii")


@lru_cache(maxsize=1)
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tintype.report", "templates"),
        autoescape=True,  # in every template: names of classes, files and runs come from the user
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        name: getattr(words, name)
        for name in (
            "percent",
            "interval",
            "points",
            "number",
            "magnitude",
            "duration",
            "date",
            "times",
            "plural",
            "short_interval",
        )
    }
    environment.filters.update(filters)
    return environment

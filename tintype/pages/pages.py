"""Pages: the one Jinja environment, and what a page of sections is made from."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, PrefixLoader

from tintype import plugins
from tintype.errors import UserError
from tintype.files.whole import written_whole
from tintype.pages import words
from tintype.pages.section import Section
from tintype.progress import epochs

FILTERS = (
    "percent",
    "interval",
    "points",
    "number",
    "fixed",
    "magnitude",
    "duration",
    "date",
    "times",
    "plural",
    "short_interval",
)


@lru_cache(maxsize=1)
def templates() -> Environment:
    """Return the environment of all templates.

    Every value is escaped, and the functions of `pages.words` are filters. A template of a task is
    named with its task: "NAME/FILE.html" lies in `tasks/NAME/templates/`.
    """
    of_tasks = {
        folder.parent.name: FileSystemLoader(folder)
        for folder in plugins.PACKAGE.glob("tasks/*/templates")
    }
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("tintype.pages", "templates"), PrefixLoader(of_tasks)]),
        autoescape=True,  # in every template: names of classes, files and runs come from the user
        trim_blocks=True,
        lstrip_blocks=True,
    )

    filters: dict[str, Any] = {name: getattr(words, name) for name in FILTERS}
    environment.filters.update(filters, epochs=epochs)
    return environment


def render_page(template: str, sections: Sequence[Section] = (), **context: Any) -> str:
    """Return a page that extends base.html, with Plotly inside it where a section has charts.

    A section tells of its charts by `chart` (one) or `charts` (a list) in its context.
    """
    has_charts = any(
        section.context.get("chart") or section.context.get("charts") for section in sections
    )
    plotly = compressed_plotly() if has_charts else ""
    return templates().get_template(template).render(sections=sections, plotly=plotly, **context)


def write_sections(
    path: Path, title: str, standfirst: Sequence[str], sections: Sequence[Section], *, made_by: str
) -> Path:
    """Write a page of sections and return its path.

    An earlier page by the same command is replaced.

    Args:
        path: where to write; its folder is made.
        title: the heading.
        standfirst: short facts below it.
        sections: what stands on the page.
        made_by: the command, as "tintype compare"; kept in the page, so that it is known again.

    Raises:
        UserError: there is something else at `path`, or it cannot be written.
    """
    check_replaceable(path, made_by)
    page = render_page(
        "sections.html", sections, title=title, standfirst=standfirst, made_by=made_by
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def check_replaceable(path: Path, made_by: str) -> None:
    """Raise where a page by the command `made_by` could not be written to `path`.

    Raises:
        UserError: a folder or a file that the command did not write is there, or nothing may be
            written there.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Expected a file, such as {path / 'comparison.html'}.")
    if path.exists():
        with path.open("rb") as file:
            ours = f'name="generator" content="{made_by}"'.encode() in file.read(2000)
        if not ours:
            raise UserError(
                f"{path} is there already and was not written by `{made_by}`. Choose another file."
            )

    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"cannot write {path}: nothing may be written in {parent}. Choose another file."
        )


@lru_cache(maxsize=1)
def compressed_plotly() -> str:
    """Return Plotly's JavaScript, gzip and base64; the page unpacks it with the browser's
    DecompressionStream.
    """
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, compresslevel=5, mtime=0)).decode("ascii")
